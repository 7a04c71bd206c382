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

// wanted reports whether a fault is to be tried: its name matches PICKET_FAULTS, a regular expression that is for working on
// one. Empty matches all.
func (f fault) wanted(t *testing.T) bool {
	t.Helper()
	pattern, err := regexp.Compile(os.Getenv("PICKET_FAULTS"))
	if err != nil {
		t.Fatalf("PICKET_FAULTS: %v", err)
	}
	return pattern.MatchString(f.name)
}

// asked reports whether the families of faults are to be tried whole, in all deployments: all of them together take half an
// hour of mostly waiting, which is what `make faults` is for.
func asked() bool {
	return os.Getenv("PICKET_FAULTS") != "" || os.Getenv("PICKET_FAULT_SECONDS") != ""
}

// inFamily skips a family of which not even one fault is cheap, unless it is asked for.
func inFamily(t *testing.T) {
	t.Helper()
	if !asked() {
		t.Skip("NOT RUN: this family of faults takes minutes: make faults")
	}
}

// sample is which of its faults a family tries while it is not asked for as a whole: the one that says most, in one deployment.
type sample struct{ fault, in string }

// crowd is how many servers there are: fewer where other tests run beside.
func crowd(whole int) int {
	if asked() {
		return whole
	}
	return 30
}

// only skips the other deployments.
func (s sample) only(t *testing.T, deployment string) {
	t.Helper()
	if !asked() && deployment != s.in {
		t.Skip("NOT RUN: this family of faults takes minutes here: make faults")
	}
}

// wants reports whether a fault is to be tried.
func (s sample) wants(t *testing.T, one fault) bool {
	t.Helper()
	if !asked() {
		return one.name == s.fault
	}
	return one.wanted(t)
}

// faultLength is how long a fault lasts whose length matters: PICKET_FAULT_SECONDS, else 15 s.
func faultLength(t *testing.T) time.Duration {
	t.Helper()
	if length := faultFor(t); length > 0 {
		return length
	}
	return 15 * time.Second
}
