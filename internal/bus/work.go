package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// WorkExport is the kind of work of the exporter.
const WorkExport = "export"

const (
	// defaultWorkWait is how long an item of a process that died stays away from others.
	defaultWorkWait = 30 * time.Second
	workPull        = 5 * time.Second
	// workRetry is when an item comes again whose handler said only that it failed.
	workRetry = 5 * time.Second
)

// LaterError is what a handler of work returns for an item that shall come again after a while.
type LaterError struct {
	After time.Duration
	Cause error
}

func (e *LaterError) Error() string { return fmt.Sprintf("again in %s: %v", e.After, e.Cause) }

func (e *LaterError) Unwrap() error { return e.Cause }

// WorkOptions says which work to do.
type WorkOptions struct {
	// Kind is the queue: the last token of its subject.
	Kind string
	// Durable is the name that all replicas share.
	Durable string
	// Concurrency is how many items this process handles at a time; 0 is 1.
	Concurrency int
	// AckWait is how long an item whose handler died stays away from others; 0 is half a minute. While a handler runs, its
	// item is kept for as long as it takes.
	AckWait time.Duration
	// Handle does the work of one item. Nil acknowledges it, a *LaterError brings it back then, and any other error after
	// five seconds; it never is given up. Several goroutines call it.
	Handle func(ctx context.Context, item *Msg) error
	Log    *slog.Logger
}

// ConsumeWork does the work of a queue that all replicas share until ctx ends, waits for the handlers and returns nil then.
// An item is with one replica at a time and leaves the queue when its handler returns nil; it is asked for when somebody is
// free to handle it, never ahead.
func (c *Conn) ConsumeWork(ctx context.Context, opts WorkOptions) error {
	if opts.Log == nil {
		opts.Log = c.log
	}
	if opts.AckWait <= 0 {
		opts.AckWait = defaultWorkWait
	}
	var again retry
	for ctx.Err() == nil {
		again.begin()
		err := c.consumeWorkOnce(ctx, opts)
		if ctx.Err() != nil {
			return nil
		}
		opts.Log.Warn("work interrupted, trying again", "kind", opts.Kind, "err", err)
		if !again.pause(ctx) || c.WaitConnected(ctx) != nil {
			return nil
		}
	}
	return nil
}

// consumeWorkOnce works until something is wrong with the queue or the connection.
func (c *Conn) consumeWorkOnce(ctx context.Context, opts WorkOptions) error {
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, StreamWork, jetstream.ConsumerConfig{
		Durable:       opts.Durable,
		FilterSubject: WorkSubject(opts.Kind),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       opts.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending,
	})
	if err != nil {
		return fmt.Errorf("open work %s: %w", opts.Kind, err)
	}
	// A queue that is in trouble is so for all: one stops the others from asking, and whoever handles an item ends it.
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var workers sync.WaitGroup
	for range max(opts.Concurrency, 1) {
		workers.Go(func() {
			for asking.Err() == nil {
				if err := c.workOne(ctx, asking, consumer, opts); err != nil {
					stop(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(asking)
}

// workOne asks for an item and handles it.
func (c *Conn) workOne(ctx, asking context.Context, consumer jetstream.Consumer, opts WorkOptions) error {
	pull, cancel := context.WithTimeout(asking, workPull)
	defer cancel()
	raw, err := consumer.Next(jetstream.FetchContext(pull))
	switch {
	case err == nil:
	case asking.Err() != nil:
		return nil
	case isTimeout(err) || errors.Is(err, jetstream.ErrNoMessages):
		if !c.Connected() {
			return ErrDisconnected
		}
		return nil
	default:
		return fmt.Errorf("next work %s: %w", opts.Kind, err)
	}
	item, _, err := c.receive(raw)
	if err != nil {
		return err
	}
	keeping, done := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { keepWork(keeping, item, opts) })
	err = opts.Handle(ctx, item)
	done()
	keeper.Wait()
	return c.settleWork(item, err, opts)
}

// keepWork tells the server, well before it would give the item to another, that somebody is at it.
func keepWork(ctx context.Context, item *Msg, opts WorkOptions) {
	for sleep(ctx, opts.AckWait/3) {
		if err := item.raw.InProgress(); err != nil {
			opts.Log.Debug("item not kept", "kind", opts.Kind, "sequence", item.Sequence, "err", err)
		}
	}
}

func (c *Conn) settleWork(item *Msg, handled error, opts WorkOptions) error {
	if item.settled { // the handler made a dead letter of it
		return nil
	}
	if handled == nil {
		return item.ack()
	}
	after := workRetry
	if later, ok := errors.AsType[*LaterError](handled); ok {
		after = later.After
	} else {
		opts.Log.Warn("work failed, trying again", "kind", opts.Kind, "sequence", item.Sequence, "err", handled, "wait", after)
	}
	item.settled = true
	if err := item.raw.NakWithDelay(after); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return fmt.Errorf("give back item %d: %w", item.Sequence, err)
	}
	return nil
}

// WorkLeft returns how many items of a kind wait or are with somebody.
func (c *Conn) WorkLeft(ctx context.Context, kind string) (uint64, error) {
	stream, err := c.js.Stream(ctx, StreamWork)
	if err != nil {
		return 0, fmt.Errorf("look at work %s: %w", kind, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(WorkSubject(kind)))
	if err != nil {
		return 0, fmt.Errorf("look at work %s: %w", kind, err)
	}
	return info.State.Subjects[WorkSubject(kind)], nil
}
