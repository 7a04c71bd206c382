package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

const (
	// maxInFlight bounds the messages that wait for the stream's acknowledgement.
	maxInFlight = 4096
	// defaultQueueBytes holds about five minutes of a thousand results a second.
	defaultQueueBytes = 128 << 20
	// messageOverhead is what a queued message costs besides its payload.
	messageOverhead = 256
	retryWaitMin    = 100 * time.Millisecond
	retryWaitMax    = 2 * time.Second
)

// PublisherOptions says how much a Publisher may hold.
type PublisherOptions struct {
	// MaxBytes bounds the memory of messages not yet acknowledged; 0 is 128 MiB.
	MaxBytes int
	// OnDrop is told every message that is given up: the oldest when the queue is
	// full, or one that the server can never take. It must not block and must not call the Publisher.
	OnDrop func(m Message, reason error)
	Log    *slog.Logger
}

// ErrQueueFull is why a message was dropped for a younger one.
var ErrQueueFull = errors.New("publish queue is full")

// PublisherStats counts since the Publisher was made.
type PublisherStats struct {
	// Queued messages are in memory, sent or not.
	Queued       int
	Acknowledged int64
	Dropped      int64
}

// Publisher is a FIFO in front of a stream: Enqueue never blocks, one goroutine
// sends, and messages arrive in the order in which they were put in, through
// lost connections too. After a failure it stops sending, waits for everything
// outstanding, puts what failed back at the head and resumes: sending on
// meanwhile would let younger results overtake older ones.
type Publisher struct {
	conn *Conn
	opts PublisherOptions
	wake chan struct{}

	mu      sync.Mutex
	queue   fifo
	flight  fifo
	bytes   int
	acked   int64
	dropped int64
	idle    chan struct{} // closed when nothing is queued or in flight; nil when nobody asked
}

// queued is one message on its way.
type queued struct {
	message Message
	size    int
	future  jetstream.PubAckFuture
}

// NewPublisher makes a Publisher; Run must be running for anything to be sent.
func NewPublisher(conn *Conn, opts PublisherOptions) *Publisher {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = defaultQueueBytes
	}
	if opts.OnDrop == nil {
		opts.OnDrop = func(Message, error) {}
	}
	if opts.Log == nil {
		opts.Log = conn.log
	}
	return &Publisher{conn: conn, opts: opts, wake: make(chan struct{}, 1)}
}

// Enqueue puts m at the end of the queue and returns at once. When the queue is
// full the oldest messages that are not yet sent make room.
func (p *Publisher) Enqueue(m Message) {
	item := queued{message: m, size: proto.Size(m.Payload) + len(m.Subject) + len(m.ID) + messageOverhead}
	var dropped []Message
	p.mu.Lock()
	p.queue.pushBack(item)
	p.bytes += item.size
	for p.bytes > p.opts.MaxBytes && p.queue.len() > 0 {
		oldest := p.queue.popFront()
		p.bytes -= oldest.size
		p.dropped++
		dropped = append(dropped, oldest.message)
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	for _, message := range dropped {
		p.opts.OnDrop(message, ErrQueueFull)
	}
}

// Stats returns the counts so far.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PublisherStats{Queued: p.queue.len() + p.flight.len(), Acknowledged: p.acked, Dropped: p.dropped}
}

// Drain returns when everything put in so far is acknowledged or dropped, or with ctx's error.
func (p *Publisher) Drain(ctx context.Context) error {
	p.mu.Lock()
	if p.queue.len()+p.flight.len() == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain publisher with %d messages left: %w", p.Stats().Queued, ctx.Err())
	}
}

// Run sends until ctx ends and returns nil then; what is still queued stays in memory.
func (p *Publisher) Run(ctx context.Context) error {
	wait := retryWaitMin
	for ctx.Err() == nil {
		err := p.pump(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		p.settleAll(ctx)
		p.opts.Log.Warn("publishing stopped, trying again", "err", err, "queued", p.Stats().Queued, "wait", wait)
		p.pause(ctx, wait)
		wait = min(2*wait, retryWaitMax)
		if p.conn.Connected() {
			wait = retryWaitMin
		}
	}
	return nil
}

// pause waits for the given time, and for the connection after that.
func (p *Publisher) pause(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	// Its only error is the end of ctx, which the caller looks at.
	_ = p.conn.WaitConnected(ctx)
}

// pump sends and reaps until something fails or ctx ends.
func (p *Publisher) pump(ctx context.Context) error {
	for {
		if err := p.send(); err != nil {
			return err
		}
		var acked <-chan *jetstream.PubAck
		var failed <-chan error
		p.mu.Lock()
		if p.flight.len() > 0 {
			// The stream answers in order: when the oldest is answered, most others are.
			oldest := p.flight.front()
			acked, failed = oldest.future.Ok(), oldest.future.Err()
		}
		p.mu.Unlock()
		select {
		case <-acked:
			p.settled()
			if err := p.reap(); err != nil {
				return err
			}
		case err := <-failed:
			return p.failedHead(err)
		case <-p.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send moves messages from the queue to the stream while there is room in flight.
func (p *Publisher) send() error {
	for {
		p.mu.Lock()
		if p.queue.len() == 0 || p.flight.len() >= maxInFlight {
			p.mu.Unlock()
			return nil
		}
		item := p.queue.popFront()
		p.flight.pushBack(item)
		p.mu.Unlock()

		if !p.conn.Connected() {
			p.unsend()
			return ErrDisconnected
		}
		msg, err := p.conn.encode(item.message)
		if err != nil {
			p.giveUpLast(err)
			continue
		}
		future, err := p.conn.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
		switch {
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject):
			p.giveUpLast(err)
		case err != nil:
			p.unsend()
			return err
		default:
			p.mu.Lock()
			p.flight.back().future = future
			p.mu.Unlock()
		}
	}
}

// unsend puts the youngest in flight, which was not sent, back at the head of the queue.
func (p *Publisher) unsend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.pushFront(p.flight.popBack())
}

// giveUpLast drops the youngest in flight, which the server can never take.
func (p *Publisher) giveUpLast(reason error) {
	p.mu.Lock()
	item := p.flight.popBack()
	p.bytes -= item.size
	p.dropped++
	p.signalIdle()
	p.mu.Unlock()
	p.opts.Log.Error("message can never be published", "subject", item.message.Subject, "err", reason)
	p.opts.OnDrop(item.message, reason)
}

// settled removes the oldest in flight, which the stream has acknowledged.
func (p *Publisher) settled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	item := p.flight.popFront()
	p.bytes -= item.size
	p.acked++
	p.signalIdle()
}

// reap removes what is acknowledged already, without waiting.
func (p *Publisher) reap() error {
	for {
		p.mu.Lock()
		if p.flight.len() == 0 {
			p.mu.Unlock()
			return nil
		}
		future := p.flight.front().future
		p.mu.Unlock()
		select {
		case <-future.Ok():
			p.settled()
		case err := <-future.Err():
			return p.failedHead(err)
		default:
			return nil
		}
	}
}

// failedHead takes the failure of the oldest in flight: a message that the
// stream refuses for what it is goes, any other stays to be sent again.
func (p *Publisher) failedHead(err error) error {
	if !refusedForever(err) {
		p.mu.Lock()
		p.flight.front().future = nil
		p.mu.Unlock()
		return err
	}
	p.mu.Lock()
	item := p.flight.popFront()
	p.bytes -= item.size
	p.dropped++
	p.signalIdle()
	p.mu.Unlock()
	p.opts.Log.Error("stream refuses a message", "subject", item.message.Subject, "err", err)
	p.opts.OnDrop(item.message, err)
	return nil
}

// refusedForever reports answers about the message itself: 10054 is "message size exceeds maximum allowed".
func refusedForever(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == 10054
}

// settleAll waits for the answer to everything in flight, and puts what was not
// acknowledged back at the head of the queue in its order. Every answer comes,
// or its time-out does.
func (p *Publisher) settleAll(ctx context.Context) {
	p.mu.Lock()
	var failed []queued
	for p.flight.len() > 0 {
		item := p.flight.popFront()
		if item.future == nil {
			failed = append(failed, item)
			continue
		}
		p.mu.Unlock()
		acknowledged := false
		select {
		case <-item.future.Ok():
			acknowledged = true
		case <-item.future.Err():
		case <-ctx.Done():
		}
		p.mu.Lock()
		if acknowledged {
			p.bytes -= item.size
			p.acked++
			continue
		}
		item.future = nil
		failed = append(failed, item)
	}
	for i := len(failed) - 1; i >= 0; i-- {
		p.queue.pushFront(failed[i])
	}
	p.signalIdle()
	p.mu.Unlock()
}

// signalIdle tells Drain; the caller holds the lock.
func (p *Publisher) signalIdle() {
	if p.idle != nil && p.queue.len()+p.flight.len() == 0 {
		close(p.idle)
		p.idle = nil
	}
}
