package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// sendSpacing lies between two sends while messages come one by one; the first
	// after a pause goes at once. What costs is not the message but each time that
	// the process wakes, to send and for the acknowledgement: so let some gather.
	sendSpacing = 50 * time.Millisecond
	// sendBatch is how many messages are encoded before they are written in one go;
	// as many do not wait for the spacing.
	sendBatch = 256
	// maxInFlight bounds the messages of a lane that wait for acknowledgement.
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
	// full, or one that the server can never take. Several goroutines call it; it
	// must not block and must not call the Publisher.
	OnDrop func(m Message, reason error)
	// OnAck is told every message that its stream has acknowledged, each lane's in
	// their order. It is for counting: it holds the Publisher up, and must not call it.
	OnAck func(m Message)
	Log   *slog.Logger
}

// ErrQueueFull is why a message was dropped for a younger one.
var ErrQueueFull = errors.New("publish queue is full")

// PublisherStats counts since the Publisher was made.
type PublisherStats struct {
	// Queued messages are in memory, sent or not.
	Queued       int
	Acknowledged int64
	Dropped      int64
	// Settled is up to which message, counted from 1 as they were put in, all are
	// acknowledged or dropped. What goes before another message counts before it.
	Settled int64
	// Err is why nothing of what waits was acknowledged since the last failure; nil while the streams take what they are
	// given, and while nothing waits.
	Err error
}

// Publisher is a FIFO in front of the streams: Enqueue never blocks, one goroutine
// sends, and messages arrive in the order in which they were put in, through
// lost connections too. After a failure it stops sending, waits for everything
// outstanding, puts what failed back at the head and resumes with one message
// alone: sending on meanwhile, or much at once to a server that is about to
// recover, would let younger results overtake older ones. What is in flight when
// a stream begins to refuse may still do so.
//
// A message may name others that go before it. Two streams store independently:
// who dies in between must not leave the first without the second. So what goes
// before has a lane of its own, and the other lane stops at a message of which
// that is not settled. All of the one lane that waits is sent in one go, and what
// waited for it in another.
//
// The goroutine of Run is woken for what is to be sent and for failures; the
// client's own goroutine counts the acknowledgements as they come.
type Publisher struct {
	conn *Conn
	opts PublisherOptions
	due  *time.Timer   // messages are to be sent
	wake chan struct{} // there is something else to look at

	mu         sync.Mutex
	js         jetstream.JetStream // made by Run
	ahead      lane                // what goes before a message of the other
	main       lane
	next       time.Time // when messages that come one by one are to be sent
	unanswered int       // of those in flight
	awaited    uint64    // what is held up is looked at again when the lane ahead is settled up to here; 0: nothing is
	failure    error     // why nothing is sent until everything in flight is answered
	bytes      int
	serial     uint64 // of the youngest message
	acked      int64
	dropped    int64
	drains     []waiter
}

func (p *Publisher) lanes() [2]*lane { return [2]*lane{&p.ahead, &p.main} }

// waiter is a call of Drain that waits for everything up to a serial number.
type waiter struct {
	upTo uint64
	done chan struct{}
}

// NewPublisher makes a Publisher; Run must be running for anything to be sent.
func NewPublisher(conn *Conn, opts PublisherOptions) *Publisher {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = defaultQueueBytes
	}
	if opts.OnDrop == nil {
		opts.OnDrop = func(Message, error) {}
	}
	if opts.OnAck == nil {
		opts.OnAck = func(Message) {}
	}
	if opts.Log == nil {
		opts.Log = conn.log
	}
	due := time.NewTimer(0)
	due.Stop()
	return &Publisher{conn: conn, opts: opts, due: due, wake: make(chan struct{}, 1)}
}

// Enqueue puts m at the end of the queue and returns at once. It is sent when
// those before it, if any, are acknowledged, or given up. When the queue is full
// the oldest messages that are not yet sent make room, whichever they are; a
// message that is larger than the whole queue is given up itself.
func (p *Publisher) Enqueue(m Message, before ...Message) {
	item, first := newQueued(m), make([]queued, len(before))
	for i := range first {
		first[i] = newQueued(before[i])
	}
	p.mu.Lock()
	var lost []Message
	for _, companion := range first {
		lost = p.put(&p.ahead, companion, lost)
		item.after = p.serial
	}
	lost = p.put(&p.main, item, lost)
	for p.bytes > p.opts.MaxBytes {
		oldest, ok := p.dropOldest()
		if !ok {
			break
		}
		lost = append(lost, oldest)
	}
	if len(lost) > 0 {
		p.signalDrains()
	}
	p.mu.Unlock()
	for _, message := range lost {
		p.opts.OnDrop(message, ErrQueueFull)
	}
}

// put appends a message to a lane and has the goroutine of Run send it in time.
// One that could never fit goes to the lost. The caller holds the lock.
func (p *Publisher) put(l *lane, item queued, lost []Message) []Message {
	p.serial++
	item.serial = p.serial
	if item.size > p.opts.MaxBytes {
		p.dropped++
		return append(lost, item.message)
	}
	l.queue.pushBack(item)
	p.bytes += item.size
	if item.after >= p.ahead.oldest() {
		return lost // what it waits for wakes the goroutine
	}
	switch l.queue.len() {
	case 1:
		if wait := time.Until(p.next); wait > 0 {
			p.due.Reset(wait)
		} else {
			p.poke()
		}
	case sendBatch:
		p.poke()
	}
	return lost
}

// dropOldest gives up the oldest message that is not sent; the caller holds the lock.
func (p *Publisher) dropOldest() (m Message, ok bool) {
	var queue *fifo
	for _, l := range p.lanes() {
		if l.queue.len() > 0 && (queue == nil || l.queue.front().serial < queue.front().serial) {
			queue = &l.queue
		}
	}
	if queue == nil {
		return Message{}, false
	}
	item := queue.popFront()
	p.bytes -= item.size
	p.dropped++
	return item.message, true
}

// Stats returns the counts so far.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	stats := PublisherStats{Acknowledged: p.acked, Dropped: p.dropped, Settled: int64(p.settled())}
	for _, l := range p.lanes() {
		if waiting := l.len(); waiting > 0 {
			stats.Queued += waiting
			stats.Err = cmp.Or(stats.Err, l.last)
		}
	}
	return stats
}

// settled is the serial number up to which all messages are; the caller holds the lock.
func (p *Publisher) settled() uint64 {
	return min(p.ahead.oldest(), p.main.oldest(), p.serial+1) - 1
}

// Drain returns when everything put in before is acknowledged or dropped, or with
// ctx's error. It sends at once what still gathers.
func (p *Publisher) Drain(ctx context.Context) error {
	waiting := waiter{done: make(chan struct{})}
	p.mu.Lock()
	waiting.upTo = p.serial
	p.drains = append(p.drains, waiting)
	p.signalDrains()
	p.mu.Unlock()
	p.poke()
	select {
	case <-waiting.done:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.drains = slices.DeleteFunc(p.drains, func(w waiter) bool { return w.done == waiting.done })
	p.mu.Unlock()
	return fmt.Errorf("drain publisher with %d messages left: %w", p.Stats().Queued, ctx.Err())
}

// signalDrains tells those whose messages are all settled; the caller holds the lock.
func (p *Publisher) signalDrains() {
	if len(p.drains) == 0 {
		return
	}
	settled := p.settled()
	p.drains = slices.DeleteFunc(p.drains, func(w waiter) bool {
		if w.upTo > settled {
			return false
		}
		close(w.done)
		return true
	})
}

// poke has the goroutine of Run look around.
func (p *Publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends and returns nil then; what is still queued stays in
// memory, and what is in flight is counted when its acknowledgement comes. It
// may run again, never twice at once.
func (p *Publisher) Run(ctx context.Context) error {
	if err := p.open(); err != nil {
		return err
	}
	defer p.conn.OnState(func(bool) { p.lose() })()
	wait := retryWaitMin
	for {
		err := p.pump(ctx)
		if ctx.Err() != nil {
			return nil
		}
		stuck, ok := p.settle(ctx, err)
		if !ok {
			return nil
		}
		if !stuck {
			wait = retryWaitMin
		}
		p.opts.Log.Warn("publishing stopped, trying again", "err", err, "queued", p.Stats().Queued, "wait", wait)
		// The connection after the pause, because it is lost a moment after its messages are.
		if !sleep(ctx, wait) || p.conn.WaitConnected(ctx) != nil {
			return nil
		}
		wait = min(2*wait, retryWaitMax)
	}
}

// open makes the publisher's own view of JetStream: acknowledgements are told to
// its handlers, and nobody else's messages count against its room in flight.
func (p *Publisher) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.js != nil {
		return nil
	}
	js, err := jetstream.New(p.conn.nc,
		jetstream.WithPublishAsyncMaxPending(len(p.lanes())*maxInFlight+1),
		jetstream.WithPublishAsyncTimeout(ackTimeout),
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, msg *nats.Msg, _ *jetstream.PubAck) { p.answer(msg, nil) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, msg *nats.Msg, err error) { p.answer(msg, err) }))
	if err != nil {
		return fmt.Errorf("open jetstream for publishing: %w", err)
	}
	p.js = js
	return nil
}

// pump sends what comes until something fails or ctx ends.
func (p *Publisher) pump(ctx context.Context) error {
	for {
		if err := p.send(); err != nil {
			return err
		}
		select {
		case <-p.due.C:
		case <-p.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send moves messages from the queues to the streams while there is room in flight.
func (p *Publisher) send() error {
	var batch [sendBatch]outgoing
	// Asking again would put a message behind younger ones.
	options := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}
	for {
		if !p.conn.Connected() {
			return ErrDisconnected
		}
		n, err := p.take(batch[:])
		if n == 0 {
			return err
		}
		for i := range batch[:n] {
			batch[i].err = p.conn.encodeTo(batch[i].msg, batch[i].message)
		}
		var failed error
		for _, out := range batch[:n] {
			err := cmp.Or(out.err, failed)
			if err == nil {
				_, err = p.js.PublishMsgAsync(out.msg, options...)
			}
			if err == nil {
				continue
			}
			p.answer(out.msg, err)
			if !refusedForever(err) {
				failed = err
			}
		}
	}
}
