package catalog

import (
	"context"
	"slices"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

// evidence stands for everything that is compared: as long as it is the same, and the stream has got every change,
// comparing would find what it found before.
type evidence struct {
	declared []*declaration
	catalog  store.CatalogFingerprint
	// events is the life of the stream of events, bucket the state of the catalog's bucket.
	events int64
	bucket bus.StreamInfo
}

func (e *evidence) equal(other *evidence) bool {
	return e.catalog == other.catalog && e.events == other.events && e.bucket == other.bucket &&
		slices.Equal(e.declared, other.declared)
}

// settlement is that a comparison of everything with everything found nothing to do.
type settlement struct {
	// on is what it rests on, gathered before; nil: there was no such comparison.
	on *evidence
	at time.Time
}

// compare reconciles; with everything it reads the bucket anew too, and notes when there was nothing to do.
func (s *Service) compare(ctx context.Context, lease store.Lease, everything bool) (next time.Duration, err error) {
	s.settled = settlement{}
	if !everything {
		next, _, err = s.reconcile(ctx, lease)
		return next, err
	}
	s.mirror.forget()
	before := &evidence{declared: s.sources.all()}
	if before.catalog, err = s.store.CatalogFingerprint(ctx); err != nil {
		return 0, err
	}
	changes := s.changes
	var published publication
	next, published, err = s.reconcile(ctx, lease)
	if err == nil && s.changes == changes {
		before.events, before.bucket = published.events.Epoch, published.bucket
		s.settled = settlement{on: before, at: time.Now()}
	}
	return next, err
}

// unchanged says that comparing everything once more would find nothing. Reading and comparing tens of thousands of
// servers takes seconds of both processors and delays whatever else runs there; asking whether anything differs from
// when nothing was to be done takes a moment. Now and then everything is compared all the same.
func (s *Service) unchanged(ctx context.Context) bool {
	if s.settled.on == nil || time.Since(s.settled.at) >= s.fullEvery {
		return false
	}
	before, _, err := s.published(ctx)
	if err != nil {
		return false // the comparison says what cannot be asked
	}
	now := &evidence{declared: s.sources.all(), events: before.events.Epoch, bucket: before.bucket}
	if now.catalog, err = s.store.CatalogFingerprint(ctx); err != nil || !now.equal(s.settled.on) {
		return false
	}
	if n, err := s.store.Unpublished(ctx, before.events, s.republishAfter, removedEventsFor); err != nil || n > 0 {
		return false
	}
	s.metrics.spared.Inc()
	return true
}
