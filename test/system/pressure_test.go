package system_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// strain tells a machine that is too busy for what runs on it from a Picket that is too slow: by the time for which
// somebody has waited for a processor, as the kernel counts it. What the deployment itself asks for counts too, but asleep
// or blocked nobody waits for a processor: a Picket that stands still excuses nothing, one that spins could.
type strain struct {
	from   time.Time
	waited time.Duration
}

// measureStrain begins a span.
func measureStrain() strain {
	waited, _ := waitedForProcessor()
	return strain{time.Now(), waited}
}

// strained is the share of a span from which on the machine counts as too busy: a choice, more than half.
const strained = 0.7

// over reports whether somebody waited for most of the span. Where the kernel does not say, nothing excuses.
func (s strain) over(t *testing.T) bool {
	t.Helper()
	waited, ok := waitedForProcessor()
	share := (waited - s.waited).Seconds() / time.Since(s.from).Seconds()
	if !ok || share < strained {
		return false
	}
	t.Logf("THE MACHINE IS TOO BUSY: for %.0f %% of the time somebody waited for a processor; ticks skipped for want of time are excused", 100*share)
	return true
}

// waitedForProcessor is how long any process has waited for one since the machine started.
func waitedForProcessor() (time.Duration, bool) {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var a, b, c float64
	var total int64
	if _, err := fmt.Sscanf(line, "some avg10=%f avg60=%f avg300=%f total=%d", &a, &b, &c, &total); err != nil {
		return 0, false
	}
	return time.Duration(total) * time.Microsecond, true
}

// wantOfTime are the reasons of ticks that a process which is not let run skips, or has no time left to read the answer of.
func wantOfTime(reason string) bool {
	return slices.Contains([]string{"missed", "missed_suspended", "own_fault"}, reason)
}
