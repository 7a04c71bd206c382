package bus

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestRetry: what fails at once is tried ever less often, and what lasted is tried again soon.
func TestRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r retry
		tries := 0
		for end := time.Now().Add(time.Minute); time.Now().Before(end); tries++ {
			r.begin()
			if !r.pause(t.Context()) {
				t.Fatal("ended")
			}
		}
		if tries < 30 || tries > 36 {
			t.Errorf("%d tries in a minute", tries)
		}
		r.begin()
		time.Sleep(3 * retryWaitMax) // the bubble's clock
		began := time.Now()
		if r.pause(t.Context()); time.Since(began) != retryWaitMin {
			t.Errorf("after one that lasted it waits %s", time.Since(began))
		}
	})
}
