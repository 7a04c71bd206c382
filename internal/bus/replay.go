package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

const replayBatch = 500

// ReplayOptions says what of a stream to read once more.
type ReplayOptions struct {
	Stream string
	// Subjects are filters; at least one.
	Subjects []string
	// From is the first sequence wanted, To the last.
	From, To uint64
	// Handle is given messages in ascending sequence; when it returns an error, reading ends with it.
	Handle func(*Msg) error
}

// Replay reads the messages of a stream from one sequence to another that match the subjects, and returns when it has
// had them. It keeps nothing on the server but a consumer that goes with it. The error wraps ErrInterrupted when messages
// may be missing.
func (c *Conn) Replay(ctx context.Context, opts ReplayOptions) error {
	if opts.From > opts.To {
		return nil
	}
	if err := c.Ready(); err != nil {
		return fmt.Errorf("replay %s: %w: %w", opts.Stream, ErrInterrupted, err)
	}
	consumer, err := c.js.CreateConsumer(ctx, opts.Stream, jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(opts.From, 1),
		FilterSubjects:    opts.Subjects,
		MemoryStorage:     true,
		Replicas:          1,
		MaxDeliver:        1,
		InactiveThreshold: followIdleEnds,
	})
	if err != nil {
		return fmt.Errorf("replay %s: %w: open consumer: %w", opts.Stream, ErrInterrupted, err)
	}
	defer c.forget(opts.Stream, consumer.CachedInfo().Name)
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	for {
		batch, err := consumer.FetchNoWait(replayBatch)
		if err != nil {
			return fmt.Errorf("replay %s: %w: %w", opts.Stream, ErrInterrupted, err)
		}
		done, err := c.replayBatch(ctx, batch, opts)
		if done || err != nil {
			return err
		}
	}
}

// replayBatch reports whether the end is reached.
func (c *Conn) replayBatch(ctx context.Context, batch jetstream.MessageBatch, opts ReplayOptions) (done bool, err error) {
	seen := false
	for {
		select {
		case raw, open := <-batch.Messages():
			if !open {
				if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
					return false, fmt.Errorf("replay %s: %w: %w", opts.Stream, ErrInterrupted, err)
				}
				return done || !seen, nil
			}
			msg, meta, err := c.receive(raw)
			if err != nil {
				return false, fmt.Errorf("replay %s: %w", opts.Stream, err)
			}
			seen = true
			if done = done || msg.Sequence > opts.To; done {
				continue
			}
			if err := opts.Handle(msg); err != nil {
				return true, err
			}
			done = meta.NumPending == 0
		case <-ctx.Done():
			return true, fmt.Errorf("replay %s: %w", opts.Stream, ctx.Err())
		}
	}
}
