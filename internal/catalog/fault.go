package catalog

import (
	"fmt"
	"strings"
)

// maxFaultsShown bounds what Faults.Error prints: a file of thousands of servers can be wrong thousands of times.
const maxFaultsShown = 20

// Fault is one thing that is wrong with a declaration.
type Fault struct {
	// Path to what is wrong, such as servers[3].checks[0].timeout; the variable's name for the environment.
	Path string
	// Message says what is wrong and what would be right, without the path.
	Message string
	// File, Line and Column are where it stands, when it was read from a file; both numbers count from 1.
	File         string
	Line, Column int
}

// Error is `file:line:column: path: message`, without what is not known.
func (f Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		fmt.Fprintf(&b, "%s:%d:%d: ", f.File, f.Line, f.Column)
	}
	if f.Path != "" {
		b.WriteString(f.Path)
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Faults are all the things that are wrong with one declaration, in its order. It is an error when not empty; see
// [Faults.Err].
type Faults []Fault

// Error is one line a fault, at most 20 of them.
func (f Faults) Error() string {
	var b strings.Builder
	for i, fault := range f {
		if i == maxFaultsShown {
			fmt.Fprintf(&b, "\nand %d more", len(f)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(fault.Error())
	}
	return b.String()
}

// Err is nil when there are no faults.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

func (f *Faults) add(path, format string, args ...any) {
	*f = append(*f, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}
