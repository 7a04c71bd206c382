package ticker

import (
	"maps"
	"math"

	"github.com/picketd/picket/internal/tick"
)

// joinOverlapMS is how far back a process begins that joins others: their clocks
// may be behind its own by nearly as much as a clock may err without stepping,
// and a tick that both run is one result.
const joinOverlapMS = 500

// put takes in a check, or a new definition of one. A revision older than the
// known one is ignored; the same one may come with another credential.
func (s *scheduler) put(t *target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	c := s.checks[t.id]
	switch {
	case c == nil:
		c = &check{target: t, host: s.hostFor(t), decidedMS: s.knownSince(t.id)}
		s.checks[t.id] = c
		s.indexServer(c)
	case t.revision < c.target.revision:
		return
	default:
		s.redefine(c, t, now)
	}
	if s.entitled(c, s.ring) {
		s.take(c, c.decidedMS, now, causeTakeover)
		s.deferLate(now)
	}
	s.dispatch(now)
	s.opts.Wake()
}

// knownSince returns behind which instant the ticks of a check that was not
// known are this process's business. Before it is active that is for activate to
// say. One that was here before goes on where it was; of one that comes late, the
// catalog may have been emptied under those who were here before, and none of them
// has looked at it since. What others have looked at all the same is not explained
// by a marker, so that to reach too far does no harm.
func (s *scheduler) knownSince(id string) int64 {
	if !s.active {
		return 0
	}
	since, removed := s.removed[id]
	if !removed {
		since = s.sinceMS - catalogReachMS
	}
	delete(s.removed, id)
	return since
}

// redefine gives a check a new definition and leaves it without an owner. The
// tick that waits keeps waiting: it was due.
func (s *scheduler) redefine(c *check, t *target, nowMS int64) {
	s.drop(c, nowMS)
	s.dequeue(c, nowMS)
	if c.target.inactive {
		c.decidedMS = max(c.decidedMS, nowMS) // nothing was due meanwhile
	}
	if t.hostName != c.target.hostName {
		s.leaveHost(c.host)
		c.host = s.hostFor(t)
	}
	s.unindexServer(c)
	c.target = t
	s.indexServer(c)
	if c.waitingMS != 0 && !c.running {
		s.enqueue(c)
	}
}

// remove forgets a check. A probe in flight ends as it would.
func (s *scheduler) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	if c := s.checks[id]; c != nil {
		s.removeLocked(c, now)
	}
	s.dispatch(now)
}

func (s *scheduler) removeLocked(c *check, nowMS int64) {
	owned := c.owned
	s.drop(c, nowMS)
	s.dequeue(c, nowMS)
	if c.waitingMS != 0 {
		s.giveUp(c, causeRemoved)
	}
	for _, g := range c.gifts { // nobody asks any more what became of them
		if _, unsettled := s.givers[g.giver]; unsettled {
			if span := c.target.missed(g.givenMS-catalogReachMS, g.givenMS); span.Count > 0 {
				s.miss(c.target, span, causeTakeover)
			}
		}
	}
	s.forgetSkipped(c)
	s.unindexServer(c)
	s.leaveHost(c.host)
	delete(s.checks, c.target.id)
	if !s.active {
		return
	}
	decided := c.decidedMS
	if !owned { // another's, and how far that one came is not known
		decided = max(decided, nowMS-catalogReachMS)
	}
	s.removed[c.target.id] = decided
	if len(s.checks) == 0 {
		s.emptyMS = nowMS
		for _, decided := range s.removed {
			if decided > nowMS-catalogReachMS {
				s.emptyMS = min(s.emptyMS, decided)
			}
		}
	}
}

// unknown returns since when this process knows no check. It looks at nothing then,
// and may not say that it has settled more: when somebody has emptied the catalog,
// who finds it full again explains what was due. [math.MaxInt64] is that it knows some.
func (s *scheduler) unknown() (sinceMS int64) {
	if !s.active || len(s.checks) > 0 {
		return math.MaxInt64
	}
	return s.emptyMS
}

// retain forgets all checks but those given.
func (s *scheduler) retain(ids map[string]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	for id, c := range s.checks {
		if _, ok := ids[id]; !ok {
			s.removeLocked(c, now)
		}
	}
	maps.DeleteFunc(s.removed, func(_ string, decidedMS int64) bool { return decidedMS < leastMS(now) })
	s.dispatch(now)
}

// entitled reports whether this process should release a check's ticks.
func (s *scheduler) entitled(c *check, ring tick.Ring) bool {
	return s.active && !s.stopped && !c.target.inactive && ring.Owns(s.opts.Self, c.target.key)
}

// take makes this process the owner of a check from an instant on.
func (s *scheduler) take(c *check, fromMS, nowMS int64, cause string) {
	if c.owned {
		return
	}
	c.owned = true
	s.owned++
	c.rate = c.target.rate(nowMS)
	c.load = c.rate * float64(c.target.timeoutMS) / 1000
	s.rate += c.rate
	s.load += c.load
	c.decidedMS = max(c.decidedMS, min(fromMS, nowMS), leastMS(nowMS))
	s.decide(c, nowMS, cause)
	s.arm(c)
}

// drop ends the ownership of a check. What was due until now stays this
// process's: a tick that waits is run, and so is one that was held back.
func (s *scheduler) drop(c *check, nowMS int64) {
	if !c.owned {
		return
	}
	c.owned = false
	if s.owned--; s.owned == 0 {
		s.rate, s.load = 0, 0 // no rounding is carried on
	} else {
		s.rate -= c.rate
		s.load -= c.load
	}
	s.wheel.Remove(c.timer)
	c.timer = tick.Timer{}
	if c.overdueMS != 0 {
		s.wheel.Remove(c.overdueTimer)
		s.releaseOverdue(c, nowMS)
	}
}

// handOver drops a check after what was due until now has been decided, the slot
// that has begun included, which the wheel still holds: this process says that it
// has settled that, and who takes the check may find it too old.
func (s *scheduler) handOver(c *check, nowMS int64) {
	if c.owned {
		s.decide(c, nowMS, causeOverload)
		s.deferLate(nowMS)
	}
	s.drop(c, nowMS)
}

// follow makes the ring count from now on. A check that comes from a member that
// is gone is taken over from what that member had settled; one that comes from a
// member that lives, from a moment ago. After a suspension others have had since
// what this process has not released.
//
// The leavers have said goodbye, and still settle what was due until then: settledMS
// says where others begin, leaversMS what they have settled.
func (s *scheduler) follow(ring tick.Ring, settledMS, leaversMS map[string]int64, suspended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followLocked(ring, tick.Ring{}, settledMS, leaversMS, s.opts.NowMS(), suspended)
}

func (s *scheduler) followLocked(ring, met tick.Ring, settledMS, leaversMS map[string]int64, nowMS int64, suspended bool) {
	old := s.ring
	s.ring = ring
	gone := func(giver string) bool { _, leaves := leaversMS[giver]; return !leaves && !ring.Has(giver) }
	for _, c := range s.checks {
		s.explain(c, settledMS, gone)
		switch entitled := s.entitled(c, ring); {
		case entitled && !c.owned:
			s.inherit(c, old.Owner(c.target.key), met.Owner(c.target.key), settledMS, leaversMS, nowMS)
		case !entitled && c.owned && suspended:
			s.drop(c, nowMS)
		case !entitled && c.owned:
			s.handOver(c, nowMS)
		}
	}
	for giver := range s.givers {
		if gone(giver) {
			delete(s.givers, giver)
		}
	}
	s.deferLate(nowMS)
	s.dispatch(nowMS)
	s.opts.Wake()
}

// inherit takes a check from the member that had it. Who joins names whom of
// those alive the check would have without it: a former owner that is gone, and
// known from the roster alone, may never have come to take it from that one.
func (s *scheduler) inherit(c *check, giver, met string, settledMS, leaversMS map[string]int64, nowMS int64) {
	from := nowMS - joinOverlapMS
	settled, known := settledMS[giver]
	switch {
	case giver == "":
		from = nowMS // nobody was there
	case !known:
	case giver == s.opts.Self || !s.ring.Has(giver):
		from = min(settled, nowMS)
		if unsettled, leaves := leaversMS[giver]; leaves && unsettled < from {
			s.given(c, giver, from)
		}
	default:
		met = giver
	}
	if met != "" {
		s.given(c, met, from)
	}
	s.take(c, from, nowMS, causeTakeover)
}

// inheritsFrom returns since when this process settles what the last of its name had,
// by the rules of inherit. Of one that nobody knows of others had it, or nobody.
func (s *scheduler) inheritsFrom(former tick.Ring, settledMS map[string]int64, nowMS int64) int64 {
	settled, known := settledMS[s.opts.Self]
	switch {
	case known:
		return min(settled, nowMS)
	case len(former.Members()) > 0:
		return nowMS - joinOverlapMS
	default:
		return nowMS
	}
}

// settlesFrom returns since when this process settles what the last of its name had;
// 0 before it owns any check.
func (s *scheduler) settlesFrom() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fromMS
}

// activate begins to own checks. The former ring are those who did before, with
// what they had settled.
func (s *scheduler) activate(ring, former tick.Ring, settledMS map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = true
	now := s.opts.NowMS()
	s.sinceMS = now
	for _, settled := range settledMS {
		s.sinceMS = min(s.sinceMS, settled)
	}
	s.emptyMS = s.sinceMS
	s.fromMS = s.inheritsFrom(former, settledMS, now)
	s.past = newPast(now)
	s.ring = former
	met := tick.NewMembers()
	for _, name := range ring.Members() {
		if name != s.opts.Self {
			met.Heard(name, 0)
		}
	}
	s.followLocked(ring, met.Update(0), settledMS, nil, now, false)
}

// stop ends the ticking: what is due at the instant that it returns is still
// run, and nothing after. Who knows no check stops when the last was gone.
func (s *scheduler) stop(settledMS map[string]int64) (untilMS int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	s.advanceLocked(now, causeOverload)
	s.stopped = true
	for _, c := range s.checks {
		s.explain(c, settledMS, func(string) bool { return true }) // nobody is left who would
		s.handOver(c, now)
	}
	clear(s.givers)
	s.dispatch(now)
	return min(now, s.unknown())
}

// idle reports whether nothing waits and nothing is in flight.
func (s *scheduler) idle() bool {
	f := s.figures()
	return f.Running == 0 && f.Waiting == 0
}

// abandon reports as missed what waits still and was not begun.
func (s *scheduler) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	for _, c := range s.checks {
		s.dequeue(c, now)
		if c.waitingMS != 0 {
			s.giveUp(c, causeStopped)
		}
	}
}
