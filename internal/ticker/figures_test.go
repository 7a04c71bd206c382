package ticker

import (
	"context"
	"fmt"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Figures are published before their result and with its identity, and the tick is
// settled when both are safe, not sooner.
func TestFiguresGoBeforeTheirResult(t *testing.T) {
	t.Parallel()
	r, out := newReporter(t)
	c := simTarget(1, 10_000, 9_000, 0)
	other := bus.Message{Subject: "picket.default.metric.local.else", ID: "x", Payload: &picketv1.ClockTick{}}
	outcome := measured(context.Background())
	outcome.Messages = append(outcome.Messages, other)
	r.ledger.add(simEpochMS)
	r.result(job{target: c, atMS: simEpochMS, revision: 3}, time.UnixMilli(simEpochMS+4), outcome)
	if len(out.messages) != 3 {
		t.Fatalf("%d messages", len(out.messages))
	}
	if n := out.before[2]; n != 2 {
		t.Errorf("the result waits for %d messages, want both", n)
	}
	figures, result := out.messages[0], out.messages[2]
	batch := figures.Payload.(*picketv1.MetricBatch)
	if figures.Subject != "picket.default.metric.local.server-1" || figures.ID != result.ID || !figures.Time.Equal(result.Time) ||
		batch.GetServer() != "server-1" || batch.GetCheckId() != c.id || batch.GetOnDemand() ||
		batch.GetScheduledAt().AsTime().UnixMilli() != simEpochMS || len(batch.GetValues()) != 2 {
		t.Errorf("figures %+v", figures)
	}
	if got := out.messages[1]; got.Subject != other.Subject || got.ID != other.ID {
		t.Errorf("a message of the service's own became %+v", got)
	}
	const now = simEpochMS + 60_000
	for settled := range int64(3) {
		r.ledger.settle(settled)
		if until := r.ledger.until(now); until >= simEpochMS {
			t.Errorf("settled with %d of three messages safe", settled)
		}
	}
	if r.ledger.settle(3); r.ledger.until(now) != now {
		t.Error("not settled with all messages safe")
	}
	if n := r.stats.samples.Load(); n != 0 {
		t.Errorf("%d figures are counted that the stream has not", n)
	}
	for _, m := range out.messages {
		r.acknowledged(m)
	}
	if n := r.stats.samples.Load(); n != 2 {
		t.Errorf("%d figures are counted, 2 were acknowledged", n)
	}
}

// A look on demand, and a tick that is made up for, settle nothing: what they may
// be taken for is still open.
func TestOnlyTicksSettle(t *testing.T) {
	t.Parallel()
	r, out := newReporter(t)
	c := simTarget(1, 10_000, 9_000, 0)
	r.ledger.add(simEpochMS + 50) // another check's tick, within the same step
	r.onDemand(c, simEpochMS+1, time.UnixMilli(simEpochMS), measured(context.Background()))
	r.result(job{target: c, atMS: simEpochMS, revision: 1, again: true}, time.UnixMilli(simEpochMS), measured(context.Background()))
	r.ledger.settle(int64(len(out.messages)))
	if until := r.ledger.until(simEpochMS + 60_000); until >= simEpochMS+50 {
		t.Error("a tick is settled of which there is nothing")
	}
}

// What is lost of figures and of looks on demand leaves no gap: no tick is missing.
func TestLostFiguresLeaveNoGap(t *testing.T) {
	t.Parallel()
	r, out := newReporter(t)
	c := simTarget(1, 10_000, 9_000, 0)
	r.onDemand(c, simEpochMS+1, time.UnixMilli(simEpochMS), measured(context.Background()))
	r.result(job{target: c, atMS: simEpochMS, revision: 1}, time.UnixMilli(simEpochMS), measured(context.Background()))
	lost := out.messages[:3] // all but the result of the tick
	out.messages = nil
	for _, m := range lost {
		r.dropped(m, bus.ErrQueueFull)
	}
	if r.markDropped(); len(out.messages) != 0 {
		t.Errorf("gaps %v", out.messages)
	}
	if n := r.stats.samples.Load(); n != 0 {
		t.Errorf("%d figures are counted that were lost", n)
	}
}

// Through real NATS: each stream has its own, and the heartbeat says how many
// figures the stream has.
func TestFiguresThroughRealNATS(t *testing.T) {
	t.Parallel()
	const checks, interval = 10, 2 * time.Second
	p := newPlace(t)
	p.follow()
	p.catalog(checks, interval, "http://127.0.0.1:1/health")
	a := p.startWith("collector-a", func(o *Options) {
		o.Build = func(*picketv1.ScheduledCheck) (Runner, error) { return runnerFunc(measured), nil }
		o.Kit.Tracer = sdktrace.NewTracerProvider().Tracer("test") // it samples everything
	})
	p.await("results of two intervals", func() bool { return len(p.seen()) >= 2*checks })
	a.stop()
	status := a.ticker.status()
	// Each tick is a trace, and what it leads to belongs to that.
	results := map[string]trace.SpanContext{}
	traces := map[trace.TraceID]bool{}
	p.await("all results", func() bool {
		for _, s := range p.seen() {
			results[s.id] = s.trace
			traces[s.trace.TraceID()] = true
		}
		return int64(len(results)) == status.GetPerformed()
	})
	if got, want := status.GetSamples(), 2*status.GetPerformed(); got != want {
		t.Errorf("%d figures of %d results are counted, want %d", got, status.GetPerformed(), want)
	}
	batches := map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := p.conn.Follow(ctx, bus.FollowOptions{
		Stream: bus.StreamMetrics, From: 1, MaxBatch: 256, MaxWait: 10 * time.Millisecond,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				b := &picketv1.MetricBatch{}
				if err := m.Decode(b); err != nil {
					return err
				}
				of, known := results[m.ID]
				if id := identity(b.GetCheckId(), b.GetLocation(), b.GetScheduledAt().AsTime().UnixMilli()); id != m.ID || !known {
					return fmt.Errorf("figures %s of no result: %v", m.ID, b)
				}
				if !of.IsSampled() || m.Trace.SpanID() != of.SpanID() {
					return fmt.Errorf("figures of the span %v, their result of %v", m.Trace, of)
				}
				batches[m.ID] = true
			}
			if len(batches) == len(results) {
				cancel()
			}
			return nil
		},
	})
	if len(batches) != len(results) || len(traces) != len(results) {
		t.Errorf("%d batches of figures and %d traces with %d results: %v", len(batches), len(traces), len(results), err)
	}
}

// A service runs its own kinds. A check that becomes another's is let go, and one
// that changes in what only a service sees is built anew.
func TestKinds(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.catalog(4, 5*time.Second, "http://127.0.0.1:1/health")
	built := make(chan string, 64)
	a := p.startWith("collector-a", func(o *Options) {
		o.Build = func(check *picketv1.ScheduledCheck) (Runner, error) {
			token := check.GetCredential().GetSealed()
			built <- check.GetServer() + token
			return runnerFunc(func(context.Context) Outcome { return failed("shown", token) }), nil
		}
	})
	p.await("four checks", func() bool { return a.ticker.sched.figures().Owned == 4 })
	for range 4 {
		<-built
	}
	bucket, err := p.conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put := func(i int, kind, sealed string) {
		id := fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i)
		if err := bucket.Put(t.Context(), bus.CatalogKey("default", "local", id), &picketv1.ScheduledCheck{
			Server: fmt.Sprintf("server-%d", i), Org: "default", Location: "local", Lifecycle: "active",
			Credential: &picketv1.Credential{Sealed: sealed},
			Check: &picketv1.Check{
				Name: "health", Kind: kind, Id: id, Serial: int64(i), Revision: 1, TimeoutMs: 1000,
				Schedules: []*picketv1.Schedule{{Revision: 1, IntervalMs: 5000, EffectiveAt: timestamppb.New(time.Now().Add(-time.Hour))}},
			},
		}); err != nil {
			t.Fatal(err)
		}
	}
	put(5, "metrics", "")
	put(1, "metrics", "")
	p.await("three checks", func() bool { f := a.ticker.sched.figures(); return f.Known == 3 })
	put(2, "http", "-new-token")
	if got := <-built; got != "server-2-new-token" {
		t.Errorf("built %s", got)
	}
	p.await("the new definition", func() bool {
		return p.askServed("0190f3c4-0000-7000-8000-000000000002").GetResult().GetMessage() == "-new-token"
	})
	put(1, "http", "")
	p.await("four checks again", func() bool { return a.ticker.sched.figures().Owned == 4 })
	if reply := p.askServed("0190f3c4-0000-7000-8000-000000000005"); reply.GetRefused() != refusedUnknown {
		t.Errorf("a check of another's kind: %v", reply)
	}
}
