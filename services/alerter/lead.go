package alerter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

const (
	batchEvents = 1000
	// batchWait is what a deciding result waits at most for company before it is folded.
	batchWait = 100 * time.Millisecond
)

// lead folds the stream with the right that lease gives, until ctx ends or something leaves a doubt.
func (s *Service) lead(ctx context.Context, lease store.Lease) error {
	memory, err := s.load(ctx, lease)
	if err != nil {
		return err
	}
	f := newFolder(s, lease, memory)
	s.log.Info("folding events", "epoch", lease.Epoch, "from_seq", memory.Cursor.Seq+1, "snapshot_seq", memory.Snapshot.Seq,
		"checks", f.state.Checks(), "alerts", len(memory.Alerts))
	_, seq := f.state.Position()
	s.at.Store(seq)
	s.metrics.leader.Set(1)
	defer s.metrics.standby()

	group, work := errgroup.WithContext(ctx)
	group.Go(func() error { return s.renew(work, lease) })
	group.Go(func() error { return s.publish(work, lease, f) })
	group.Go(func() error { return s.watchStream(work, memory.Cursor.Epoch) })
	group.Go(func() error { s.keepStatuses(work, f.statuses); return nil })
	group.Go(func() error { s.showCertificates(work, &f.certificates); return nil })
	group.Go(func() error {
		err := s.bus.Follow(work, bus.FollowOptions{
			Stream: bus.StreamEvents, From: seq + 1, MaxBatch: batchEvents, MaxWait: batchWait, Handle: f.handle,
		})
		if err == nil && ctx.Err() == nil {
			err = bus.ErrInterrupted // one of the others gave up: its error is first
		}
		return errors.Join(err, f.settle())
	})
	err = group.Wait()
	if ctx.Err() == nil {
		return err
	}
	// Told to stop: leave nothing to fold again, and no wait for the next one.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishGrace)
	defer cancel()
	if err := errors.Join(f.finish(last), s.store.ReleaseAlerter(last, lease)); err != nil {
		s.log.Warn("last commit failed, its events will be folded again", "err", err)
	}
	return nil
}

// load reads the memory, and moves the cursor when the stream is not the one it belongs to.
func (s *Service) load(ctx context.Context, lease store.Lease) (store.AlerterMemory, error) {
	for {
		memory, err := s.store.LoadAlerter(ctx, lease)
		if err != nil {
			return memory, err
		}
		info, err := s.bus.StreamInfo(ctx, bus.StreamEvents)
		if err != nil {
			// Perhaps somebody removed it.
			return memory, errors.Join(err, s.bus.EnsureStreams(ctx, s.limits))
		}
		to, gap := reposition(memory, info)
		if to == memory.Cursor {
			return memory, nil
		}
		if gap != nil {
			s.log.Error("event stream is not where it was left", "reason", gap.Reason, "seq", memory.Cursor.Seq,
				"from_seq", gap.FromSeq, "to_seq", gap.ToSeq)
		}
		if err := s.store.MoveAlerter(ctx, lease, memory.Cursor, to, gap); err != nil {
			return memory, err
		}
	}
}

// reposition says where the cursor belongs in the stream that is there, and what is lost.
func reposition(memory store.AlerterMemory, info bus.StreamInfo) (to store.StreamPosition, gap *store.StreamGap) {
	at := memory.Cursor
	lost := store.StreamGap{
		Stream: bus.StreamEvents, Consumer: consumer, StreamEpoch: at.Epoch, From: memory.EventAt, To: memory.EventAt,
	}
	switch {
	case at.Epoch == 0: // the first stream ever
		return store.StreamPosition{Epoch: info.Epoch()}, nil
	case at.Epoch != info.Epoch():
		lost.Reason, lost.FromSeq, lost.ToSeq = "recreated", at.Seq+1, at.Seq+1
		if info.Created.After(lost.To) {
			lost.To = info.Created
		}
		to = store.StreamPosition{Epoch: info.Epoch()}
	case int64(info.LastSeq) < at.Seq:
		lost.Reason, lost.FromSeq, lost.ToSeq = "rolled_back", int64(info.LastSeq)+1, at.Seq
		to = store.StreamPosition{Epoch: at.Epoch, Seq: int64(info.LastSeq)}
	default:
		return at, nil
	}
	if memory.EventAt.IsZero() { // nothing was ever folded, so nothing is known to be lost
		return to, nil
	}
	return to, &lost
}

// renew holds the lease. Its error ends the lead: somebody took over, or the database did not answer for so long that
// somebody may.
func (s *Service) renew(ctx context.Context, lease store.Lease) error {
	held := time.Now()
	for sleep(ctx, s.config.Lease/4) {
		now := time.Now()
		attempt, cancel := context.WithTimeout(ctx, s.config.Lease/2)
		err := s.store.RenewAlerter(attempt, lease, s.config.Lease)
		cancel()
		switch {
		case err == nil:
			held = now
		case ctx.Err() != nil:
		case errors.Is(err, store.ErrLeaseLost), time.Since(held) > s.config.Lease:
			return fmt.Errorf("hold the lease: %w", err)
		}
	}
	return nil
}

// watchStream measures how far the fold is behind the stream, and ends the lead when it is another stream than the one that
// was looked at before reading began: the server says nothing of that to a reader that waits for a sequence to come.
func (s *Service) watchStream(ctx context.Context, epoch int64) error {
	for {
		at := s.at.Load()
		if info, err := s.bus.StreamInfo(ctx, bus.StreamEvents); err == nil {
			if info.Epoch() != epoch || info.LastSeq < at {
				return fmt.Errorf("watch stream: %w: it is another one", bus.ErrInterrupted)
			}
			s.metrics.lag.Set(float64(info.LastSeq - at))
		}
		if !sleep(ctx, streamEvery) {
			return nil
		}
	}
}
