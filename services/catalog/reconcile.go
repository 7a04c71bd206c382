package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

// applyRounds bounds how often the sources are applied in a row: names that move from one source to another need two
// rounds, and every plan that went stale meanwhile needs one more.
const applyRounds = 4

// reconcile brings the database in line with the sources, and the stream and the bucket in line with the database. It
// returns after how long something runs out that nobody will tell of (0: nothing does), and what the stream and the bucket
// were before.
func (s *Service) reconcile(ctx context.Context, lease store.Lease) (next time.Duration, before publication, err error) {
	started := time.Now()
	defer func() { s.metrics.took.Observe(time.Since(started).Seconds()) }()
	loaded, err := s.applySources(ctx, lease)
	if err != nil {
		return 0, before, err
	}
	at := time.Now()
	s.count(loaded)
	if before, err = s.publish(ctx, lease, loaded, at); err != nil {
		return 0, before, err
	}
	return s.nextExpiry(loaded, at), before, nil
}

// applySources carries out what every source declares and returns the catalog as it is then.
func (s *Service) applySources(ctx context.Context, lease store.Lease) (*store.Catalog, error) {
	loaded, err := s.store.LoadCatalog(ctx)
	for round := 1; err == nil; round++ {
		var applied bool
		applied, err = s.applyRound(ctx, lease, loaded)
		switch {
		case errors.Is(err, store.ErrStale) && round < applyRounds:
			err = nil
		case err != nil:
			return nil, err
		case !applied:
			return loaded, nil
		case round == applyRounds:
			// Whatever is left is for the next time; what is there goes out now.
			return s.store.LoadCatalog(ctx)
		}
		loaded, err = s.store.LoadCatalog(ctx)
	}
	return nil, err
}

// applyRound applies every source once to what is loaded, and reports whether anything changed.
func (s *Service) applyRound(ctx context.Context, lease store.Lease, loaded *store.Catalog) (changed bool, err error) {
	for _, d := range s.sources.all() {
		if changed {
			// The other sources are planned against what is there now.
			return true, nil
		}
		plan, conflicts := catalog.Diff(d.source, d.servers, loaded.Servers)
		if len(conflicts) > 0 {
			s.reportApply(d.source, d.conflictError(conflicts))
			continue
		}
		if held := s.held(&plan, d); held != nil {
			s.reportApply(d.source, held)
			continue
		}
		s.reportApply(d.source, nil)
		if plan.Empty() {
			continue
		}
		done, err := s.store.ApplyCatalog(ctx, plan, &lease)
		if err != nil {
			return false, err
		}
		changed = true
		s.changes++
		s.log.InfoContext(ctx, "catalog changed", "source", string(d.source),
			"added", done.Added, "changed", done.Changed, "removed", done.Removed)
		for change, n := range map[catalog.Change]int{
			catalog.Added: done.Added, catalog.Changed: done.Changed, catalog.Removed: done.Removed,
		} {
			s.metrics.applied.WithLabelValues(string(d.source), string(change)).Add(float64(n))
		}
	}
	return changed, nil
}

// held is why a plan waits, nil when it does not: either number may confirm it.
func (s *Service) held(plan *catalog.Plan, d *declaration) error {
	if err := plan.Held(d.confirm); err != nil {
		return plan.Held(s.config.ConfirmRemoval)
	}
	return nil
}

// nextExpiry is how long after at the first entry of the bucket must go.
func (s *Service) nextExpiry(loaded *store.Catalog, at time.Time) time.Duration {
	var first time.Time
	for i := range loaded.Servers {
		for j := range loaded.Servers[i].Checks {
			expiry := loaded.Servers[i].Checks[j].NextExpiry(loaded.Now)
			if !expiry.IsZero() && (first.IsZero() || expiry.Before(first)) {
				first = expiry
			}
		}
	}
	if first.IsZero() {
		return 0
	}
	// loaded.Now is the database's clock, at is ours; a little later, since neither is exact.
	return max(first.Sub(loaded.Now)-time.Since(at), 0) + 50*time.Millisecond
}

// count shows what there is.
func (s *Service) count(loaded *store.Catalog) {
	servers := map[catalog.Source]int{
		catalog.SourceEnv: 0, catalog.SourceFile: 0, catalog.SourceAPI: 0, catalog.SourceSelf: 0,
	}
	checks := 0
	for i := range loaded.Servers {
		server := &loaded.Servers[i]
		if server.Change == catalog.Removed {
			continue
		}
		servers[server.Source]++
		for j := range server.Checks {
			if !server.Checks[j].Removed {
				checks++
			}
		}
	}
	for source, n := range servers {
		s.metrics.targets.WithLabelValues(string(source)).Set(float64(n))
	}
	s.metrics.checks.Set(float64(checks))
	s.metrics.owned.Store(int64(checks))
}
