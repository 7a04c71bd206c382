package ticker

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/picketd/picket/internal/tick"
)

// Why a tick was not looked at: the reason of its marker. All begin alike, so
// that one prefix finds them.
const (
	causeOverload  = "missed"           // more was due than could run
	causeTakeover  = "missed_takeover"  // its owner was gone, and it was too old when another took it over
	causeClock     = "missed_clock"     // the clock was set forward over it
	causeSuspended = "missed_suspended" // this process did not run
	causeDropped   = "missed_dropped"   // looked at, but the result was lost while NATS was away
	causeStopped   = "missed_stopped"   // this process stopped before it had looked
	causeRemoved   = "missed_removed"   // the check was removed while its tick waited
	causeSkipped   = "missed_"          // the service wanted it skipped, for the reason that follows
)

const (
	// lateMS is how late a tick may be released before it is treated as one that
	// was taken over: run if it is young, at a bounded pace.
	lateMS = 1000
	// leastConcurrency is the bound on probes in flight of a fleet so small that
	// rate × timeout says nothing.
	leastConcurrency = 32
	// mostUnbegun is how many probes of each processor may have been started and wait
	// for it to run them. Where the processors cannot keep up, more would gain nothing,
	// and everything else in the process would wait behind them: results would not be
	// sent, and targets that answered in time would be found too slow. The others wait
	// in the ready queue, in its order, and are counted when it is too late.
	mostUnbegun = 32
	// catalogReachMS is how long a check may have been missing from the catalog
	// before anybody says that its owner has settled more than it had looked at:
	// twice the time after which the catalog is listed anew.
	catalogReachMS = 120_000
	// mostTogether is how many ticks may be released at a time for one waking, and
	// widestMS how long the first of them may wait for the others. What costs where
	// little is due is not the check but each time that the process wakes. So many
	// delay each other by a fraction of a millisecond, which more would not.
	mostTogether = 12
	widestMS     = 50
)

// check is a target and what this process has done about it. It is guarded by
// the scheduler's lock.
type check struct {
	target *target
	host   *host

	owned      bool
	rate, load float64 // what it adds to the scheduler's while it is owned
	timer      tick.Timer
	// Every tick at or before decidedMS is decided: run, waiting, or missed. It goes
	// back with the clock alone, and then past keeps ticks from being run again.
	decidedMS int64

	// A tick that was taken over and is released later, at a bounded pace.
	overdueTimer               tick.Timer
	overdueMS, overdueRevision int64 // 0: none
	overdueCause               string

	// The tick that is due and waits for its turn; one at most.
	waitingMS, waitingRevision int64 // 0: none
	waitingAgain               bool  // it has a marker already, because it was skipped
	queue                      *queue
	index                      int

	// The tick that was skipped, until the next is due, and when it is made up for.
	skippedMS, skippedRevision int64 // 0: none
	nudge                      tick.Timer

	running   bool
	startedMS int64 // the last start; 0: never looked at

	// From whom this process has the check who had still to settle ticks of it.
	gifts []gift
}

// gift says who had a check until an instant, and was alive when another took it:
// who was there before one that joined, or who has said goodbye.
type gift struct {
	giver   string
	givenMS int64
}

// event is what the wheel holds: a check that is due, one whose overdue tick may
// go or whose skipped tick is made up for, or a host that opens again.
type event struct {
	check          *check
	host           *host
	overdue, nudge bool
}

// starter begins jobs; the pool is one.
type starter interface {
	// start begins a job and returns at once.
	start(j job)
	// rest takes back the worker whose job is finished.
	rest(w *worker)
}

// schedulerOptions are what a scheduler needs from outside.
type schedulerOptions struct {
	Self        string
	MaxInFlight int
	// MaxUnbegun bounds the jobs that the starter was given and that have not begun; 0: no bound.
	MaxUnbegun     int
	HostBatchSize  int
	HostBatchDelay time.Duration
	NowMS          func() int64
	Starter        starter
	// Due is told each tick that is going to be run or missed, once and before that.
	Due func(atMS int64)
	// Miss reports ticks that nobody looked at. Neither may block or call the scheduler.
	Miss func(t *target, span tick.Span, cause string)
	// Skip says that a server is to be left alone now, and why; nil: never. Skipped
	// reports the ticks. Neither may block or call the scheduler.
	Skip    func(org, server string) (reason string, skip bool)
	Skipped func(t *target, span tick.Span, cause string)
	// Busy is told when the number of probes in flight leaves zero or returns to it.
	Busy func(busy bool)
	// Lag is told how late a tick was started.
	Lag func(late time.Duration)
	// Wake makes the loop look again when to wake.
	Wake func()
}

// scheduler decides about every tick once: it is run, or it is missed. It has no
// goroutine and no clock of its own: the loop calls advance, workers finish.
type scheduler struct {
	opts schedulerOptions

	mu      sync.Mutex
	wheel   *tick.Wheel[event]
	events  []event
	late    []overdue
	checks  map[string]*check
	hosts   map[string]*host
	servers map[serverName][]*check // when any may be skipped
	ready   queue
	held    int // checks that wait for their host
	running int
	unbegun int // of those that run, were told to and have not begun

	ring    tick.Ring
	active  bool
	stopped bool
	// sinceMS is until when those had settled who owned checks before this process
	// owned any; when it began, if nobody did.
	sinceMS int64
	fromMS  int64 // see settlesFrom
	// removed are the checks that are gone from the catalog, and until when their
	// ticks were decided: one that comes back goes on there. What the stream would
	// refuse is forgotten.
	removed map[string]int64
	emptyMS int64 // until when all was decided, when no check is known
	past    past
	// givers are the checks' whose gifts are not known to be settled, and until
	// when they gave.
	givers map[string]int64
	pacer  tick.Pacer
	owned  int
	rate   float64 // ticks a second of the checks owned
	load   float64 // probes in flight if every target hung until its timeout
}

// overdue is a tick that is late but young enough to be run.
type overdue struct {
	check          *check
	atMS, revision int64
	untilMS        int64 // when it is too old
	cause          string
}

func newScheduler(opts schedulerOptions) *scheduler {
	return &scheduler{
		opts:    opts,
		wheel:   tick.NewWheel[event](opts.NowMS()),
		checks:  map[string]*check{},
		hosts:   map[string]*host{},
		servers: map[serverName][]*check{},
		givers:  map[string]int64{},
		removed: map[string]int64{},
	}
}

// next returns when advance has something to do; false when never.
func (s *scheduler) next() (atMS int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wheel.Next()
}

// advance releases what is due. A process that was suspended says so: that is
// then why what is too old was missed.
func (s *scheduler) advance(suspended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	cause := causeOverload
	if suspended {
		cause = causeSuspended
	}
	s.advanceLocked(now, cause)
	s.dispatch(now)
}

func (s *scheduler) advanceLocked(nowMS int64, cause string) {
	s.events = s.wheel.Advance(nowMS, s.events[:0])
	for _, e := range s.events {
		switch {
		case e.host != nil:
			s.reopenHost(e.host)
		case e.overdue:
			s.releaseOverdue(e.check, nowMS)
		case e.nudge:
			s.makeUp(e.check, nowMS)
		default:
			e.check.timer = tick.Timer{}
			s.decide(e.check, nowMS, cause)
			s.arm(e.check)
		}
	}
	clear(s.events)
	s.deferLate(nowMS)
}

// decide divides the undecided ticks up to now: the youngest is wanted if it is
// young enough, the others are missed.
func (s *scheduler) decide(c *check, nowMS int64, cause string) {
	o := c.target.split(c.decidedMS, nowMS)
	c.decidedMS = max(c.decidedMS, nowMS)
	if o.Missed.Count == 0 && !o.Run {
		return
	}
	s.missOverdue(c) // a younger tick is there
	if o.Missed.Count > 0 {
		s.miss(c.target, o.Missed, cause)
	}
	if !o.Run {
		return
	}
	s.opts.Due(o.RunMS)
	if nowMS-o.RunMS <= lateMS && cause == causeOverload {
		s.want(c, o.RunMS, o.Revision)
		return
	}
	v, _ := c.target.schedules.At(o.RunMS)
	s.late = append(s.late, overdue{c, o.RunMS, o.Revision, o.RunMS + v.IntervalMS/2, cause})
}

// deferLate gives the late ticks that decide has found their release, the most
// urgent first.
func (s *scheduler) deferLate(nowMS int64) {
	if len(s.late) == 0 {
		return
	}
	slices.SortFunc(s.late, func(a, b overdue) int { return cmp.Compare(a.untilMS, b.untilMS) })
	for _, o := range s.late {
		at := s.pacer.Reserve(nowMS, s.rate)
		o.check.overdueMS, o.check.overdueRevision, o.check.overdueCause = o.atMS, o.revision, o.cause
		o.check.overdueTimer = s.wheel.Add(at, event{check: o.check, overdue: true})
	}
	clear(s.late)
	s.late = s.late[:0]
}

// releaseOverdue lets a late tick go, if it is still young enough.
func (s *scheduler) releaseOverdue(c *check, nowMS int64) {
	if !c.target.schedules.Fresh(c.overdueMS, nowMS) {
		s.missOverdue(c)
		return
	}
	at, revision := c.overdueMS, c.overdueRevision
	c.overdueMS = 0
	s.want(c, at, revision)
}

// missOverdue gives up a late tick that was not released.
func (s *scheduler) missOverdue(c *check) {
	if c.overdueMS == 0 {
		return
	}
	s.wheel.Remove(c.overdueTimer)
	s.opts.Miss(c.target, single(c.overdueMS, c.overdueRevision), c.overdueCause)
	c.overdueMS = 0
}

// wait makes a tick wait for its turn. One that still waits from before could
// not run in time.
func (s *scheduler) wait(c *check, atMS, revision int64, again bool) {
	waited := c.waitingMS != 0
	if waited {
		s.giveUp(c, causeOverload)
	}
	c.waitingMS, c.waitingRevision, c.waitingAgain = atMS, revision, again
	if !waited && !c.running {
		s.enqueue(c)
	}
}

// giveUp reports the tick that waits as missed, unless that has been done.
func (s *scheduler) giveUp(c *check, cause string) {
	if !c.waitingAgain {
		s.opts.Miss(c.target, single(c.waitingMS, c.waitingRevision), cause)
	}
	c.waitingMS, c.waitingAgain = 0, false
}

// miss reports ticks that were never wanted.
func (s *scheduler) miss(t *target, span tick.Span, cause string) {
	s.opts.Due(span.FirstMS)
	s.opts.Miss(t, span, cause)
}

func single(atMS, revision int64) tick.Span {
	return tick.Span{FirstMS: atMS, LastMS: atMS, Revision: revision, Count: 1}
}

// arm sets the timer of a check's next tick.
func (s *scheduler) arm(c *check) {
	at, ok := c.target.next(c.decidedMS)
	for ok {
		until, lived := s.past.end(at)
		if !lived {
			c.timer = s.wheel.Add(s.gather(at), event{check: c})
			return
		}
		c.decidedMS = until
		at, ok = c.target.next(until)
	}
	c.timer = tick.Timer{}
}

// gather returns when a tick is released that is due at an instant: at the end of
// its slot, which is the wider the less there is to do. Slots are the same for all
// checks and do not move, so that each check keeps its period.
func (s *scheduler) gather(atMS int64) int64 {
	for _, width := range [...]int64{widestMS, 2 * tick.SlotMS} {
		if s.rate*float64(width)/1000 <= mostTogether {
			return (atMS + width - 1) / width * width
		}
	}
	return atMS // the wheel's own slots
}

// limit bounds the probes in flight: as many as there are when every target
// hangs, and a quarter more, so that those that hang never delay the others.
func (s *scheduler) limit() int {
	return min(s.opts.MaxInFlight, max(leastConcurrency, int(math.Ceil(1.25*s.load))))
}

// dispatch starts what is ready while there is room.
func (s *scheduler) dispatch(nowMS int64) {
	for len(s.ready) > 0 && s.running < s.limit() && (s.opts.MaxUnbegun == 0 || s.unbegun < s.opts.MaxUnbegun) {
		c := s.ready.take()
		j := job{
			check: c, target: c.target, host: c.host, atMS: c.waitingMS, revision: c.waitingRevision, again: c.waitingAgain, startMS: nowMS,
		}
		c.waitingMS, c.waitingAgain, c.running, c.startedMS = 0, false, true, nowMS
		if s.running++; s.running == 1 {
			s.opts.Busy(true)
		}
		if !j.again { // else it was not late
			s.opts.Lag(time.Duration(max(nowMS-j.atMS, 0)) * time.Millisecond)
		}
		s.unbegun++
		s.opts.Starter.start(j)
	}
}

// began is told by each job, first of all, that it runs.
func (s *scheduler) began() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unbegun--
	if len(s.ready) > 0 {
		s.dispatch(s.opts.NowMS())
	}
}

// finish takes back a job that is done, and the worker that did it.
func (s *scheduler) finish(j job, w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	s.opts.Starter.rest(w)
	c := j.check
	c.running = false
	if s.running--; s.running == 0 {
		s.opts.Busy(false)
	}
	s.releaseHost(j.host, now)
	if c.waitingMS != 0 {
		s.enqueue(c)
	}
	s.dispatch(now)
}

// target returns the definition of a check, nil when there is none.
func (s *scheduler) target(checkID string) *target {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.checks[checkID]; c != nil {
		return c.target
	}
	return nil
}

// ownedTargets appends the definitions of the checks that this process owns.
func (s *scheduler) ownedTargets(to []*target) []*target {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.checks {
		if c.owned {
			to = append(to, c.target)
		}
	}
	return to
}

// figures are what the heartbeat and the metrics say.
type figures struct {
	Known, Owned, Running, Waiting, Limit int
}

func (s *scheduler) figures() figures {
	s.mu.Lock()
	defer s.mu.Unlock()
	return figures{
		Known: len(s.checks), Owned: s.owned, Running: s.running, Waiting: len(s.ready) + s.held, Limit: s.limit(),
	}
}
