package catalog

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// publishServers is how many servers go out at a time, events and then entries: probers start with the first while
	// the last are on their way.
	publishServers = 500
	// deletesInFlight bounds deletions at the same time.
	deletesInFlight = 64
	// removedEventsFor is how long a removal is said again to a stream that has not got it; an older one is known to
	// everybody or to nobody.
	removedEventsFor = bus.EventAge
	// unreadable is the revision of an entry that cannot be read.
	unreadable = -1
)

// mirror is what the bucket holds: the revision of the check under each key. Only forget may be called from elsewhere.
type mirror struct {
	mu      sync.Mutex
	entries map[string]mirrored
	stale   bool
}

type mirrored struct {
	// check is the revision of the check, entry that of the bucket; entry is 0 for what we put ourselves.
	check int64
	entry uint64
}

// forget has the bucket listed before the mirror is used again.
func (m *mirror) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stale = true
}

// take returns the entries that are believed, and whether they must be read anew; from then on they count as fresh
// until somebody says forget, also while they are read.
func (m *mirror) take() (entries map[string]mirrored, stale bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stale = m.stale || m.entries == nil
	m.stale = false
	return m.entries, stale
}

func (m *mirror) set(entries map[string]mirrored) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = entries
}

// bucketEntries returns what the bucket holds. What an earlier list has read is not read again.
func (s *Service) bucketEntries(ctx context.Context, bucket *bus.Bucket) (map[string]mirrored, error) {
	entries, stale := s.mirror.take()
	if !stale {
		return entries, nil
	}
	listed, err := bucket.List(ctx, ">")
	if err != nil {
		s.mirror.forget()
		return nil, err
	}
	fresh := make(map[string]mirrored, len(listed))
	for key, entry := range listed {
		if entry.Deleted {
			continue
		}
		known, ok := entries[key]
		if !ok || known.entry != entry.Revision {
			known = mirrored{check: unreadable, entry: entry.Revision}
			var value picketv1.ScheduledCheck
			if err := entry.Decode(&value); err == nil {
				known.check = value.GetCheck().GetRevision()
			}
		}
		fresh[key] = known
	}
	s.mirror.set(fresh)
	return fresh, nil
}

// publication is what the stream and the bucket are when something is held against them.
type publication struct {
	events store.StreamExtent
	bucket bus.StreamInfo
}

// published asks for both; the bucket is asked for each time, since it may have been deleted, and is made anew then.
func (s *Service) published(ctx context.Context) (publication, *bus.Bucket, error) {
	info, err := s.conn.StreamInfo(ctx, bus.StreamEvents)
	if err != nil {
		return publication{}, nil, err
	}
	before := publication{events: store.StreamExtent{Epoch: info.Epoch(), FirstSeq: info.FirstSeq, LastSeq: info.LastSeq}}
	bucket, err := s.conn.CatalogBucket(ctx)
	if err != nil {
		return publication{}, nil, err
	}
	before.bucket, err = bucket.State(ctx)
	return before, bucket, err
}

// publish brings the stream and the bucket in line with the catalog, and returns what they were before.
func (s *Service) publish(ctx context.Context, lease store.Lease, loaded *store.Catalog, at time.Time) (publication, error) {
	before, bucket, err := s.published(ctx)
	if err != nil {
		return before, err
	}
	published, err := s.store.Publications(ctx, before.events, s.republishAfter)
	if err != nil {
		return before, err
	}
	entries, err := s.bucketEntries(ctx, bucket)
	if err != nil {
		return before, err
	}

	wanted := make(map[string]bool, len(entries))
	for part := range slices.Chunk(loaded.Servers, publishServers) {
		now := loaded.Now.Add(time.Since(at))
		if err := s.publishEvents(ctx, part, published, before.events, now); err != nil {
			return before, err
		}
		puts := map[string]proto.Message{}
		for i := range part {
			for j := range part[i].Checks {
				check := &part[i].Checks[j]
				for location, form := range part[i].Scheduled(check, now) {
					key := bus.CatalogKey(part[i].Org, location, check.ID)
					wanted[key] = true
					if held, known := entries[key]; !known || held.check != check.Revision {
						puts[key] = form
					}
				}
			}
		}
		if err := s.put(ctx, lease, bucket, puts, entries); err != nil {
			return before, err
		}
	}
	return before, s.deleteOthers(ctx, lease, bucket, wanted, entries)
}

// publishEvents sends the changes that the stream has not got, and notes that it has them now.
func (s *Service) publishEvents(
	ctx context.Context, servers []catalog.Server, published map[string]int64, before store.StreamExtent, now time.Time,
) error {
	var events []bus.Message
	var sent []catalog.Server
	for i := range servers {
		server := &servers[i]
		if revision, known := published[server.ID]; known && revision >= server.Revision {
			continue
		}
		if server.Change == catalog.Removed && now.Sub(server.ChangedAt) > removedEventsFor {
			continue
		}
		events = append(events, bus.Message{
			Subject: bus.CatalogSubject(server.Org, string(server.Change), server.Name),
			ID:      fmt.Sprintf("catalog-%s-%d-%d", server.ID, server.Revision, before.Epoch),
			Time:    server.ChangedAt,
			Payload: server.CatalogChange(),
		})
		sent = append(sent, *server)
	}
	if len(events) == 0 {
		return nil
	}
	if err := s.conn.PublishAll(ctx, events); err != nil {
		return err
	}
	s.metrics.published.WithLabelValues("event").Add(float64(len(events)))
	s.changes++
	return s.store.MarkPublished(ctx, before, sent)
}

// hold makes sure that the lease was not lost while this process did not run: what it has loaded would be of the past, and
// the bucket knows no leases. What slips through between the asking and the writing is put right by the next comparison of everything.
func (s *Service) hold(ctx context.Context, lease store.Lease) error {
	held, err := s.store.AcquireLease(ctx, lease.Name, lease.Owner, s.leaseTTL)
	if err == nil && held.Epoch != lease.Epoch {
		err = fmt.Errorf("hold lease %s: %w", lease.Name, store.ErrLeaseLost)
	}
	return err
}

func (s *Service) put(
	ctx context.Context, lease store.Lease, bucket *bus.Bucket, puts map[string]proto.Message, entries map[string]mirrored,
) error {
	if len(puts) == 0 {
		return nil
	}
	if err := s.hold(ctx, lease); err != nil {
		return err
	}
	if err := bucket.PutAll(ctx, puts); err != nil {
		return err
	}
	for key, form := range puts {
		entries[key] = mirrored{check: form.(*picketv1.ScheduledCheck).GetCheck().GetRevision()}
	}
	s.metrics.published.WithLabelValues("put").Add(float64(len(puts)))
	s.changes++
	return nil
}

// deleteOthers deletes entries that nobody wants: checks that are due no more, and whatever else is there.
func (s *Service) deleteOthers(
	ctx context.Context, lease store.Lease, bucket *bus.Bucket, wanted map[string]bool, entries map[string]mirrored,
) error {
	var gone []string
	for key := range entries {
		if !wanted[key] {
			gone = append(gone, key)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := s.hold(ctx, lease); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deletesInFlight)
	for _, key := range gone {
		group.Go(func() error { return bucket.Delete(ctx, key) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, key := range gone {
		delete(entries, key)
	}
	s.metrics.published.WithLabelValues("delete").Add(float64(len(gone)))
	s.changes++
	return nil
}
