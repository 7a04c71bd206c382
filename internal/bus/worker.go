package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// BucketWorkers is a roster for people, and for a process that starts and asks who was there before.
const BucketWorkers = "picket_workers"

// rosterAge is how long a process is remembered after its last word: a prober
// that starts after everybody was gone begins where the last of them had settled,
// and what it explains must still be within the contract of results.
const rosterAge = 24 * time.Hour

func workersBucket() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: BucketWorkers, Description: "who works for Picket, and who did within a day", TTL: rosterAge, MaxBytes: leastMaxBytes,
	}
}

// Heartbeat sends a process's state to whoever listens now. It is not stored:
// membership is heard. It waits for nothing but the connection's own buffer.
func (c *Conn) Heartbeat(status *picketv1.WorkerStatus) error {
	if !c.Connected() {
		return fmt.Errorf("heartbeat: %w", ErrDisconnected)
	}
	data, err := c.encoding.Append(nil, status)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	msg := &nats.Msg{
		Subject: WorkerSubject(status.GetService(), status.GetLocation(), status.GetInstance()),
		Data:    data,
		Header:  nats.Header{headerContentType: {c.encoding.ContentType()}},
	}
	if err := c.nc.PublishMsg(msg); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}

// WatchWorkers has hear called, one after the other, with every heartbeat of a
// service at a location (`*` for any) until ctx ends; it returns nil then. What
// does not read as a heartbeat, or is of another than its subject names, is skipped: who may publish what goes by subjects.
func (c *Conn) WatchWorkers(ctx context.Context, service, location string, hear func(*picketv1.WorkerStatus)) error {
	subject := join(FamilyWorker, filterToken(service), filterToken(location), "*")
	return c.Subscribe(ctx, []string{subject}, func(msg *Msg) {
		status := &picketv1.WorkerStatus{}
		if err := msg.Decode(status); err != nil {
			c.log.Debug("heartbeat not read", "subject", msg.Subject, "err", err)
			return
		}
		if len(status.GetInstance()) > maxName || WorkerSubject(status.GetService(), status.GetLocation(), status.GetInstance()) != msg.Subject {
			c.log.Debug("heartbeat of another than its subject names", "subject", msg.Subject)
			return
		}
		hear(status)
	})
}

// Enrollment is what a process has written of itself into the roster. It is safe
// for concurrent use.
type Enrollment struct {
	// Ahead is how far the server's clock is ahead of the process's, and RoundTrip how
	// long the write took by which that was measured.
	Ahead, RoundTrip time.Duration

	kv       jetstream.KeyValue
	key      string
	revision uint64
}

// EnrollWorker writes the process into the roster, and measures with that very
// write how far a clock, which now reads, is from the server's: the stream time
// of an own write against the middle of its round trip.
func (c *Conn) EnrollWorker(ctx context.Context, status *picketv1.WorkerStatus, now func() time.Time) (*Enrollment, error) {
	kv, err := c.keyValue(ctx, workersBucket())
	if err != nil {
		return nil, fmt.Errorf("open roster: %w", err)
	}
	data, err := wire.AppendJSON(nil, status)
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	key := Token(status.GetService()) + "." + Token(status.GetLocation()) + "." + Token(status.GetInstance())
	before, start := now(), time.Now()
	revision, err := kv.Put(ctx, key, data)
	roundTrip := time.Since(start)
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	entry, err := kv.GetRevision(ctx, key, revision)
	if err != nil {
		return nil, fmt.Errorf("read the roster: %w", err)
	}
	return &Enrollment{
		Ahead: entry.Created().Sub(before.Add(roundTrip / 2)), RoundTrip: roundTrip, kv: kv, key: key, revision: revision,
	}, nil
}

// Stands asks, with one request, whether the roster still holds what was written:
// nobody has deleted or emptied it, or written something else in its place.
func (e *Enrollment) Stands(ctx context.Context) (bool, error) {
	_, err := e.kv.GetRevision(ctx, e.key, e.revision)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, nats.ErrNoResponders): // nobody answers for a bucket that is gone
		return false, nil
	default:
		return false, fmt.Errorf("read the roster: %w", err)
	}
}
