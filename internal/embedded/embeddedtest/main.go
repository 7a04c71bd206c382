package embeddedtest

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main is [Run] for a package that has nothing else to clean up. It does not return.
func Main(m *testing.M, options ...goleak.Option) { os.Exit(Run(m, options...)) }

// Run runs the tests of a package, stops the shared PostgreSQL server and, when all passed, fails the package if it left
// goroutines behind. It returns the exit code.
func Run(m *testing.M, options ...goleak.Option) (code int) {
	code = m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop test servers:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}
