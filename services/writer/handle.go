package writer

import (
	"context"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

// handleShown is handle, and shows whether it can: a writer that stores nothing is not ready, whatever the reason.
func (s *Service) handleShown(ctx context.Context, batch []*bus.Msg) error {
	err := s.handle(ctx, batch)
	s.kit.Health.Set("storing", err)
	return err
}

// handle stores a batch. It returns nil when every result in it is committed or safe as a dead letter.
func (s *Service) handle(ctx context.Context, batch []*bus.Msg) error {
	ctx, cancel := finish(ctx)
	defer cancel()
	started := time.Now()
	epoch, err := s.streamEpoch(ctx, batch)
	if err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}

	dead := deadLetters{service: s}
	defer dead.log()
	rows := make([]store.Result, 0, len(batch))
	messages := make([]*bus.Msg, 0, len(batch))
	redelivered := false
	for _, msg := range batch {
		result, isResult, err := decode(msg)
		switch {
		case err != nil:
			if err := dead.add(ctx, msg, reasonOf(err), err); err != nil {
				return err
			}
		case isResult:
			result.StreamEpoch = epoch
			rows = append(rows, result)
			messages = append(messages, msg)
			redelivered = redelivered || msg.Deliveries > 1
		}
	}

	written, err := s.results.Write(ctx, rows, redelivered)
	if err != nil {
		if class := store.Classify(err); class != store.Unknown {
			return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
		}
		return fmt.Errorf("write results: %w", err)
	}
	for _, refused := range written.Refused {
		if err := dead.add(ctx, messages[refused.Row], bus.ReasonRefused, refused.Err); err != nil {
			return err
		}
	}
	s.committed(rows, written, started, redelivered)
	s.position.saw(batch)
	return nil
}

// deadLetters are those of one batch. They share a line in the log: a flood of bad messages must not be one of lines.
type deadLetters struct {
	service *Service
	count   int
	first   *bus.Msg
	cause   error
}

func (d *deadLetters) add(ctx context.Context, msg *bus.Msg, reason string, cause error) error {
	if err := msg.DeadLetter(ctx, reason, cause); err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	if d.count++; d.count == 1 {
		d.first, d.cause = msg, cause
	}
	d.service.refused.Add(1)
	d.service.metrics.deadLetters.WithLabelValues(reason).Inc()
	return nil
}

func (d *deadLetters) log() {
	if d.count > 0 {
		d.service.log.Warn("messages became dead letters", "count", d.count, "first_subject", d.first.Subject,
			"first_sequence", d.first.Sequence, "err", d.cause)
	}
}

func (s *Service) committed(rows []store.Result, written store.Written, started time.Time, redelivered bool) {
	if len(rows) == 0 {
		return
	}
	now := time.Now()
	s.rows.Add(int64(written.Rows))
	s.metrics.rows.Add(float64(written.Rows))
	s.metrics.duplicates.Add(float64(written.Duplicates))
	s.metrics.batch.Observe(now.Sub(started).Seconds())
	s.metrics.lastCommit.Set(float64(now.UnixMilli()) / 1000)
	if redelivered {
		return // what waited for a restart says nothing about the way
	}
	for i := range rows {
		if !rows[i].Missed {
			s.metrics.endToEnd.Observe(now.Sub(rows[i].ScheduledAt).Seconds())
		}
	}
}

// finish lets a batch in hand outlast the service's own context for a moment, so that a stop costs no redelivery.
func finish(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(finishGrace, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() { stop(); cancel() }
}
