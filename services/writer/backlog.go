package writer

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

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
func (s *Service) noteBacklog(share float64) {
	s.backlog.set(share)
	s.metrics.backlog.Set(share)
	if share >= backlogAlarm {
		s.log.Error("unread results fill the stream, the oldest will be lost", "share", share)
	}
}

// lookAtBacklog judges the last measurement.
func (s *Service) lookAtBacklog(context.Context, time.Time) verdict {
	share := s.backlog.get()
	if share < backlogAlarm {
		return verdict{status: picketv1.Status_STATUS_HEALTHY}
	}
	return verdict{
		picketv1.Status_STATUS_CRITICAL, ReasonBacklog,
		fmt.Sprintf("results not yet stored fill %.0f %% of the stream, the oldest will be lost", 100*share),
	}
}
