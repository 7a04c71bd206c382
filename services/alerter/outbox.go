package alerter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

const (
	outboxBatch = 500
	outboxPoll  = time.Second
)

// publish tells the world what is committed: in order, and each event until the stream has acknowledged it. An alerter that
// dies between the two tells it again under the same identity, which the stream drops within its dedup window and whoever
// reads it may. Its error ends the lead.
func (s *Service) publish(ctx context.Context, lease store.Lease, f *folder) error {
	poll := time.NewTicker(outboxPoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.committed:
		case <-poll.C: // what failed before
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = s.publishSome(ctx, lease, &f.traces); errors.Is(err, store.ErrLeaseLost) {
				return err
			} else if err != nil && ctx.Err() == nil {
				s.log.Warn("alert events not published, trying again", "err", err)
			}
		}
	}
}

// publishSome publishes the oldest events and reports whether there may be more.
func (s *Service) publishSome(ctx context.Context, lease store.Lease, spans *traces) (more bool, err error) {
	events, err := s.store.Outbox(ctx, outboxBatch)
	if err != nil || len(events) == 0 {
		return false, err
	}
	messages := make([]bus.Message, len(events))
	ids := make([]int64, len(events))
	for i, out := range events {
		e := out.Event
		messages[i] = bus.Message{
			Subject: bus.AlertSubject(e.GetOrg(), e.GetTransition(), e.GetSeverity(), e.GetServer()),
			ID:      e.GetEventId(), Time: e.GetAt().AsTime(), Payload: e, Trace: spans.get(e.GetEventId()),
		}
		ids[i] = out.ID
	}
	if err := s.bus.PublishAll(ctx, messages); err != nil {
		return false, fmt.Errorf("publish alert events: %w", err)
	}
	for _, m := range messages {
		spans.forget(m.ID)
	}
	if err := s.store.ClearOutbox(ctx, lease, ids); err != nil {
		return false, err // the same ones would be there, and be told again and again without a pause
	}
	return len(events) == outboxBatch, nil
}
