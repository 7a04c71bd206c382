package embedded_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// childVariable makes this test binary a program that starts PostgreSQL on the directory it names and waits to be
// killed.
const childVariable = "PICKET_EMBEDDED_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
	}
	code := embeddedtest.Run(m)
	if err := prepared.remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func child(dir string) {
	postgres, err := embedded.StartPostgres(context.Background(), embedded.PostgresOptions{DataDir: dir, Disposable: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := fmt.Fprintln(os.Stdout, postgres.PID()); err != nil {
		os.Exit(1)
	}
	<-postgres.Done()
	os.Exit(1)
}
