package writer

import (
	"context"
	"errors"
	"time"

	"github.com/picketd/picket/internal/store"
)

// upkeep is work on the database that one writer at a time does.
type upkeep struct {
	// lease is the name of the right to do it, ttl how long another waits for one that fell silent.
	lease      string
	ttl, every time.Duration
	work       func(ctx context.Context, lease store.Lease) error
}

const (
	rollupEvery = 30 * time.Second
	rollupTTL   = 3 * time.Minute
	sweepEvery  = time.Hour
	sweepTTL    = 10 * time.Minute
	upkeepRetry = 30 * time.Second
)

func (s *Service) upkeeps() []upkeep {
	return []upkeep{
		{store.RollupLease, rollupTTL, rollupEvery, s.rollUp},
		{store.RetentionLease, sweepTTL, sweepEvery, s.sweep},
	}
}

// keepUp does its work whenever it holds the lease, until ctx ends, and gives the lease back then. Who does not hold it
// asks as often as the work is done, at least every half minute.
func (s *Service) keepUp(ctx context.Context, u upkeep) {
	var held store.Lease
	for {
		wait := u.every
		lease, err := s.store.AcquireLease(ctx, u.lease, s.kit.Instance, u.ttl)
		switch {
		case err == nil:
			held = lease
			if err := u.work(ctx, lease); err != nil && ctx.Err() == nil {
				wait = min(wait, upkeepRetry)
				if errors.Is(err, store.ErrLeaseLost) {
					// It took longer than the lease. What is done is done, and the rest is whoever's has it now.
					s.log.Info("lease ran out over the work", "lease", u.lease)
				} else {
					s.log.Error("upkeep of the database failed, trying again", "lease", u.lease, "err", err)
				}
			}
		case errors.Is(err, store.ErrLeaseLost):
			held = store.Lease{}
			wait = min(wait, upkeepRetry)
		default: // who held it may still
			wait = min(wait, upkeepRetry)
			s.log.Debug("lease not asked for", "lease", u.lease, "err", err)
		}
		if !sleep(ctx, wait) {
			break
		}
	}
	if held.Owner == "" {
		return
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishGrace)
	defer cancel()
	if err := s.store.ReleaseLease(last, held); err != nil {
		s.log.Debug("lease not released", "lease", u.lease, "err", err)
	}
}

// rollUp makes the roll-ups of plain mode.
func (s *Service) rollUp(ctx context.Context, lease store.Lease) error {
	now, err := s.store.Now(ctx)
	if err != nil {
		return err
	}
	buckets, err := s.store.Rollup(ctx, lease, now)
	s.metrics.rolled.Add(float64(buckets))
	if err == nil {
		s.metrics.lastRollup.SetToCurrentTime()
	}
	return err
}

// sweep removes what is older than its retention.
func (s *Service) sweep(ctx context.Context, lease store.Lease) error {
	now, err := s.store.Now(ctx)
	if err != nil {
		return err
	}
	err = s.store.Expire(ctx, lease, s.config.Retention.keep(), now)
	if err == nil {
		s.metrics.lastSweep.SetToCurrentTime()
	}
	return err
}
