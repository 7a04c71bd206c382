package tick

import (
	"sync"
	"time"
)

const (
	// StepThreshold is the error from which on a clock steps instead of slewing.
	StepThreshold = 250 * time.Millisecond
	// slewDivisor bounds the slew: one part in 20, so that the largest error
	// that is slewed is gone after 5 s and no second is shorter than 0.95 s.
	slewDivisor = 20
)

// Clock tells the time of the NATS server: a local monotonic clock and a
// correction to it. It runs on when the host's wall clock is set, and follows
// the server by small measured corrections. It is safe for concurrent use.
type Clock struct {
	mono func() time.Duration

	mu sync.Mutex
	// The clock read base when the monotonic clock read at; what is left of the
	// correction then is slew.
	base, at, slew time.Duration
}

// Step is a jump of a [Clock]: it read FromMS, and read ToMS in the same moment.
type Step struct {
	FromMS, ToMS int64
}

// NewClock returns a clock that reads wall now. The function mono must be a
// monotonic clock, from any origin, that is safe for concurrent use.
func NewClock(wall time.Time, mono func() time.Duration) *Clock {
	return &Clock{mono: mono, base: time.Duration(wall.UnixNano()), at: mono()}
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Unix(0, int64(c.read(c.mono()))).UTC()
}

// NowMS returns the time in milliseconds since the Unix epoch.
func (c *Clock) NowMS() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read(c.mono()).Milliseconds()
}

// Observe corrects the clock by a measurement: the server was ahead of this
// clock (negative: behind) by that much. A small error is slewed, so that time
// neither jumps nor stands still; an error of [StepThreshold] and more is
// stepped at once and reported. A new measurement replaces what was left of the
// one before.
func (c *Clock) Observe(ahead time.Duration) (Step, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.mono()
	c.base, c.at, c.slew = c.read(now), now, 0
	if ahead.Abs() < StepThreshold {
		c.slew = ahead
		return Step{}, false
	}
	step := Step{FromMS: c.base.Milliseconds()}
	c.base += ahead
	step.ToMS = c.base.Milliseconds()
	return step, true
}

func (c *Clock) read(mono time.Duration) time.Duration {
	elapsed := mono - c.at
	bound := elapsed / slewDivisor
	return c.base + elapsed + max(-bound, min(bound, c.slew))
}
