package ticker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// runnerFunc is a Runner.
type runnerFunc func(ctx context.Context) Outcome

func (f runnerFunc) Run(ctx context.Context) Outcome { return f(ctx) }

func (p *place) ask(checkID string) (*picketv1.RunReply, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	reply := &picketv1.RunReply{}
	return reply, p.conn.Request(ctx, "prober", "local", &picketv1.RunRequest{CheckId: checkID, Actor: "somebody"}, reply)
}

// askServed asks until somebody is there.
func (p *place) askServed(checkID string) *picketv1.RunReply {
	p.t.Helper()
	var reply *picketv1.RunReply
	p.await("somebody who answers", func() bool {
		var err error
		if reply, err = p.ask(checkID); err != nil && !errors.Is(err, bus.ErrNoResponders) {
			p.t.Fatal(err)
		}
		return err == nil
	})
	return reply
}

// measured is a Runner that brings figures.
func measured(context.Context) Outcome {
	return Outcome{
		Result: &picketv1.ProbeResult{Status: healthy, LatencyUs: 900},
		Messages: []bus.Message{{Payload: &picketv1.MetricBatch{
			Values: map[string]float64{"cpu_percent": 12.5, "memory_percent": 50}, Extra: `{"os":"linux"}`,
		}}},
	}
}

// What a person asks for is looked at beside the schedule, published and answered;
// ticks, ledger and statistics know nothing of it.
func TestOnDemand(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.follow()
	p.catalog(1, time.Hour, "http://127.0.0.1:1/health")
	const id = "0190f3c4-0000-7000-8000-000000000001"
	a := p.startWith("prober-a", func(o *Options) {
		o.Build = func(*picketv1.ScheduledCheck) (Runner, error) { return runnerFunc(measured), nil }
	})
	before := time.Now()
	reply := p.askServed(id)
	r := reply.GetResult()
	if !r.GetOnDemand() || r.GetStatus() != healthy || r.GetServer() != "server-1" || r.GetInstance() != "prober-a" || r.GetRevision() != 1 ||
		r.GetStartedAt() == nil || reply.GetRefused() != "" {
		t.Fatalf("reply %v", reply)
	}
	at := r.GetScheduledAt().AsTime()
	if late := at.Sub(before); late < -time.Second || late > 10*time.Second {
		t.Errorf("scheduled %v after it was asked for", late)
	}
	c := simTarget(1, time.Hour.Milliseconds(), 0, 0)
	if c.schedules.Count(c.serial, "local", at.UnixMilli(), at.UnixMilli()+1) != 0 {
		t.Error("it has the identity of a tick")
	}
	want := &picketv1.MetricBatch{
		Server: "server-1", Org: "default", Location: "local", CheckId: id, ServerId: "id-of-server-1", Instance: "prober-a",
		ScheduledAt: r.GetScheduledAt(), OnDemand: true,
		Values: map[string]float64{"cpu_percent": 12.5, "memory_percent": 50}, Extra: `{"os":"linux"}`,
	}
	if diff := cmp.Diff(want, reply.GetMetrics(), protocmp.Transform()); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	p.await("the result in the stream", func() bool {
		for _, s := range p.seen() {
			if s.id == identity(id, "local", at.UnixMilli()) {
				if diff := cmp.Diff(r, s.result, protocmp.Transform()); diff != "" {
					t.Errorf("published (-answered +published):\n%s", diff)
				}
				return true
			}
		}
		return false
	})
	a.ticker.ledger.settle(a.ticker.publisher.Stats().Settled)
	now := a.ticker.clock.NowMS()
	if until := a.ticker.ledger.until(now); until != now {
		t.Errorf("settled until %d ms ago", now-until)
	}
	if status := a.ticker.status(); status.GetPerformed() != 0 {
		t.Errorf("statistics %v", status)
	}
	if reply := p.askServed("0190f3c4-0000-7000-8000-00000000dead"); reply.GetRefused() != "unknown_check" || reply.GetResult() != nil {
		t.Errorf("an unknown check: %v", reply)
	}
	a.stop()
	if reply, err := p.ask(id); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("after the stop: %v, %v", reply, err)
	}
}

// One look at a time for each check; one that hangs ends with the check's timeout,
// and at once when the process stops; one that panics harms nobody.
func TestOnDemandIsContained(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.catalog(3, time.Hour, "http://127.0.0.1:1/health")
	begun := make(chan struct{}, 16)
	var bounded atomic.Bool
	a := p.startWith("prober-a", func(o *Options) {
		o.Build = func(check *picketv1.ScheduledCheck) (Runner, error) {
			switch check.GetServer() {
			case "server-1":
				return runnerFunc(func(context.Context) Outcome { panic("a bug") }), nil
			case "server-2":
				return runnerFunc(func(context.Context) Outcome { return Outcome{} }), nil
			}
			return runnerFunc(func(ctx context.Context) Outcome {
				_, has := ctx.Deadline()
				bounded.Store(has)
				begun <- struct{}{}
				<-ctx.Done()
				return failed("cancelled", "the look was ended")
			}), nil
		}
	})
	const id = "0190f3c4-0000-7000-8000-00000000000"
	for _, n := range []string{"1", "2"} {
		if r := p.askServed(id + n).GetResult(); r.GetStatus() != unknown || r.GetReason() != "internal" || !r.GetOnDemand() {
			t.Errorf("a check that fails in itself: %v", r)
		}
	}
	first := make(chan *picketv1.RunReply, 1)
	go func() {
		reply, err := p.ask(id + "3")
		if err != nil {
			reply = &picketv1.RunReply{Refused: err.Error()}
		}
		first <- reply
	}()
	<-begun
	if !bounded.Load() {
		t.Error("it runs without an end")
	}
	if reply := p.askServed(id + "3"); reply.GetRefused() != bus.RefusedBusy {
		t.Errorf("asked a second time: %v", reply)
	}
	a.stop()
	if reply := <-first; reply.GetRefused() != bus.RefusedStopping {
		t.Errorf("asked of one that stops: %v", reply)
	}
}

// No more run at a time than are allowed for.
func TestOnDemandIsBounded(t *testing.T) {
	t.Parallel()
	a := asked{checks: map[string]struct{}{}}
	for i := range mostOnDemand {
		if !a.begin(simTarget(i, 1_000, 0, 0).id) {
			t.Fatalf("look %d is refused", i)
		}
	}
	if a.begin("one more") {
		t.Error("one too many is taken")
	}
	a.end(simTarget(3, 1_000, 0, 0).id)
	if !a.begin("one more") {
		t.Error("there is room and it is refused")
	}
}

// A look beside the schedule is nobody's tick, however dense the schedule is.
func TestBesides(t *testing.T) {
	t.Parallel()
	c := simTarget(1, 1_000, 0, 0)
	due := c.due(simEpochMS, simEpochMS+1_000)[0]
	for at, want := range map[int64]int64{due: due + 1, due - 1: due - 1, due + 1: due + 1} {
		if got := c.besides(at); got != want {
			t.Errorf("asked %d ms from a tick: %d ms from it", at-due, got-due)
		}
	}
	c.schedules[0].IntervalMS = 1 // no such instant is near: the search ends all the same
	if got := c.besides(due); got < due || got > due+mostBeside {
		t.Errorf("%d ms away", got-due)
	}
}
