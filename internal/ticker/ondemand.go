package ticker

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// refusedUnknown says that the check asked for is none of this service's.
	refusedUnknown = "unknown_check"
	// refusedAbandoned says that nobody waits any more; so nobody reads it.
	refusedAbandoned = "abandoned"
	// mostOnDemand bounds the checks that a process runs on demand at a time, which
	// come on top of what its schedule runs.
	mostOnDemand = 32
)

// asked are the checks that are being run on demand: a second look at the same
// time would tell no more. It is safe for concurrent use.
type asked struct {
	mu     sync.Mutex
	checks map[string]struct{}
}

func (a *asked) begin(checkID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, busy := a.checks[checkID]; busy || len(a.checks) >= mostOnDemand {
		return false
	}
	a.checks[checkID] = struct{}{}
	return true
}

func (a *asked) end(checkID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.checks, checkID)
}

// runNow runs a check beside its schedule. It is a look like any other, but for
// its identity, and it moves neither the ledger nor the statistics of cycles. Any
// replica does it: each knows all checks of the location.
func (k *Ticker) runNow(ctx context.Context, request *picketv1.RunRequest) *picketv1.RunReply {
	refuse := func(reason string) *picketv1.RunReply {
		k.metrics.refused.WithLabelValues(reason).Inc()
		return &picketv1.RunReply{Refused: reason}
	}
	t := k.sched.target(request.GetCheckId())
	if t == nil {
		return refuse(refusedUnknown)
	}
	if !k.asked.begin(t.id) {
		return refuse(bus.RefusedBusy)
	}
	defer k.asked.end(t.id)
	started := k.clock.Now()
	outcome := k.run(context.WithValue(ctx, onDemandKey{}, true), t)
	if outcome.Result.GetStatus() == picketv1.Status_STATUS_UNKNOWN {
		switch ctx.Err() {
		case nil:
		case context.Canceled:
			return refuse(bus.RefusedStopping)
		default:
			return refuse(refusedAbandoned)
		}
	}
	metrics := k.reporter.onDemand(t, t.besides(started.UnixMilli()), started, outcome)
	k.log.Info("check run on demand", "org", t.org, "server", t.server, "check", t.name, "actor", request.GetActor())
	return &picketv1.RunReply{Result: outcome.Result, Metrics: metrics}
}

// mostBeside bounds the search for such an instant: the catalog allows no interval
// of which that would matter.
const mostBeside = 1000

// besides returns the first instant from one on at which the check is not due, so
// that a look there is nobody's tick.
func (t *target) besides(atMS int64) int64 {
	for last := atMS + mostBeside; atMS < last && t.schedules.Count(t.serial, t.location, atMS, atMS+1) > 0; atMS++ {
	}
	return atMS
}

// onDemand completes and publishes what came of a look that somebody asked for,
// and returns the figures that it brought.
func (r *reporter) onDemand(t *target, atMS int64, started time.Time, outcome Outcome) *picketv1.MetricBatch {
	revision := int64(0)
	if v, ok := t.schedules.At(atMS); ok {
		revision = v.Revision
	}
	result := outcome.Result
	r.complete(t, atMS, revision, result)
	result.StartedAt, result.OnDemand = timestamppb.New(started), true
	r.metrics.onDemand.WithLabelValues(result.GetKind(), health.Word(result.GetStatus())).Inc()
	r.send(t, atMS, false, outcome)
	for _, m := range outcome.Messages {
		if batch, ok := m.Payload.(*picketv1.MetricBatch); ok {
			return batch
		}
	}
	return nil
}
