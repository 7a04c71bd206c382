package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/wire"
)

// The buckets of values that one service keeps and others watch.
const (
	// BucketCatalog holds what probers need: one ScheduledCheck under CatalogKey.
	BucketCatalog = "picket_catalog"
	// BucketStatus holds the state of every server as the alerter knows it: one ServerStatus under StatusKey.
	BucketStatus = "picket_status"
)

const (
	// bucketCheck is how often a watcher makes sure that it has seen everything, and bucketSettle how long what it has not
	// seen may still be on its way.
	bucketCheck    = time.Minute
	bucketSettle   = 2 * time.Second
	bucketInFlight = 512
	// statusMaxBytes is room for a few hundred thousand servers.
	statusMaxBytes = 128 << 20
)

// CatalogKey is the key of one check at one location.
func CatalogKey(org, location, checkID string) string {
	return Token(org) + "." + Token(location) + "." + Token(checkID)
}

// StatusKey is the key of one server's state.
func StatusKey(org, server string) string { return Token(org) + "." + Token(server) }

// StatusAliveKey is no server's, for no organization is named so: it is written anew every [StatusAliveEvery] while
// somebody keeps the states, and since is when. What the bucket says of servers is worth nothing when that has ended.
const (
	StatusAliveKey   = "_.alive"
	StatusAliveEvery = 15 * time.Second
)

// Bucket is a key-value bucket of protobuf messages. It is safe for concurrent use.
type Bucket struct {
	conn *Conn
	kv   jetstream.KeyValue
	name string
	// check is bucketCheck for everybody but tests.
	check time.Duration
}

func catalogBucket() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: BucketCatalog, Description: "what probers of each location run", History: 1, MaxBytes: smallMaxBytes,
	}
}

func statusBucket() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: BucketStatus, Description: "how each server is, as the alerter knows it", History: 1, MaxBytes: statusMaxBytes,
	}
}

// CatalogBucket opens the bucket of the catalog and creates it when it is missing.
func (c *Conn) CatalogBucket(ctx context.Context) (*Bucket, error) {
	return c.openBucket(ctx, catalogBucket())
}

// StatusBucket opens the bucket of the servers' states and creates it when it is missing.
func (c *Conn) StatusBucket(ctx context.Context) (*Bucket, error) {
	return c.openBucket(ctx, statusBucket())
}

func (c *Conn) openBucket(ctx context.Context, config jetstream.KeyValueConfig) (*Bucket, error) {
	if err := c.Ready(); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", config.Bucket, err)
	}
	kv, err := c.keyValue(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", config.Bucket, err)
	}
	return &Bucket{conn: c, kv: kv, name: config.Bucket, check: bucketCheck}, nil
}

// Put stores value under key.
func (b *Bucket) Put(ctx context.Context, key string, value proto.Message) error {
	data, err := b.conn.encoding.Append(nil, value)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if _, err := b.kv.Put(ctx, key, data); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

// PutAll stores many values, several at a time; after an error any of them may be stored.
func (b *Bucket) PutAll(ctx context.Context, values map[string]proto.Message) error {
	futures := make([]jetstream.PubAckFuture, 0, min(len(values), bucketInFlight))
	settle := func() error {
		for _, future := range futures {
			select {
			case <-future.Ok():
			case err := <-future.Err():
				return fmt.Errorf("put many into %s: %w", b.name, err)
			case <-ctx.Done():
				return fmt.Errorf("put many into %s: %w", b.name, ctx.Err())
			}
		}
		futures = futures[:0]
		return nil
	}
	for key, value := range values {
		data, err := b.conn.encoding.Append(nil, value)
		if err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		future, err := b.conn.js.PublishAsync("$KV."+b.name+"."+key, data)
		if err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		if futures = append(futures, future); len(futures) == bucketInFlight {
			if err := settle(); err != nil {
				return err
			}
		}
	}
	return settle()
}

// Delete removes key; a key that is not there is no error.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.kv.Delete(ctx, key); err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// State is that of the stream that the bucket lives in: as long as Epoch, LastSeq and Messages are the same, so is all that
// the bucket holds.
func (b *Bucket) State(ctx context.Context) (StreamInfo, error) {
	stream, err := b.conn.js.Stream(ctx, "KV_"+b.name)
	if err != nil {
		return StreamInfo{}, fmt.Errorf("ask for the state of bucket %s: %w", b.name, err)
	}
	return streamInfo(stream.CachedInfo()), nil
}

// Entry is what a bucket holds under a key, or that it holds nothing any more.
type Entry struct {
	Key      string
	Revision uint64
	Deleted  bool

	data        []byte
	contentType string
}

// Decode reads the value.
func (e Entry) Decode(into proto.Message) error { return wire.Decode(e.contentType, e.data, into) }

// List returns the entries whose keys match the filter (NATS wildcards), by key.
func (b *Bucket) List(ctx context.Context, filter string) (map[string]Entry, error) {
	entries, stop, err := b.watch(ctx, filter)
	if err != nil {
		return nil, err
	}
	defer stop()
	list := map[string]Entry{}
	for {
		select {
		case raw, open := <-entries:
			if !open {
				return nil, fmt.Errorf("list %s: %w", b.name, ErrInterrupted)
			}
			if raw == nil {
				return list, nil
			}
			list[raw.Key()] = b.entry(raw)
		case <-ctx.Done():
			return nil, fmt.Errorf("list %s: %w", b.name, ctx.Err())
		}
	}
}

// Watch has apply called with everything that matches the filter: first a batch
// with all that is there, then changes as they come. After every reconnect, and
// when once a minute the bucket turns out to hold what it was not told, it lists
// anew and reports what differs, since a watcher misses what a server forgets. A
// batch with complete set holds every living key: what apply knows besides is
// gone. It returns nil when ctx ends.
func (b *Bucket) Watch(ctx context.Context, filter string, apply func(batch []Entry, complete bool)) error {
	var again retry
	for ctx.Err() == nil {
		again.begin()
		err := b.watchOnce(ctx, filter, apply)
		if err != nil && ctx.Err() == nil {
			b.conn.log.Warn("bucket watch interrupted, trying again", "bucket", b.name, "err", err)
			if !again.pause(ctx) || b.conn.WaitConnected(ctx) != nil {
				return nil
			}
		}
	}
	return nil
}

// watchOnce lists, and follows until the connection changes or something was missed.
func (b *Bucket) watchOnce(ctx context.Context, filter string, apply func([]Entry, bool)) error {
	changed := make(chan struct{}, 1)
	remove := b.conn.OnState(func(bool) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer remove()
	listed, err := b.State(ctx)
	if err != nil {
		return err
	}
	entries, stop, err := b.watch(ctx, filter)
	if err != nil {
		return err
	}
	defer stop()
	check := time.NewTimer(b.check)
	defer check.Stop()
	var batch []Entry
	complete := false
	// What is in the bucket up to seen is known here; it is to be known up to due, if due is not 0.
	seen, due := listed.LastSeq, uint64(0)
	for {
		select {
		case raw, open := <-entries:
			switch {
			case !open:
				return ErrInterrupted
			case raw == nil:
				complete = true
				apply(batch, true)
				batch = nil
				continue
			case !complete:
				batch = append(batch, b.entry(raw))
			default:
				apply([]Entry{b.entry(raw)}, false)
			}
			seen = max(seen, raw.Revision())
		case <-check.C:
			if due > 0 && seen < due {
				return nil
			}
			state, err := b.State(ctx)
			if err != nil || state.Epoch() != listed.Epoch() || state.LastSeq < seen {
				return err
			}
			// Tens of thousands of entries are not read anew for nothing. What other filters match is not seen here.
			if due = 0; seen < state.LastSeq {
				due = state.LastSeq
				check.Reset(min(b.check, bucketSettle))
			} else {
				check.Reset(b.check)
			}
		case <-changed:
			return ErrInterrupted
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *Bucket) watch(ctx context.Context, filter string) (<-chan jetstream.KeyValueEntry, func(), error) {
	if err := b.conn.Ready(); err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", b.name, err)
	}
	watcher, err := b.kv.Watch(ctx, filter)
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", b.name, err)
	}
	return watcher.Updates(), func() { _ = watcher.Stop() }, nil
}

func (b *Bucket) entry(raw jetstream.KeyValueEntry) Entry {
	return Entry{
		Key:         raw.Key(),
		Revision:    raw.Revision(),
		Deleted:     raw.Operation() != jetstream.KeyValuePut,
		data:        raw.Value(),
		contentType: b.contentType(raw.Value()),
	}
}

// contentType tells the encodings apart: entries carry no header, and no
// protobuf message of ours begins with a brace (that would be field 15 as a group).
func (b *Bucket) contentType(data []byte) string {
	if len(data) > 0 && data[0] != '{' {
		return wire.ContentTypeProtobuf
	}
	return wire.ContentTypeJSON
}
