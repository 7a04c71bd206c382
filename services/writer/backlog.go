package writer

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Picket's check on how far its writers are behind, registered as PartitionCheck is.
const (
	WriterServer = "picket-writer"
	BacklogCheck = "backlog"

	// ReasonBacklog is the reason of its critical result.
	ReasonBacklog = "backlog"
)

// backlogAlarm is the unread share of the stream's room from which on what is not stored is in danger: the stream
// throws the oldest away when it is full, and says nothing.
const backlogAlarm = 0.5

// backlog is the share that was last measured. It is safe for concurrent use.
type backlog struct{ bits atomic.Uint64 }

func (b *backlog) set(share float64) { b.bits.Store(math.Float64bits(share)) }
func (b *backlog) get() float64      { return math.Float64frombits(b.bits.Load()) }

// noteBacklog takes a measurement of the consumer.
func (r *reader) noteBacklog(share float64, state bus.ConsumerState) {
	r.backlog.set(share)
	r.metrics.backlog.WithLabelValues(r.durable).Set(share)
	r.metrics.pending.WithLabelValues(r.durable).Set(float64(state.Pending))
	r.metrics.ackPending.WithLabelValues(r.durable).Set(float64(state.AckPending))
	r.metrics.redelivered.WithLabelValues(r.durable).Set(float64(state.Redelivered))
	if share >= backlogAlarm {
		r.log.Error("unread messages fill the stream, the oldest will be lost", "stream", r.stream, "share", share)
	}
}

// lookAtBacklog judges the last measurements.
func (s *Service) lookAtBacklog(context.Context, time.Time) verdict {
	for _, r := range []*reader{&s.results.reader, &s.figures.reader} {
		if share := r.backlog.get(); share >= backlogAlarm {
			return verdict{
				picketv1.Status_STATUS_CRITICAL, ReasonBacklog,
				fmt.Sprintf("what is not yet stored fills %.0f %% of %s, the oldest will be lost", 100*share, r.stream),
			}
		}
	}
	return verdict{status: picketv1.Status_STATUS_HEALTHY}
}
