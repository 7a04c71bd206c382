package ticker

import (
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// statistics are those of a worker: totals since the process began, and the last
// finished cycle, which is all ticks due in one interval. Cycles begin at the
// multiples of the interval. It is safe for concurrent use.
type statistics struct {
	intervalMS int64
	nowMS      func() int64

	mu         sync.Mutex
	successful int64
	failed     int64
	busy       bool
	sinceMS    int64   // when the time was last accounted for
	cycles     []cycle // not known to be finished, oldest first
	last       cycle   // finished; its start is 0 when there is none
}

// cycle is one interval: when it began and how long something was in flight.
type cycle struct {
	startMS, busyMS int64
}

// mostCycles bounds how many cycles wait to be finished while NATS is away.
const mostCycles = 1024

func newStatistics(interval time.Duration, nowMS func() int64) *statistics {
	st := &statistics{intervalMS: max(interval.Milliseconds(), 1), nowMS: nowMS, sinceMS: nowMS()}
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
func (st *statistics) ran(status picketv1.Status) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch status {
	case picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_DEGRADED, picketv1.Status_STATUS_CRITICAL:
		st.successful++
	default:
		st.failed++
	}
}

// missed counts ticks that nobody looked at.
func (st *statistics) missed(n int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.failed += n
}

// fill writes the statistics into a heartbeat. A cycle is finished when it has
// ended and all its ticks are settled.
func (st *statistics) fill(status *picketv1.WorkerStatus, nowMS, settledMS int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.account(nowMS)
	for len(st.cycles) > 1 && st.cycles[0].startMS+st.intervalMS <= settledMS+1 {
		st.last = st.cycles[0]
		st.cycles = append(st.cycles[:0], st.cycles[1:]...)
	}
	status.IntervalSeconds = float64(st.intervalMS) / 1000
	if st.last.startMS != 0 {
		status.LastRun = timestamppb.New(time.UnixMilli(st.last.startMS))
		status.LastDurationSeconds = float64(st.last.busyMS) / 1000
	}
	status.Performed = st.successful + st.failed
	status.Successful = st.successful
	status.Failed = st.failed
}
