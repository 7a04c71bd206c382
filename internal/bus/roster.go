package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Roster returns what the processes of a service at a location last wrote of
// themselves, those that ended within a day among them. What does not read
// is left out. It is for people, and for a process that starts and asks who was
// there before; who lives is heard, not read.
func (c *Conn) Roster(ctx context.Context, service, location string) ([]*picketv1.WorkerStatus, error) {
	kv, err := c.js.KeyValue(ctx, BucketWorkers)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open roster: %w", err)
	}
	bucket := &Bucket{conn: c, kv: kv, name: BucketWorkers}
	entries, err := bucket.List(ctx, filterToken(service)+"."+filterToken(location)+".*")
	if err != nil {
		return nil, fmt.Errorf("read roster: %w", err)
	}
	var roster []*picketv1.WorkerStatus
	for _, entry := range entries {
		status := &picketv1.WorkerStatus{}
		if entry.Deleted || entry.Decode(status) != nil {
			continue
		}
		roster = append(roster, status)
	}
	return roster, nil
}
