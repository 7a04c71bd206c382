package writer

import (
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// declare registers Picket's database with its check of partitions, as whoever registers Picket's own parts does.
func (w *world) declare(interval time.Duration) store.CheckInfo {
	w.t.Helper()
	server := catalog.Server{
		Name: SelfServer, Source: catalog.SourceSelf,
		Checks: []catalog.Check{
			{Name: catalog.HealthCheck, TCP: &picketv1.TCPSpec{Address: "127.0.0.1:5432"}},
			{Name: PartitionCheck, Reported: true, Interval: interval, Timeout: interval / 2},
		},
	}
	server.Complete(catalog.Defaults{})
	current, err := w.store.LoadCatalog(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	plan, conflicts := catalog.Diff(catalog.SourceSelf, []catalog.Server{server}, current.Servers)
	if len(conflicts) > 0 {
		w.t.Fatal(conflicts)
	}
	if _, err := w.store.ApplyCatalog(w.t.Context(), plan, nil); err != nil {
		w.t.Fatal(err)
	}
	check, err := w.store.FindCheck(w.t.Context(), catalog.DefaultOrg, SelfServer, PartitionCheck)
	if err != nil {
		w.t.Fatal(err)
	}
	return check
}

// TestWriterReportsPartitions: two writers look at every tick, each tick has one row, and after a time without any
// writer the ticks of that time are missed with a reason.
func TestWriterReportsPartitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	check := w.declare(time.Second)
	seen := func() int {
		n := 0
		for _, row := range w.history() {
			if row.CheckID == check.ID && row.Status == picketv1.Status_STATUS_HEALTHY {
				n++
			}
		}
		return n
	}
	one, two := w.start("one", w.database.URL), w.start("two", w.database.URL)
	w.until("some ticks", func() bool { return seen() >= 3 })
	one.stop()
	two.stop()
	stopped, before := time.Now(), seen()
	timer := time.NewTimer(3 * time.Second)
	defer timer.Stop()
	<-timer.C // nobody is there for a few ticks
	w.start("three", w.database.URL)
	w.until("more ticks", func() bool { return seen() >= before+2 })

	rows := w.history()
	last := rows[len(rows)-1].ScheduledAt
	from := time.UnixMilli(check.Versions[0].EffectiveAtMS)
	coverage, findings, err := w.store.Audit(t.Context(), store.CoverageFilter{Server: SelfServer, Check: PartitionCheck}, from, last, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) > 0 || coverage.Undue > 0 {
		t.Errorf("audit found %+v", findings)
	}
	if coverage.Explained["missed"] < 2 || coverage.Due != coverage.Seen+coverage.Missed {
		t.Errorf("coverage %+v, want the ticks after %v missed", coverage, stopped)
	}
}

func TestPartitionMissingIsCritical(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	mode, err := w.store.Mode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if mode != store.ModePlain {
		t.Skipf("mode %s has no partitions of ours", mode)
	}
	w.declare(time.Second)
	svc, _ := w.service("one")
	watch := reportWatch{service: svc, reported: reported{SelfServer, PartitionCheck, svc.lookAtPartitions}}
	if err := watch.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	missing := watch.seen(t.Context(), now, 1)
	if missing.GetStatus() != picketv1.Status_STATUS_CRITICAL || missing.GetReason() != ReasonPartitionMissing {
		t.Errorf("without partitions: %v", missing)
	}
	if err := w.store.EnsurePartitions(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if there := watch.seen(t.Context(), now, 1); there.GetStatus() != picketv1.Status_STATUS_HEALTHY {
		t.Errorf("with partitions: %v", there)
	}
	// Nobody can ask: that says nothing about partitions, and has a message identity of its own.
	w.store.Close()
	svc.store.Close()
	unknown := watch.seen(t.Context(), now, 1)
	if unknown.GetStatus() != picketv1.Status_STATUS_UNKNOWN {
		t.Errorf("without a database: %v", unknown)
	}
	if err := watch.send(t.Context(), unknown); err != nil {
		t.Error(err)
	}
	if err := watch.send(t.Context(), missing); err != nil {
		t.Error(err)
	}
	info, err := w.bus.StreamInfo(t.Context(), bus.StreamEvents)
	if err != nil || info.Messages != 2 {
		t.Errorf("%d messages (%v), want 2: a tick nobody looked at hides no outcome", info.Messages, err)
	}
}

// TestWhatWasDueLongAgoIsNotReported: a check that was moved to another location more than a day ago is owed ticks here that
// no message may speak of any more; nothing is said, and nothing of another time instead.
func TestWhatWasDueLongAgoIsNotReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	w.declare(time.Minute)
	svc, _ := w.service("one")
	watch := reportWatch{service: svc, reported: reported{SelfServer, PartitionCheck, svc.lookAtPartitions}}
	if err := watch.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	watch.last = now.Add(-50 * time.Hour).UnixMilli()
	watch.schedules = tick.Schedules{
		{Revision: 1, IntervalMS: time.Minute.Milliseconds(), EffectiveAtMS: now.Add(-60 * time.Hour).UnixMilli()},
		{Revision: 2, EffectiveAtMS: now.Add(-40 * time.Hour).UnixMilli()}, // elsewhere
	}
	watch.step(t.Context())
	info, err := w.bus.StreamInfo(t.Context(), bus.StreamEvents)
	if err != nil || info.Messages != 0 {
		t.Errorf("%d messages (%v), want none", info.Messages, err)
	}
	if again := now.Add(-40 * time.Hour); watch.last < again.Add(-2*time.Minute).UnixMilli() {
		t.Errorf("what is past is asked for again and again: %s", time.UnixMilli(watch.last))
	}
}

// TestBacklogIsReported: from half of the stream's room on, what is unread is critical, and it is well again below.
func TestBacklogIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	svc, _ := w.service("one")
	results := func(s *Service) *reader { return &s.results.reader }
	metrics := func(s *Service) *reader { return &s.figures.reader }
	for _, step := range []struct {
		of    func(*Service) *reader
		share float64
		want  picketv1.Status
	}{
		{results, 0, picketv1.Status_STATUS_HEALTHY},
		{results, 0.49, picketv1.Status_STATUS_HEALTHY},
		{results, 0.5, picketv1.Status_STATUS_CRITICAL},
		{results, 0.1, picketv1.Status_STATUS_HEALTHY},
		{metrics, 0.5, picketv1.Status_STATUS_CRITICAL},
		{metrics, 0.1, picketv1.Status_STATUS_HEALTHY},
	} {
		for _, r := range []*reader{&svc.results.reader, &svc.figures.reader} {
			r.noteBacklog(0, bus.ConsumerState{})
		}
		step.of(svc).noteBacklog(step.share, bus.ConsumerState{Pending: 3})
		if got := svc.lookAtBacklog(t.Context(), time.Now()); got.status != step.want {
			t.Errorf("at %v: %+v", step.share, got)
		}
	}
}
