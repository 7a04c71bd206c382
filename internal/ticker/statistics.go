package ticker

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// statistics are those of a worker: totals since the process began, and the
// cycles, each all ticks due in one interval. Cycles begin at the multiples of the
// interval. It is safe for concurrent use.
type statistics struct {
	words      Words
	intervalMS int64
	nowMS      func() int64

	samples atomic.Int64 // acknowledged by the stream

	mu         sync.Mutex
	successful int64
	failed     int64
	busy       bool
	sinceMS    int64   // when the time was last accounted for
	cycles     []cycle // not known to be finished, oldest first
	last       cycle   // finished; its start is 0 when there is none
	finished   []cycle // that nobody has taken
	seen       map[serverName]*sight
	// announcedMS is the cycle that was announced last; 0: none.
	announcedMS int64
}

// cycle is one interval: when it began, how long something was in flight, and how
// the servers were.
type cycle struct {
	startMS, busyMS int64
	// servers counts them by their worst status in the cycle.
	servers [statuses]int
	// alarming are the first of those to tell of.
	alarming []string
	more     int // that are not among them
}

// statuses is how many there are.
const statuses = int(picketv1.Status_STATUS_UNKNOWN) + 1

// sight is how a server was in the last two cycles in which it was seen: results
// of one may still come while the next has begun.
type sight [2]struct {
	startMS int64
	status  picketv1.Status
}

// mostCycles bounds how many cycles wait to be finished while NATS is away.
const mostCycles = 1024

// mostNames bounds the names that one line of the log holds.
const mostNames = 10

func newStatistics(interval time.Duration, words Words, nowMS func() int64) *statistics {
	st := &statistics{
		words: words, intervalMS: max(interval.Milliseconds(), 1), nowMS: nowMS, sinceMS: nowMS(), seen: map[serverName]*sight{},
	}
	st.cycles = []cycle{{startMS: st.sinceMS - st.sinceMS%st.intervalMS}}
	return st
}

// setBusy notes that the number of probes in flight leaves zero or returns to it.
func (st *statistics) setBusy(busy bool) {
	now := st.nowMS()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.account(now)
	st.busy = busy
}

// account gives the time since the last call to the cycles that it lies in.
func (st *statistics) account(nowMS int64) {
	if nowMS < st.sinceMS { // the clock has gone back
		st.sinceMS = nowMS
		if start := nowMS - nowMS%st.intervalMS; start < st.cycles[0].startMS { // to before all that is known
			st.cycles, st.announcedMS = []cycle{{startMS: start}}, min(st.announcedMS, start)
		}
		return
	}
	for {
		c := &st.cycles[len(st.cycles)-1]
		end := c.startMS + st.intervalMS
		until := min(nowMS, end)
		if st.busy && until > st.sinceMS {
			c.busyMS += until - st.sinceMS
		}
		st.sinceMS = max(st.sinceMS, until)
		if nowMS < end {
			return
		}
		next := end
		if nowMS-end > mostCycles*st.intervalMS { // the clock was set far forward
			next = nowMS - nowMS%st.intervalMS
			st.sinceMS = nowMS
		}
		if st.cycles = append(st.cycles, cycle{startMS: next}); len(st.cycles) > mostCycles {
			st.cycles = append(st.cycles[:0], st.cycles[1:]...)
		}
	}
}

// ran counts an outcome: successful when the target has answered.
func (st *statistics) ran(t *target, atMS int64, status picketv1.Status) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch status {
	case picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_DEGRADED, picketv1.Status_STATUS_CRITICAL:
		st.successful++
	default:
		st.failed++
	}
	st.see(t, atMS, status)
}

// missed counts ticks that nobody looked at.
func (st *statistics) missed(t *target, span tick.Span) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.failed += span.Count
	st.see(t, span.LastMS, picketv1.Status_STATUS_UNKNOWN)
}

// see notes how a server was in the cycle of a tick, if that is not finished: the
// worst that any of its checks has said.
func (st *statistics) see(t *target, atMS int64, status picketv1.Status) {
	c := st.cycleOf(atMS)
	if c == nil {
		return
	}
	name := t.serverName()
	known := st.seen[name]
	if known == nil {
		known = &sight{}
		st.seen[name] = known
	}
	before := &known[c.startMS/st.intervalMS&1]
	switch {
	case before.startMS != c.startMS:
		before.startMS = c.startMS
	case st.rank(status) <= st.rank(before.status):
		return
	default:
		c.servers[before.status]--
		if st.alarms(before.status) { // among them already
			before.status = status
			c.servers[status]++
			return
		}
	}
	before.status = status
	c.servers[status]++
	switch {
	case !st.alarms(status):
	case len(c.alarming) < mostNames:
		c.alarming = append(c.alarming, t.serverName().String())
	default:
		c.more++
	}
}

// cycleOf returns the cycle that a tick belongs to, nil when it is finished or
// has not begun.
func (st *statistics) cycleOf(atMS int64) *cycle {
	for i := len(st.cycles) - 1; i >= 0; i-- {
		c := &st.cycles[i]
		if atMS >= c.startMS+st.intervalMS {
			return nil
		}
		if atMS >= c.startMS {
			return c
		}
	}
	return nil
}

// rank orders statuses within a server. To health checks a look that failed for
// our own reasons says nothing, to the collection of metrics it has failed.
func (st *statistics) rank(status picketv1.Status) int {
	if st.words == MetricsCollection && st.alarms(status) {
		return math.MaxInt
	}
	return health.Rank(status)
}

// alarms reports the statuses of servers to be named.
func (st *statistics) alarms(status picketv1.Status) bool {
	if st.words == MetricsCollection {
		return status == picketv1.Status_STATUS_UNREACHABLE || status == picketv1.Status_STATUS_UNKNOWN
	}
	return status == picketv1.Status_STATUS_UNREACHABLE || status == picketv1.Status_STATUS_CRITICAL
}

// take returns the cycles that have finished since the last call, oldest first.
func (st *statistics) take() []cycle {
	st.mu.Lock()
	defer st.mu.Unlock()
	finished := st.finished
	st.finished = nil
	return finished
}

// finish takes the oldest cycle off.
func (st *statistics) finish() {
	st.last = st.cycles[0]
	st.cycles = append(st.cycles[:0], st.cycles[1:]...)
	total := 0
	for _, n := range st.last.servers {
		total += n
	}
	if total == 0 {
		return // nothing was due
	}
	if len(st.finished) == mostCycles {
		st.finished = append(st.finished[:0], st.finished[1:]...)
	}
	st.finished = append(st.finished, st.last)
	// Servers that are gone are forgotten now and then.
	if len(st.seen) > 2*total+mostCycles {
		maps.DeleteFunc(st.seen, func(_ serverName, s *sight) bool { return max(s[0].startMS, s[1].startMS) < st.last.startMS })
	}
}

// fill writes the statistics into a heartbeat. A cycle is finished when it has
// ended and all its ticks are settled.
func (st *statistics) fill(status *picketv1.WorkerStatus, nowMS, settledMS int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.account(nowMS)
	for len(st.cycles) > 1 && st.cycles[0].startMS+st.intervalMS <= settledMS+1 {
		st.finish()
	}
	status.IntervalSeconds = float64(st.intervalMS) / 1000
	if st.last.startMS != 0 {
		status.LastRun = timestamppb.New(time.UnixMilli(st.last.startMS))
		status.LastDurationSeconds = float64(st.last.busyMS) / 1000
	}
	status.Performed = st.successful + st.failed
	status.Successful = st.successful
	status.Failed = st.failed
	status.Samples = st.samples.Load()
}
