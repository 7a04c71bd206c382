package system_test

import (
	"os"
	"regexp"
	"testing"
	"time"
)

// fault is one way to break a deployment.
type fault struct {
	name string
	// possible reports whether the deployment has what is broken; nil: every one has.
	possible func(d deployment) bool
	// inject breaks it and returns what mends it again, which may also have mended itself.
	inject func(t *testing.T, d deployment) (mend func())
}

// wanted reports whether a fault is to be tried: its name matches PICKET_FAULTS, a regular expression that is for working on one.
func (f fault) wanted(t *testing.T) bool {
	t.Helper()
	pattern, err := regexp.Compile(os.Getenv("PICKET_FAULTS"))
	if err != nil {
		t.Fatalf("PICKET_FAULTS: %v", err)
	}
	return pattern.MatchString(f.name)
}

// inFamily skips a family of faults unless it is asked for: all of them together take half an hour of mostly waiting, which
// is what `make faults` is for.
func inFamily(t *testing.T) {
	t.Helper()
	if os.Getenv("PICKET_FAULTS") == "" && os.Getenv("PICKET_FAULT_SECONDS") == "" {
		t.Skip("NOT RUN: a family of faults takes minutes: make faults")
	}
}

// faultLength is how long a fault lasts whose length matters: PICKET_FAULT_SECONDS, else 15 s.
func faultLength(t *testing.T) time.Duration {
	t.Helper()
	if length := faultFor(t); length > 0 {
		return length
	}
	return 15 * time.Second
}
