package ticker

import (
	"math"
	"slices"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/tick"
)

const (
	// mostLateMS and mostEarlyMS are how far a tick may lie from the stream's time.
	mostLateMS  = int64(bus.MostLate / 1e6)
	mostEarlyMS = int64(bus.MostEarly / 1e6)
	// mostLived bounds what is remembered of a clock that does not stop stepping.
	mostLived = 64
)

// past is what is known of a clock that has been set: since when it runs without
// a step, and which instants it has shown already that it will show again. It is
// guarded by the scheduler's lock.
type past struct {
	steadyMS int64 // since when there was no step
	soundMS  int64 // when it was last found to be right, or a slot before: what was due until then was released by then
	// doubtMS is since when the stream may have refused what lay too far behind its
	// time; math.MaxInt64: nothing did.
	doubtMS int64
	// lived are spans ahead of the clock, their first instant not included, whose
	// ticks were decided when it was there before.
	lived []span
}

func newPast(nowMS int64) past { return past{steadyMS: nowMS, soundMS: nowMS, doubtMS: math.MaxInt64} }

// sound notes that the clock was found to be right.
func (p *past) sound(nowMS int64) { p.soundMS = max(p.steadyMS, nowMS-widestMS) }

// forward takes in a step ahead.
func (p *past) forward(step tick.Step) {
	if step.ToMS-step.FromMS > mostLateMS {
		p.doubtMS = min(p.doubtMS, p.soundMS)
	}
	p.steadyMS, p.soundMS = step.ToMS, step.ToMS
	p.forget(step.ToMS)
}

// back takes in a step back and returns the instant behind which ticks are open
// again, unless they lie in a span that was lived. When the clock was set back so
// far that the stream took what it was sent since for things to come, and refused
// it, that was not lived.
func (p *past) back(step tick.Step) (openMS int64) {
	p.forget(step.ToMS)
	until := step.FromMS
	if refusedAfter(step) {
		until = min(until, p.soundMS)
	}
	if from := max(p.steadyMS, step.ToMS); from < until {
		if len(p.lived) == mostLived {
			p.lived = slices.Delete(p.lived, 0, 1)
		}
		p.lived = append(p.lived, span{from, until})
	}
	openMS = min(step.ToMS, p.doubtMS)
	p.steadyMS, p.soundMS, p.doubtMS = step.ToMS, step.ToMS, math.MaxInt64
	return openMS
}

func (p *past) forget(untilMS int64) {
	p.lived = slices.DeleteFunc(p.lived, func(s span) bool { return s.untilMS <= untilMS })
}

// end returns the end of the span that an instant lies in; false when the clock
// shows it for the first time.
func (p *past) end(atMS int64) (untilMS int64, lived bool) {
	for _, s := range p.lived {
		if s.fromMS < atMS && atMS <= s.untilMS {
			return s.untilMS, true
		}
	}
	return 0, false
}

// refusedAfter reports whether the stream refuses, for its time, what is sent
// between a step back of its own clock and this process's.
func refusedAfter(step tick.Step) bool { return step.FromMS-step.ToMS > mostEarlyMS }

// leastMS is the first instant that a marker may speak of: the stream refuses what
// is older, with all that it says.
func leastMS(nowMS int64) int64 { return nowMS - mostLateMS + mostEarlyMS }

// correct has the clock corrected and follows when that was a step. Both under
// the lock, so that nothing is released by a time that has been taken back.
func (s *scheduler) correct(observe func() (tick.Step, bool)) (tick.Step, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	step, stepped := observe()
	if !stepped {
		s.past.sound(now)
		return step, false
	}
	s.advanceLocked(step.FromMS, causeOverload)
	for _, c := range s.checks {
		if c.owned { // the slot that has begun is lived through too, and the wheel still holds it
			s.decide(c, step.FromMS, causeOverload)
		}
	}
	s.deferLate(step.FromMS)
	s.dispatch(step.FromMS)
	s.pacer = tick.Pacer{}
	if step.ToMS > step.FromMS {
		s.leap(step)
	} else {
		s.goBack(step)
	}
	s.dispatch(step.ToMS)
	s.opts.Wake()
	return step, true
}

// leap follows a step ahead: ticks that it jumped over are missed. Those that the
// stream would refuse, with all that one marker says, are nobody's business.
func (s *scheduler) leap(step tick.Step) {
	s.past.forward(step)
	least := leastMS(step.ToMS)
	for _, c := range s.checks {
		if !c.owned {
			continue
		}
		if span := c.target.missed(max(c.decidedMS, least), step.ToMS); span.Count > 0 {
			s.missOverdue(c)
			s.miss(c.target, span, causeClock)
		}
		c.decidedMS = max(c.decidedMS, step.ToMS)
		s.wheel.Remove(c.timer)
		s.arm(c)
	}
	s.advanceLocked(step.ToMS, causeClock)
}

// goBack follows a step back: no tick is decided twice, so that the schedule
// waits until the clock is where it was. What a step ahead had jumped over before
// is open again, and so is what the stream has refused.
func (s *scheduler) goBack(step tick.Step) {
	s.wheel.Rewind(step.ToMS)
	s.releaseHeld(step.ToMS)
	open := s.past.back(step)
	s.sinceMS = min(s.sinceMS, step.ToMS)
	s.emptyMS = min(s.emptyMS, open)
	for id, decided := range s.removed {
		s.removed[id] = min(decided, open)
	}
	for _, c := range s.checks {
		c.decidedMS = min(c.decidedMS, open)
		if !c.owned {
			continue
		}
		s.decide(c, step.ToMS, causeClock)
		s.wheel.Remove(c.timer)
		s.arm(c)
	}
	s.deferLate(step.ToMS)
}

// releaseHeld lets go at once what waits for an instant that was near and is far
// since the clock has gone back.
func (s *scheduler) releaseHeld(nowMS int64) {
	for _, c := range s.checks {
		if c.overdueMS != 0 {
			s.wheel.Remove(c.overdueTimer)
			s.releaseOverdue(c, nowMS)
		}
	}
	for _, h := range s.hosts {
		if h.closing {
			s.wheel.Remove(h.reopen)
			s.reopenHost(h)
		}
	}
}
