package bus

import (
	"context"
	"time"
)

// retry is the pause between tries of something that is to go on for ever: it grows while they fail at once, and is short
// again after one that lasted.
type retry struct {
	wait  time.Duration
	began time.Time
}

// begin notes that a try begins.
func (r *retry) begin() { r.began = time.Now() }

// pause waits until the next; false when ctx ended first.
func (r *retry) pause(ctx context.Context) bool {
	if r.wait == 0 || time.Since(r.began) > retryWaitMax {
		r.wait = retryWaitMin
	} else {
		r.wait = min(2*r.wait, retryWaitMax)
	}
	return sleep(ctx, r.wait)
}
