package exporter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

const (
	sweepLease = "exporter-sweep"
	// sweepMost bounds what one pass expires and settles; the next goes on.
	sweepMost = 500
	// An export without a work item is noticed after lostEmpty when the queue is empty, and after lostBusy else: then its
	// item may be far behind others.
	lostEmpty = 30 * time.Second
	lostBusy  = 15 * time.Minute
	// forgetAge is how long the row of an export that is over is kept.
	forgetAge = 30 * 24 * time.Hour
	// lookupBatch is how many objects are compared with rows at a time.
	lookupBatch = 500
)

// sweep looks at intervals, one replica at a time, for what nobody else ends: rows and objects that a killed process left,
// and those whose time is over. Should a pass outlast the lease, two do the same work and each row still has one at a time.
func (s *Service) sweep(ctx context.Context) {
	var stored time.Time // when the store was last listed
	for {
		lease, err := s.store.AcquireLease(ctx, sweepLease, s.kit.Instance, 3*s.config.SweepInterval)
		if err == nil {
			err = s.sweepRows(ctx)
			if err == nil && time.Since(stored) >= s.config.OrphanGrace/2 {
				if err = s.sweepObjects(ctx); err == nil {
					stored = time.Now()
				}
			}
			if err == nil {
				s.metrics.lastSweep.SetToCurrentTime()
			}
		}
		if err != nil && !errors.Is(err, store.ErrLeaseLost) && ctx.Err() == nil {
			s.log.Warn("sweep not finished, going on with the next", "err", err)
		}
		if !sleep(ctx, s.config.SweepInterval) {
			s.leaveSweep(ctx, lease)
			return
		}
	}
}

// leaveSweep lets the next one sweep at once.
func (s *Service) leaveSweep(ctx context.Context, lease store.Lease) {
	if lease.Owner == "" {
		return
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endGrace)
	defer cancel()
	if err := s.store.ReleaseLease(ending, lease); err != nil {
		s.log.Debug("lease of the sweep not released", "err", err)
	}
}

// sweepRows takes care of rows.
func (s *Service) sweepRows(ctx context.Context) error {
	pending, processing, stuck, err := s.store.ExportStates(ctx)
	if err != nil {
		return err
	}
	s.metrics.states.WithLabelValues("pending").Set(float64(pending))
	s.metrics.states.WithLabelValues("processing").Set(float64(processing))
	s.metrics.stuck.Set(float64(stuck))

	ended, err := s.store.EndStaleReads(ctx)
	if err != nil {
		return err
	}
	if ended > 0 {
		s.log.Warn("sessions of ended attempts closed", "sessions", ended)
	}
	lost := lostBusy
	if left, err := s.bus.WorkLeft(ctx, bus.WorkExport); err == nil && left == 0 {
		lost = lostEmpty
	}
	requeued, err := s.store.RequeueExports(ctx, lost, s.config.MaxTries)
	if err != nil {
		return err
	}
	for _, r := range requeued {
		s.metrics.requeued.Inc()
		switch {
		case r.Failed:
			s.failed.Add(1)
			s.log.Error("export failed: its maker ended without a word, as those before", "export_id", r.ID, "attempt", r.Attempt, "owner", r.Owner)
		case r.Attempt > 0:
			s.log.Warn("stuck export put back into the queue", "export_id", r.ID, "attempt", r.Attempt, "owner", r.Owner)
		default:
			s.log.Warn("export without a work item put back into the queue", "export_id", r.ID)
		}
	}
	if err := repeat(func() (bool, error) { return s.store.ExpireExport(ctx, s.removeExpired) }); err != nil {
		return err
	}
	err = repeat(func() (bool, error) { return s.store.SettleExport(ctx, s.config.OrphanGrace, s.settle) })
	if err != nil {
		return err
	}
	_, err = s.store.ForgetExports(ctx, forgetAge)
	return err
}

// repeat calls do until there is nothing left for it.
func repeat(do func() (bool, error)) error {
	for range sweepMost {
		if found, err := do(); err != nil || !found {
			return err
		}
	}
	return nil
}

// removeExpired deletes the object of an export whose time is over; the row follows.
func (s *Service) removeExpired(ctx context.Context, e store.Export) error {
	if err := s.blob.Delete(ctx, e.Key); err != nil {
		return err
	}
	s.log.Info("export expired", "export_id", e.ID, "key", e.Key)
	return nil
}

// settle makes sure that an export that is over has left nothing.
func (s *Service) settle(ctx context.Context, e store.Export) error {
	if err := s.blob.AbandonUploads(ctx, e.Key); err != nil {
		return err
	}
	if e.Status == store.ExportCompleted {
		return nil
	}
	_, err := s.blob.Stat(ctx, e.Key)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return s.removeOrphan(ctx, e.Key, "export "+strings.ToLower(e.Status))
}

func (s *Service) removeOrphan(ctx context.Context, key, reason string) error {
	if err := s.blob.Delete(ctx, key); err != nil {
		return err
	}
	s.metrics.swept.Inc()
	s.log.Warn("orphaned object removed", "key", key, "reason", reason)
	return nil
}

// sweepObjects compares what the store holds with the rows. It touches only keys of the form of ours.
func (s *Service) sweepObjects(ctx context.Context) error {
	orphans := 0
	var batch []blob.Info
	flush := func() error {
		n, err := s.sweepBatch(ctx, batch)
		orphans, batch = orphans+n, batch[:0]
		return err
	}
	err := s.blob.List(ctx, "", func(info blob.Info) error {
		if _, ours := exportOf(info.Key); !ours || time.Since(info.Modified) < s.config.OrphanGrace {
			return nil
		}
		if batch = append(batch, info); len(batch) < lookupBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("sweep objects: %w", err)
	}
	uploads, err := s.sweepUploads(ctx)
	if err != nil {
		return fmt.Errorf("sweep uploads: %w", err)
	}
	s.metrics.orphans.Set(float64(orphans + uploads))
	return nil
}

// sweepBatch returns how many of the objects belong to no export.
func (s *Service) sweepBatch(ctx context.Context, batch []blob.Info) (int, error) {
	if len(batch) == 0 {
		return 0, nil
	}
	ids := make([]uuid.UUID, len(batch))
	for i, info := range batch {
		ids[i], _ = exportOf(info.Key)
	}
	owned, err := s.store.ExportKeys(ctx, ids)
	if err != nil {
		return 0, err
	}
	orphans := 0
	for i, info := range batch {
		if owned[ids[i]] == info.Key {
			continue
		}
		orphans++
		if err := s.sweepOrphan(ctx, ids[i], info); err != nil {
			return orphans, err
		}
	}
	return orphans, nil
}

// sweepOrphan removes an object unless its export needs it after all.
func (s *Service) sweepOrphan(ctx context.Context, id uuid.UUID, info blob.Info) error {
	err := s.store.WithExportLocked(ctx, id, func(ctx context.Context, e store.Export) error {
		if e.Status == store.ExportCompleted && e.Key == info.Key {
			return nil
		}
		return s.removeOrphan(ctx, info.Key, "export "+strings.ToLower(e.Status))
	})
	switch {
	case errors.Is(err, store.ErrExportState):
		return nil // it is being made
	case errors.Is(err, store.ErrNotFound):
		// Rows outlive objects here. So it is another system's with the same names in the same bucket, or older than a
		// database that was restored: whosoever it is, let it have the time that exports have.
		if time.Since(info.Modified) > s.config.Keep+s.config.OrphanGrace {
			return s.removeOrphan(ctx, info.Key, "no such export")
		}
		return nil
	}
	return err
}

// sweepUploads ends what was begun long ago for exports that nobody makes.
func (s *Service) sweepUploads(ctx context.Context) (int, error) {
	var old []blob.Unfinished
	err := s.blob.Uploads(ctx, "", func(u blob.Unfinished) error {
		if _, ours := exportOf(u.Key); ours && time.Since(u.Started) >= s.config.OrphanGrace {
			old = append(old, u)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	orphans := 0
	for _, u := range old {
		id, _ := exportOf(u.Key)
		discard := func(ctx context.Context, _ store.Export) error { return s.blob.Discard(ctx, u) }
		err := s.store.WithExportLocked(ctx, id, discard)
		if errors.Is(err, store.ErrExportState) {
			continue // whoever makes it ended those of earlier attempts
		}
		if errors.Is(err, store.ErrNotFound) {
			err = s.blob.Discard(ctx, u)
		}
		if err != nil {
			return orphans, err
		}
		orphans++
		s.metrics.swept.Inc()
		s.log.Warn("orphaned upload ended", "key", u.Key, "started", u.Started)
	}
	return orphans, nil
}

// exportOf reads the id out of the key of an object.
func exportOf(key string) (uuid.UUID, bool) {
	name, rest, _ := strings.Cut(key, ".")
	rest = strings.TrimSuffix(strings.TrimSuffix(rest, ".gz"), ".zst")
	if len(name) != 36 || !slices.Contains([]string{"csv", "ndjson", "json", "parquet"}, rest) {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(name)
	return id, err == nil && id.String() == name
}
