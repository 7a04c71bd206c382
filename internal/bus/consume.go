package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxAckPending = 50_000
	// ackWait is how long a batch that died with its consumer stays away. A batch takes
	// ten seconds at most, and two of them may wait in the client.
	ackWait = 30 * time.Second
	// maxBatchBytes ends a batch, and bounds what waits in the client for the next: messages of a megabyte each must not take
	// gigabytes. It is far above the largest message.
	maxBatchBytes = 32 << 20
	consumeWatch  = 10 * time.Second
	// availableWaitMax bounds the pause between two questions whether the handler's store is back.
	availableWaitMax = 2 * time.Second
)

// Hole is a run of sequences that left the stream before the consumer had them.
type Hole struct {
	Stream string
	// Epoch of the stream, see StreamInfo.
	Epoch    int64
	From, To uint64
	// Until is when the stream took the oldest message that it still has.
	Until time.Time
}

// ConsumeOptions says what to receive and what to do with it.
type ConsumeOptions struct {
	Stream string
	// Durable is the name that all replicas share.
	Durable string
	// MaxBatch and MaxWait end a batch, whichever comes first.
	MaxBatch int
	MaxWait  time.Duration
	// Handle stores a batch. When it returns nil, everything in the batch that is
	// not settled is acknowledged: so it returns nil only after its commit.
	Handle func(ctx context.Context, batch []*Msg) error
	// Available is asked, after Handle has failed, until it returns nil.
	Available func(ctx context.Context) error
	// OnHole is told of messages that were discarded unread; when it returns an error it is told again.
	OnHole func(ctx context.Context, hole Hole) error
	// OnBacklog is told, every ten seconds, the share 0..1 of the stream's room that is unread, and how far the durable is.
	OnBacklog func(share float64, state ConsumerState)
	Log       *slog.Logger
}

// Consume receives from a shared durable until ctx ends, and returns nil then.
// The outcome of a batch is one table:
//
//	Handle returns nil        every message not settled is acknowledged
//	Handle returns an error   iteration stops, the batch is forgotten, Available is asked with
//	                          growing pauses; then everything unacknowledged is asked for again
//	Msg.DeadLetter            that message is settled, whatever becomes of the batch
//	NATS is away              iteration starts anew when it is back
//
// The durable acknowledges each message by itself: acknowledging up to a
// sequence on a durable that several share loses data when one of them dies.
func (c *Conn) Consume(ctx context.Context, opts ConsumeOptions) error {
	if opts.Log == nil {
		opts.Log = c.log
	}
	seen := newContinuity(c, opts)
	var again retry
	for ctx.Err() == nil {
		again.begin()
		err := c.consumeOnce(ctx, opts, seen)
		if ctx.Err() != nil {
			return nil
		}
		opts.Log.Warn("consuming interrupted, trying again", "stream", opts.Stream, "consumer", opts.Durable, "err", err)
		if !again.pause(ctx) || c.WaitConnected(ctx) != nil {
			return nil
		}
	}
	return nil
}

func (c *Conn) consumeOnce(ctx context.Context, opts ConsumeOptions, seen *continuity) error {
	consumer, err := c.durable(ctx, opts, seen)
	if err != nil {
		return err
	}
	// Before anything is acknowledged: that moves the floor over what is gone.
	if err := seen.check(ctx, consumer); err != nil {
		return err
	}
	watchCtx, stopWatch := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		seen.watch(watchCtx, consumer)
	}()
	defer func() { stopWatch(); <-watched }()

	messages, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(2*opts.MaxBatch, maxBatchBytes),
		jetstream.PullExpiry(5*time.Second),
		jetstream.PullHeartbeat(2*time.Second))
	if err != nil {
		return fmt.Errorf("open iterator: %w", err)
	}
	// Whatever ends this, what the iterator still holds is given back: the server
	// would wait for its acknowledgement time before others get it.
	defer func() {
		messages.Drain()
		c.release(drain(c, messages))
		messages.Stop()
	}()
	for {
		batch, err := c.nextBatch(ctx, messages, opts.MaxBatch, opts.MaxWait)
		if err != nil {
			c.release(batch)
			return err
		}
		seen.take(batch)
		err = opts.Handle(ctx, batch)
		seen.put(batch, err == nil)
		if err != nil {
			messages.Drain()
			opts.Log.Error("batch not stored", "stream", opts.Stream, "consumer", opts.Durable, "messages", len(batch), "err", err)
			ended := waitAvailable(ctx, opts)
			c.release(batch)
			if ended != nil {
				return ended
			}
			return fmt.Errorf("batch of %d: %w", len(batch), err)
		}
		for _, msg := range batch {
			if err := msg.ack(); err != nil {
				return err
			}
		}
	}
}

// durable opens the consumer that all replicas share. One that somebody deleted goes on where it was, as far as this
// process knows.
func (c *Conn) durable(ctx context.Context, opts ConsumeOptions, seen *continuity) (jetstream.Consumer, error) {
	consumer, err := c.js.Consumer(ctx, opts.Stream, opts.Durable)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		consumer, err = c.newDurable(ctx, opts, seen)
	case err == nil:
		config := consumer.CachedInfo().Config
		if config.AckPolicy == jetstream.AckExplicitPolicy && config.MaxAckPending == maxAckPending &&
			config.AckWait == ackWait && config.MaxDeliver == -1 {
			return consumer, nil
		}
		config.AckPolicy, config.MaxAckPending, config.AckWait, config.MaxDeliver = jetstream.AckExplicitPolicy, maxAckPending, ackWait, -1
		consumer, err = c.js.UpdateConsumer(ctx, opts.Stream, config)
	}
	if err != nil {
		return nil, fmt.Errorf("open consumer %s of %s: %w", opts.Durable, opts.Stream, err)
	}
	return consumer, nil
}

func (c *Conn) newDurable(ctx context.Context, opts ConsumeOptions, seen *continuity) (jetstream.Consumer, error) {
	info, err := c.StreamInfo(ctx, opts.Stream)
	if err != nil {
		return nil, err
	}
	config := jetstream.ConsumerConfig{
		Durable:       opts.Durable,
		AckPolicy:     jetstream.AckExplicitPolicy,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		MaxAckPending: maxAckPending,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		// Terminal answers are rare and final: the server need not keep a long list of pulls.
		MaxWaiting: 128,
	}
	if from := seen.resume(info.Epoch()); from > 1 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	return c.js.CreateConsumer(ctx, opts.Stream, config)
}

// nextBatch waits for one message and gathers what follows it closely.
func (c *Conn) nextBatch(ctx context.Context, messages jetstream.MessagesContext, most int, wait time.Duration) ([]*Msg, error) {
	var batch []*Msg
	var until time.Time
	for size := 0; len(batch) < most && size < maxBatchBytes; {
		var raw jetstream.Msg
		var err error
		if len(batch) == 0 {
			raw, err = messages.Next(jetstream.NextContext(ctx))
			until = time.Now().Add(wait)
		} else {
			left := time.Until(until)
			if left <= 0 {
				return batch, nil
			}
			raw, err = messages.Next(jetstream.NextMaxWait(left))
		}
		switch {
		case err == nil:
		case len(batch) > 0 && isTimeout(err):
			return batch, nil
		default:
			return batch, fmt.Errorf("next message: %w", err)
		}
		msg, _, err := c.receive(raw)
		if err != nil {
			return batch, err
		}
		batch = append(batch, msg)
		size += len(msg.Data)
	}
	return batch, nil
}

func isTimeout(err error) bool {
	return errors.Is(err, jetstream.ErrNoMessages) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errNextTimeout)
}

// drain takes what an iterator that was told to drain still holds. It ends with
// the iterator, and at once when there is no server that would end it.
func drain(c *Conn, messages jetstream.MessagesContext) []*Msg {
	var rest []*Msg
	for c.Connected() {
		raw, err := messages.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			return rest
		}
		if msg, _, err := c.receive(raw); err == nil {
			rest = append(rest, msg)
		}
	}
	return rest
}

// release asks the server to deliver messages again at once, instead of after
// the acknowledgement time. When that does not reach it, they come later.
func (c *Conn) release(batch []*Msg) {
	for _, msg := range batch {
		if !msg.settled {
			msg.settled = true
			_ = msg.raw.Nak()
		}
	}
}

func waitAvailable(ctx context.Context, opts ConsumeOptions) error {
	wait := retryWaitMin
	for {
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		err := opts.Available(ctx)
		if err == nil {
			return nil
		}
		opts.Log.Debug("still unavailable", "stream", opts.Stream, "consumer", opts.Durable, "err", err)
		wait = min(2*wait, availableWaitMax)
	}
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
