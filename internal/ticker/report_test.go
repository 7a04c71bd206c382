package ticker

import (
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// outbox takes messages as the publisher does.
type outbox struct {
	messages []bus.Message
	before   map[int]int // how many are to be safe before, by index
}

func (o *outbox) Enqueue(m bus.Message, before ...bus.Message) {
	o.messages = append(append(o.messages, before...), m)
	o.before[len(o.messages)-1] = len(before)
}

func (o *outbox) Stats() bus.PublisherStats { return bus.PublisherStats{Queued: len(o.messages)} }

func newReporter(t *testing.T) (*reporter, *outbox) {
	t.Helper()
	out := &outbox{before: map[int]int{}}
	m, err := newMetrics(prometheus.NewRegistry(), func() figures { return figures{} }, out.Stats)
	if err != nil {
		t.Fatal(err)
	}
	return &reporter{
		instance: "a", ledger: newLedger(), stats: newStatistics(time.Second, HealthChecks, func() int64 { return simEpochMS }),
		metrics: m, out: out, log: slog.New(slog.DiscardHandler), lost: map[string]*picketv1.ProbeResult{},
	}, out
}

// A marker says which ticks nobody looked at and why, under an identity of its
// own, and cannot be taken for a look.
func TestMarkers(t *testing.T) {
	t.Parallel()
	r, out := newReporter(t)
	c := simTarget(1, 10_000, 9_000, 0)
	r.miss(c, tick.Span{FirstMS: simEpochMS, LastMS: simEpochMS + 20_000, Revision: 4, Count: 3}, causeClock)
	r.miss(c, single(simEpochMS+30_000, 4), causeOverload)
	first, second := out.messages[0], out.messages[1]
	want := []string{
		c.id + "/local/1700000000000/missed/1700000020000", "picket.default.probe.unknown.local.server-1.health", "missed_clock",
		c.id + "/local/1700000030000/missed", "picket.default.probe.unknown.local.server-1.health", "missed",
	}
	a, b := first.Payload.(*picketv1.ProbeResult), second.Payload.(*picketv1.ProbeResult)
	if diff := cmp.Diff(want, []string{first.ID, first.Subject, a.GetReason(), second.ID, second.Subject, b.GetReason()}); diff != "" {
		t.Errorf("markers (-want +got):\n%s", diff)
	}
	if a.GetStartedAt() != nil || a.GetStatus() != picketv1.Status_STATUS_UNKNOWN || a.GetRevision() != 4 || a.GetMessage() == "" {
		t.Errorf("marker %v", a)
	}
	if got := a.GetMissedUntil().AsTime().UnixMilli(); got != simEpochMS+20_000 {
		t.Errorf("missed until %d", got)
	}
	if b.GetMissedUntil() != nil {
		t.Errorf("one tick is no span: %v", b)
	}
	var status picketv1.WorkerStatus
	r.stats.fill(&status, simEpochMS, simEpochMS)
	if status.GetFailed() != 4 || status.GetPerformed() != 4 || status.GetSuccessful() != 0 {
		t.Errorf("statistics %v", &status)
	}
}

// What the publisher had to give up becomes one gap per check, once there is room.
func TestDroppedResultsBecomeGaps(t *testing.T) {
	t.Parallel()
	r, out := newReporter(t)
	one, two := simTarget(1, 10_000, 9_000, 0), simTarget(2, 10_000, 9_000, 0)
	for i := range int64(3) {
		r.result(job{target: one, atMS: simEpochMS + i*10_000, revision: 1}, time.UnixMilli(simEpochMS), Outcome{Result: &picketv1.ProbeResult{Status: picketv1.Status_STATUS_HEALTHY}})
	}
	r.result(job{target: two, atMS: simEpochMS + 5_000, revision: 1}, time.UnixMilli(simEpochMS), Outcome{Result: &picketv1.ProbeResult{Status: picketv1.Status_STATUS_CRITICAL}})
	r.miss(one, tick.Span{FirstMS: simEpochMS + 30_000, LastMS: simEpochMS + 50_000, Revision: 1, Count: 3}, causeOverload)
	dropped := out.messages
	out.messages = nil
	for _, m := range dropped {
		r.dropped(m, bus.ErrQueueFull)
	}
	r.markDropped()
	r.markDropped()
	got := map[string][2]int64{}
	for _, m := range out.messages {
		p := m.Payload.(*picketv1.ProbeResult)
		if p.GetReason() != causeDropped || p.GetStartedAt() != nil {
			t.Errorf("gap %v", p)
		}
		var until int64
		if p.GetMissedUntil() != nil {
			until = p.GetMissedUntil().AsTime().UnixMilli() - simEpochMS
		}
		got[m.ID] = [2]int64{p.GetScheduledAt().AsTime().UnixMilli() - simEpochMS, until}
	}
	want := map[string][2]int64{
		identity(one.id, "local", simEpochMS) + "/missed/" + strconv.Itoa(simEpochMS+50_000): {0, 50_000},
		identity(two.id, "local", simEpochMS+5_000) + "/missed":                              {5_000, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
}

// A ledger never says that a tick is settled that is not.
func TestLedger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger()
		now := int64(simEpochMS)
		var open, queued []int64 // ticks that are due, and those at the publisher
		var total int64
		t.Repeat(map[string]func(*rapid.T){
			"due": func(t *rapid.T) {
				now += rapid.Int64Range(0, 500).Draw(t, "pause")
				l.add(now)
				open = append(open, now)
			},
			"done": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				at := open[i]
				open = append(open[:i], open[i+1:]...)
				before := rapid.IntRange(0, 2).Draw(t, "before")
				l.queue(at, before, func() {
					for range before {
						queued = append(queued, at) // the tick is open while what goes before is
					}
					queued = append(queued, at)
				})
			},
			"acknowledged": func(t *rapid.T) {
				n := rapid.IntRange(0, len(queued)).Draw(t, "n")
				total += int64(n)
				queued = queued[n:]
				l.settle(total)
			},
			"": func(t *rapid.T) {
				until := l.until(now)
				oldest := now + 1
				for _, at := range append(append([]int64(nil), open...), queued...) {
					oldest = min(oldest, at)
				}
				if until >= oldest {
					t.Fatalf("settled until %d, but %d is not", until, oldest)
				}
				if until < oldest-settleMS-1 {
					t.Fatalf("settled until %d only, and the oldest open tick is %d", until, oldest)
				}
			},
		})
	})
}

func TestStatisticsOfACycle(t *testing.T) {
	t.Parallel()
	now := int64(simEpochMS) // a multiple of the interval
	st := newStatistics(10*time.Second, HealthChecks, func() int64 { return now })
	busy := func(at int64, b bool) { now = simEpochMS + at; st.setBusy(b) }
	busy(1_000, true)
	busy(3_000, false)
	busy(9_000, true)
	busy(12_000, false)
	st.ran(simTarget(1, 10_000, 0, 0), simEpochMS+1_000, picketv1.Status_STATUS_DEGRADED)
	st.ran(simTarget(2, 10_000, 0, 0), simEpochMS+9_000, picketv1.Status_STATUS_UNREACHABLE)
	var status picketv1.WorkerStatus
	now = simEpochMS + 13_000
	st.fill(&status, now, simEpochMS+9_998)
	if status.GetLastRun() != nil {
		t.Errorf("a cycle of which a tick is open is finished: %v", &status)
	}
	st.fill(&status, now, now)
	if got := status.GetLastRun().AsTime().UnixMilli(); got != simEpochMS {
		t.Errorf("last run %d", got)
	}
	if status.GetLastDurationSeconds() != 3 || status.GetIntervalSeconds() != 10 || status.GetSuccessful() != 1 || status.GetFailed() != 1 {
		t.Errorf("%v", &status)
	}
	now += 24 * 3_600_000 // the clock is set far forward, and back
	st.fill(&status, now, now)
	now -= 48 * 3_600_000
	st.setBusy(true)
	if n := len(st.cycles); n > mostCycles+1 {
		t.Errorf("%d cycles are kept", n)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	good := func() *picketv1.ScheduledCheck {
		return &picketv1.ScheduledCheck{
			Server: "s", Org: "o", Location: "l", Lifecycle: "maintenance",
			Check: &picketv1.Check{
				Name: "health", Id: "id", Kind: "http", TimeoutMs: 1000,
				Schedules: []*picketv1.Schedule{{Revision: 1, IntervalMs: 5000, EffectiveAt: timestamppb.Now()}},
				Spec:      &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: "https://Example.com:8443/x"}},
			},
		}
	}
	broken := errors.New("broken")
	build := func(*picketv1.ScheduledCheck) (Runner, error) { return nil, broken }
	c, err := newTarget(good(), build)
	if err != nil || c.hostName != "example.com" || c.inactive {
		t.Fatalf("target %+v, %v", c, err)
	}
	// A check that cannot be probed is due all the same, and is not shown as down.
	if r := c.runner.Run(t.Context()).Result; r.GetStatus() != picketv1.Status_STATUS_UNKNOWN || r.GetMessage() != "broken" || r.GetReason() != "invalid_check" {
		t.Errorf("result %v", r)
	}
	for name, spoil := range map[string]func(*picketv1.ScheduledCheck){
		"no check":    func(s *picketv1.ScheduledCheck) { s.Check = nil },
		"no id":       func(s *picketv1.ScheduledCheck) { s.Check.Id = "" },
		"no server":   func(s *picketv1.ScheduledCheck) { s.Server = "" },
		"no schedule": func(s *picketv1.ScheduledCheck) { s.Check.Schedules = nil },
	} {
		s := good()
		spoil(s)
		if _, err := newTarget(s, build); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	tcp := good()
	tcp.Check.Spec = &picketv1.Check_Tcp{Tcp: &picketv1.TCPSpec{Address: "[::1]:5432"}}
	if got := hostOf(tcp.GetCheck()); got != "::1" {
		t.Errorf("host %q", got)
	}
}
