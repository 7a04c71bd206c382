package tick

// Span is a run of consecutive ticks of one check that nobody looked at.
type Span struct {
	// FirstMS and LastMS are the first and the last tick of the span.
	FirstMS, LastMS int64
	// Revision is that of the first tick.
	Revision int64
	// Count is the number of ticks, 0 for the empty span.
	Count int64
}

// Overdue is what to do about the ticks of one check that are already due.
type Overdue struct {
	// Missed are the ticks that are too old to be run.
	Missed Span
	// Run says that the last tick is still worth running: it is RunMS.
	Run             bool
	RunMS, Revision int64
}

// Split divides the ticks in (afterMS, nowMS] by the rule for a tick taken over:
// the last is run if less than half its interval has passed, all others are
// missed. In steady state there is one tick and it is young, so a scheduler may
// ask Split about every tick it releases.
func (s Schedules) Split(serial int64, location string, afterMS, nowMS int64) Overdue {
	last, revision, ok := s.Last(serial, location, afterMS, nowMS)
	if !ok {
		return Overdue{}
	}
	missedUntil := last
	out := Overdue{}
	if s.Fresh(last, nowMS) {
		out.Run, out.RunMS, out.Revision = true, last, revision
		missedUntil = last - 1
	}
	out.Missed = s.Missed(serial, location, afterMS, missedUntil)
	return out
}

// Fresh reports whether less than half the interval has passed since a tick.
func (s Schedules) Fresh(atMS, nowMS int64) bool {
	v, ok := s.At(atMS)
	return ok && nowMS-atMS < (v.IntervalMS+1)/2
}

// Missed returns the span of all ticks in (afterMS, untilMS].
func (s Schedules) Missed(serial int64, location string, afterMS, untilMS int64) Span {
	last, _, ok := s.Last(serial, location, afterMS, untilMS)
	if !ok {
		return Span{}
	}
	first, revision, _ := s.Next(serial, location, afterMS)
	return Span{
		FirstMS: first, LastMS: last, Revision: revision,
		Count: s.Count(serial, location, first, last+1),
	}
}

// Pacer spreads ticks that were taken over, so that together with the steady
// ones they come at no more than twice the steady rate. The zero value is ready.
// It is not safe for concurrent use.
type Pacer struct {
	next float64
}

// Reserve returns when the next tick taken over may be released, at or after
// nowMS. The rate is the process's steady one, in ticks per second, with what it
// has just taken over counted in; one that is not positive does not hold back.
func (p *Pacer) Reserve(nowMS int64, rate float64) int64 {
	p.next = max(p.next, float64(nowMS))
	at := int64(p.next)
	if rate > 0 {
		p.next += 1000 / rate
	}
	return at
}
