package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNotProvisioned says that a stream or a bucket is missing or out of date, and that making it is left to another
// service: the NATS server lets only one do it.
var ErrNotProvisioned = errors.New("not made yet by the service that may")

// buckets lists every bucket as it should be.
func buckets() []jetstream.KeyValueConfig {
	return []jetstream.KeyValueConfig{catalogBucket(), statusBucket(), workersBucket()}
}

// ensureBuckets makes the buckets that are missing.
func (c *Conn) ensureBuckets(ctx context.Context) error {
	for _, want := range buckets() {
		if _, err := c.keyValue(ctx, want); err != nil {
			return fmt.Errorf("open bucket %s: %w", want.Bucket, err)
		}
	}
	return nil
}

// keyValue opens a bucket and makes it when it is missing, unless that is left to another service.
func (c *Conn) keyValue(ctx context.Context, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := c.js.KeyValue(ctx, config.Bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	if c.leave {
		return nil, ErrNotProvisioned
	}
	// A bucket that is larger than the server has room takes so little of it that the others and the streams have the rest.
	for {
		kv, err = c.js.CreateOrUpdateKeyValue(ctx, config)
		if !outOfRoom(err) || config.MaxBytes <= leastBytes {
			return kv, err
		}
		if kv, err := c.js.KeyValue(ctx, config.Bucket); err == nil {
			return kv, nil // another service was faster, and the server looks for room before it looks for the name
		}
		config.MaxBytes = max(config.MaxBytes/bucketShrinks, leastBytes)
	}
}

const bucketShrinks = 16
