package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// errNextTimeout is what the client returns when NextMaxWait has passed.
var errNextTimeout = nats.ErrTimeout

const (
	followBuffer   = 10_000
	followIdleEnds = 30 * time.Second
)

// FollowOptions says where to read from and what to do with it.
type FollowOptions struct {
	Stream string
	// From is the first sequence wanted; when it is gone, reading starts at the
	// first that is there, and the caller sees the hole in the sequences.
	From     uint64
	MaxBatch int
	MaxWait  time.Duration
	// Handle is given messages in ascending sequence, each once.
	Handle func(ctx context.Context, batch []*Msg) error
}

// Follow reads a whole stream in its order until ctx ends, and returns nil then.
// It keeps nothing on the server but a consumer that goes with it: the caller's
// cursor is the only one. It returns Handle's error, and ErrInterrupted after
// anything that could have cost a message or its place: a lost connection, a
// consumer that is gone, a gap between deliveries.
func (c *Conn) Follow(ctx context.Context, opts FollowOptions) error {
	lost := make(chan struct{})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	remove := c.OnState(func(bool) {
		select {
		case <-lost:
		default:
			close(lost)
			cancel(ErrInterrupted)
		}
	})
	defer remove()
	err := c.follow(ctx, opts)
	if cause := context.Cause(ctx); errors.Is(cause, ErrInterrupted) {
		return fmt.Errorf("follow %s: %w: connection changed", opts.Stream, ErrInterrupted)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *Conn) follow(ctx context.Context, opts FollowOptions) error {
	if err := c.Ready(); err != nil {
		return fmt.Errorf("follow %s: %w: %w", opts.Stream, ErrInterrupted, err)
	}
	config := jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(opts.From, 1),
		MemoryStorage:     true,
		Replicas:          1,
		MaxDeliver:        1,
		InactiveThreshold: followIdleEnds,
	}
	consumer, err := c.js.CreateConsumer(ctx, opts.Stream, config)
	if err != nil {
		return fmt.Errorf("follow %s: %w: open consumer: %w", opts.Stream, ErrInterrupted, err)
	}
	defer c.forget(opts.Stream, consumer.CachedInfo().Name)
	messages, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(followBuffer, maxBatchBytes),
		jetstream.PullExpiry(5*time.Second),
		jetstream.PullHeartbeat(2*time.Second),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("follow %s: %w: open iterator: %w", opts.Stream, ErrInterrupted, err)
	}
	defer messages.Stop()
	var delivered uint64
	for {
		batch, last, err := c.followBatch(ctx, messages, opts, delivered)
		delivered = last
		if len(batch) > 0 {
			if err := opts.Handle(ctx, batch); err != nil {
				return err
			}
		}
		if err != nil {
			return fmt.Errorf("follow %s: %w: %w", opts.Stream, ErrInterrupted, err)
		}
	}
}

// followBatch is nextBatch with proof that nothing is missing: the consumer
// numbers its deliveries without a hole.
func (c *Conn) followBatch(ctx context.Context, messages jetstream.MessagesContext, opts FollowOptions, delivered uint64) ([]*Msg, uint64, error) {
	var batch []*Msg
	var until time.Time
	for size := 0; len(batch) < opts.MaxBatch && size < maxBatchBytes; {
		var raw jetstream.Msg
		var err error
		if len(batch) == 0 {
			raw, err = messages.Next(jetstream.NextContext(ctx))
			until = time.Now().Add(opts.MaxWait)
		} else {
			left := time.Until(until)
			if left <= 0 {
				return batch, delivered, nil
			}
			raw, err = messages.Next(jetstream.NextMaxWait(left))
		}
		if err != nil {
			if len(batch) > 0 && isTimeout(err) {
				return batch, delivered, nil
			}
			return batch, delivered, fmt.Errorf("next message: %w", err)
		}
		msg, meta, err := c.receive(raw)
		if err != nil {
			return batch, delivered, err
		}
		if meta.Sequence.Consumer != delivered+1 {
			return batch, delivered, fmt.Errorf("delivery %d follows %d", meta.Sequence.Consumer, delivered)
		}
		delivered = meta.Sequence.Consumer
		batch = append(batch, msg)
		size += len(msg.Data)
	}
	return batch, delivered, nil
}

// forget removes a consumer that nobody will use again. When the server is away,
// its own threshold does it.
func (c *Conn) forget(stream, consumer string) {
	if !c.Connected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.js.DeleteConsumer(ctx, stream, consumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		c.log.Debug("consumer not removed", "stream", stream, "consumer", consumer, "err", err)
	}
}
