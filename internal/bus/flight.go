package bus

import (
	"cmp"
	"context"
	"errors"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// outgoing is a message between queue and wire.
type outgoing struct {
	message Message
	msg     *nats.Msg
	err     error
}

// take puts the oldest of the queues into flight, and tells the failure after
// which nothing is sent.
func (p *Publisher) take(batch []outgoing) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return 0, p.failure
	}
	n = p.ahead.take(batch, math.MaxUint64)
	n += p.main.take(batch[n:], p.ahead.oldest())
	if n > 0 {
		p.next = time.Now().Add(sendSpacing)
	}
	p.unanswered += n
	// What is held up goes in one go when all is answered that is in flight now, not
	// one by one; not all that will be by then, which might never be.
	if p.awaited == 0 && p.ahead.flight.len() > 0 && p.main.queue.len() > 0 && p.main.queue.front().after >= p.ahead.oldest() {
		p.awaited = p.ahead.flight.back().serial
	}
	return n, nil
}

// inFlight finds what was sent as msg. It is the first of its lane unless answers
// come out of order. The caller holds the lock.
func (p *Publisher) inFlight(msg *nats.Msg) (*lane, *queued) {
	for i := range max(p.ahead.flight.len(), p.main.flight.len()) {
		for _, l := range p.lanes() {
			if i >= l.flight.len() {
				continue
			}
			if item := l.flight.at(i); item.sent == msg {
				return l, item
			}
		}
	}
	return nil, nil
}

// answer notes what became of a message in flight, and lets go of those at the
// head of its lane that are settled. A stream answers in order, or nearly so.
func (p *Publisher) answer(msg *nats.Msg, err error) {
	p.mu.Lock()
	l, item := p.inFlight(msg)
	if item == nil || item.answered {
		p.mu.Unlock()
		return
	}
	item.answered, item.err = true, err
	p.unanswered--
	if err == nil {
		l.proven, l.last = true, nil
	}
	if err != nil && !refusedForever(err) && p.failure == nil {
		p.failure = err
	}
	var refused []queued
	for l.flight.len() > 0 && l.flight.front().answered && l.flight.front().done() {
		if head := l.flight.popFront(); p.leave(head) {
			refused = append(refused, head)
		}
	}
	p.signalDrains()
	wake := p.failure != nil
	if l.full && l.flight.len() <= maxInFlight/2 {
		l.full, wake = false, true
	}
	if p.awaited > 0 && p.awaited < p.ahead.oldest() {
		p.awaited, wake = 0, true
	}
	if wake {
		p.poke()
	}
	p.mu.Unlock()
	p.giveUp(refused)
}

// lose gives up waiting for answers to what was sent over a connection that is
// gone: the client would wait for some of them until their time-out.
func (p *Publisher) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unanswered == 0 {
		return
	}
	for _, l := range p.lanes() {
		for i := range l.flight.len() {
			if item := l.flight.at(i); !item.answered {
				item.answered, item.err = true, ErrDisconnected
			}
		}
	}
	p.unanswered = 0
	p.failure = cmp.Or(p.failure, ErrDisconnected)
	p.poke()
}

// done reports that an answer is the last: acknowledged, or refused for ever.
func (q *queued) done() bool { return q.err == nil || refusedForever(q.err) }

// leave counts a message that is settled, and reports whether the stream refused
// it; the caller holds the lock.
func (p *Publisher) leave(item queued) (refused bool) {
	p.bytes -= item.size
	if item.err != nil {
		p.dropped++
		return true
	}
	p.acked++
	p.opts.OnAck(item.message)
	return false
}

// giveUp tells of messages that the stream can never take.
func (p *Publisher) giveUp(refused []queued) {
	for _, item := range refused {
		p.opts.Log.Error("message can never be published", "subject", item.message.Subject, "err", item.err)
		p.opts.OnDrop(item.message, item.err)
	}
}

// errUnwritable is wrapped by errors about a message that has no bytes.
var errUnwritable = errors.New("message cannot be written")

// refusedForever reports answers about the message itself: 10054 is "message size exceeds maximum allowed".
func refusedForever(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, errUnwritable) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) ||
		errors.As(err, &api) && api.ErrorCode == 10054
}

// settle waits for the answer to everything in flight, and puts what was not
// acknowledged back at the head of its queue in its order. Every answer comes,
// or its time-out does. It reports whether a lane is stuck, of which nothing was
// acknowledged since the failure before; ok is false when ctx ended first.
func (p *Publisher) settle(ctx context.Context, failure error) (stuck, ok bool) {
	p.mu.Lock()
	p.failure = cmp.Or(p.failure, failure)
	for p.unanswered > 0 {
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-ctx.Done():
			return false, false
		}
		p.mu.Lock()
	}
	var refused []queued
	for _, l := range p.lanes() {
		for range l.flight.len() {
			item := l.flight.popFront()
			switch {
			case !item.done():
				l.flight.pushBack(item)
			case p.leave(item):
				refused = append(refused, item)
			}
		}
		for l.flight.len() > 0 {
			item := l.flight.popBack()
			item.sent, item.answered, item.err = nil, false, nil
			l.queue.pushFront(item)
		}
		stuck = stuck || l.queue.len() > 0 && !l.proven
		l.last, l.full, l.proven = p.failure, false, false
	}
	p.failure, p.awaited = nil, 0
	p.signalDrains()
	p.mu.Unlock()
	p.giveUp(refused)
	return stuck, true
}
