package system_test

import (
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

// faultLength is how long a fault lasts whose length matters: PICKET_FAULT_SECONDS, else 15 s.
func faultLength(t *testing.T) time.Duration {
	t.Helper()
	if length := faultFor(t); length > 0 {
		return length
	}
	return 15 * time.Second
}
