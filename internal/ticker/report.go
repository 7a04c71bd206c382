package ticker

import (
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// publisher is what takes messages without blocking, and sends one when those
// before it are safe.
type publisher interface {
	Enqueue(m bus.Message, before ...bus.Message)
	Stats() bus.PublisherStats
}

// reporter makes results and markers and hands them to the publisher. It is safe
// for concurrent use.
type reporter struct {
	instance string
	ledger   *ledger
	stats    *statistics
	metrics  *metrics
	out      publisher
	log      *slog.Logger

	unexplained atomic.Int64 // lost messages that leave no gap
	// turn counts how often the clock has gone back so far that the stream may have
	// refused what it had taken for new: sent again, it must be new.
	turn atomic.Int64

	mu sync.Mutex
	// lost are the ticks whose results were dropped, by check.
	lost map[string]*picketv1.ProbeResult
}

// identity is that of a tick, whoever runs it: the Nats-Msg-Id of its result.
func identity(checkID, location string, atMS int64) string {
	b := make([]byte, 0, len(checkID)+len(location)+16)
	b = append(b, checkID...)
	b = append(b, '/')
	b = append(b, location...)
	b = append(b, '/')
	return string(strconv.AppendInt(b, atMS, 10))
}

// anew returns the Nats-Msg-Id for what has an identity.
func (r *reporter) anew(id string) string {
	if turn := r.turn.Load(); turn > 0 {
		return id + "/" + strconv.FormatInt(turn, 10)
	}
	return id
}

// result completes and publishes what came of a tick. One that was skipped before
// has been settled by its marker.
func (r *reporter) result(j job, started time.Time, outcome Outcome) {
	t, result := j.target, outcome.Result
	r.complete(t, j.atMS, j.revision, result)
	// By the clock that all share: the Runner knows only the host's.
	result.StartedAt = timestamppb.New(started)
	r.stats.ran(t, j.atMS, result.GetStatus())
	r.metrics.ran(result)
	r.send(t, j.atMS, !j.again, outcome)
}

// send publishes a result that is complete, and what goes with it: that is with
// the stream, or given up, before the result is sent. A process that dies leaves
// figures without a result then, whose tick is looked at again or marked by
// whoever comes next, and never a result that says that there are figures
// where there are none.
func (r *reporter) send(t *target, atMS int64, settles bool, outcome Outcome) {
	result := outcome.Result
	id, started := r.anew(identity(t.id, t.location, atMS)), result.GetStartedAt().AsTime()
	before := slices.Clone(outcome.Messages)
	for i := range before {
		if batch, ok := before[i].Payload.(*picketv1.MetricBatch); ok {
			before[i] = metricMessage(t, result, batch, id)
		}
		before[i].Trace = outcome.trace
	}
	m := bus.Message{
		Subject: bus.ProbeSubject(t.org, result.GetStatus(), t.location, t.server, t.name),
		ID:      id, Time: started, Payload: result, Trace: outcome.trace,
	}
	if settles {
		r.enqueue(atMS, m, before...)
		return
	}
	r.ledger.pass(1+len(before), func() { r.out.Enqueue(m, before...) })
}

// metricMessage completes the figures of a run: they have the identity of its result.
func metricMessage(t *target, of *picketv1.ProbeResult, batch *picketv1.MetricBatch, id string) bus.Message {
	batch.Server, batch.Org, batch.Location = t.server, t.org, t.location
	batch.CheckId, batch.ServerId, batch.Instance = t.id, t.serverID, of.GetInstance()
	batch.ScheduledAt, batch.OnDemand = of.GetScheduledAt(), of.GetOnDemand()
	return bus.Message{
		Subject: bus.MetricSubject(t.org, t.location, t.server), ID: id, Time: of.GetStartedAt().AsTime(), Payload: batch,
	}
}

// miss publishes one marker for ticks that nobody looked at.
func (r *reporter) miss(t *target, span tick.Span, cause string) {
	r.stats.missed(t, span)
	r.unseen(t, span, cause)
}

// skipped publishes one for ticks that nobody was to look at. To the statistics
// they were not due.
func (r *reporter) skipped(t *target, span tick.Span, cause string) { r.unseen(t, span, cause) }

// unseen makes a marker. It has no started_at, by which it differs from every look.
func (r *reporter) unseen(t *target, span tick.Span, cause string) {
	marker := &picketv1.ProbeResult{
		Status: picketv1.Status_STATUS_UNKNOWN, Reason: cause, Message: sentence(cause),
	}
	r.complete(t, span.FirstMS, span.Revision, marker)
	if span.LastMS > span.FirstMS {
		marker.MissedUntil = timestamppb.New(time.UnixMilli(span.LastMS))
	}
	r.metrics.missed.WithLabelValues(cause).Add(float64(span.Count))
	r.mark(marker)
}

// mark publishes a marker, under an identity of its own: the tick's belongs to a
// look that may still come. The end of a span is part of it: two processes that
// die soon after each other leave spans that begin at the same tick, and the
// stream must not take the longer for the shorter.
func (r *reporter) mark(marker *picketv1.ProbeResult) {
	at := marker.GetScheduledAt().AsTime()
	id := identity(marker.GetCheckId(), marker.GetLocation(), at.UnixMilli()) + "/missed"
	if until := marker.GetMissedUntil(); until != nil {
		id += "/" + strconv.FormatInt(until.AsTime().UnixMilli(), 10)
	}
	id = r.anew(id)
	r.enqueue(at.UnixMilli(), bus.Message{
		Subject: bus.ProbeSubject(marker.GetOrg(), marker.GetStatus(), marker.GetLocation(), marker.GetServer(), marker.GetCheck()),
		ID:      id, Time: at, Payload: marker,
	})
}

func (r *reporter) complete(t *target, atMS, revision int64, result *picketv1.ProbeResult) {
	result.Server, result.Check, result.Org, result.Location = t.server, t.name, t.org, t.location
	result.Kind, result.CheckId, result.Revision, result.Instance = t.kind, t.id, revision, r.instance
	result.ScheduledAt = timestamppb.New(time.UnixMilli(atMS))
}

func (r *reporter) enqueue(atMS int64, m bus.Message, before ...bus.Message) {
	r.ledger.queue(atMS, len(before), func() { r.out.Enqueue(m, before...) })
}

// acknowledged counts a message that the stream has taken.
func (r *reporter) acknowledged(m bus.Message) {
	r.metrics.published(m)
	if batch, ok := m.Payload.(*picketv1.MetricBatch); ok {
		r.stats.samples.Add(int64(len(batch.GetValues()) + len(batch.GetSamples())))
	}
}

// dropped remembers a message that the publisher gave up. The oldest go first,
// so that what is lost of a check is one span. Figures go with their result or,
// if only they are lost, are said to be; a look that somebody asked for was no tick.
func (r *reporter) dropped(m bus.Message, _ error) {
	r.metrics.failed(m)
	result, ok := m.Payload.(*picketv1.ProbeResult)
	if !ok || result.GetOnDemand() {
		r.unexplained.Add(1)
		return
	}
	until := result.GetScheduledAt()
	if result.GetMissedUntil() != nil {
		until = result.GetMissedUntil()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	gap := r.lost[result.GetCheckId()]
	if gap == nil {
		r.lost[result.GetCheckId()] = &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_UNKNOWN, Reason: causeDropped, Message: sentence(causeDropped),
			Server: result.GetServer(), Check: result.GetCheck(), Org: result.GetOrg(), Location: result.GetLocation(),
			Kind: result.GetKind(), CheckId: result.GetCheckId(), Revision: result.GetRevision(), Instance: r.instance,
			ScheduledAt: result.GetScheduledAt(), MissedUntil: until,
		}
		return
	}
	if at := result.GetScheduledAt(); at.AsTime().Before(gap.GetScheduledAt().AsTime()) {
		gap.ScheduledAt, gap.Revision = at, result.GetRevision()
	}
	if until.AsTime().After(gap.GetMissedUntil().AsTime()) {
		gap.MissedUntil = until
	}
}

// markDropped publishes the gaps that dropped messages left. It is called when
// there is room again.
func (r *reporter) markDropped() {
	r.mu.Lock()
	lost := r.lost
	if len(lost) > 0 {
		r.lost = map[string]*picketv1.ProbeResult{}
	}
	r.mu.Unlock()
	if n := r.unexplained.Swap(0); n > 0 {
		r.log.Warn("messages lost that are nobody's tick", "messages", n)
	}
	for _, gap := range lost {
		at, until := gap.GetScheduledAt().AsTime(), gap.GetMissedUntil().AsTime()
		if !until.After(at) {
			gap.MissedUntil = nil
		}
		r.metrics.missed.WithLabelValues(causeDropped).Inc()
		r.ledger.add(at.UnixMilli())
		r.mark(gap)
	}
}

// sentence says a cause to people.
func sentence(cause string) string {
	switch cause {
	case causeTakeover:
		return "not looked at: the prober that owned the check was gone"
	case causeClock:
		return "not looked at: the clock was set forward"
	case causeSuspended:
		return "not looked at: the prober was suspended"
	case causeDropped:
		return "looked at, but the result was lost while NATS was away"
	case causeStopped:
		return "not looked at: the prober stopped"
	case causeRemoved:
		return "not looked at: the check was removed"
	case causeOverload:
		return "not looked at in time: more was due than could run"
	default:
		return "not looked at: skipped (" + strings.ReplaceAll(strings.TrimPrefix(cause, causeSkipped), "_", " ") + ")"
	}
}
