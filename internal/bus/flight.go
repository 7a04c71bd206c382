package bus

import (
	"cmp"
	"context"
	"errors"
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

// take puts the oldest of the queue into flight, and tells the failure after
// which nothing is sent.
func (p *Publisher) take(batch []outgoing) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return 0, p.failure
	}
	room := maxInFlight
	if !p.proven {
		room = 1
	}
	n = min(len(batch), p.queue.len(), room-p.flight.len())
	for i := range n {
		item := p.queue.popFront()
		item.sent = &nats.Msg{}
		p.flight.pushBack(item)
		batch[i] = outgoing{message: item.message, msg: item.sent}
	}
	if n > 0 {
		p.next = time.Now().Add(sendSpacing)
	}
	p.unanswered += n
	p.full = p.queue.len() > 0 && p.flight.len() == room
	return n, nil
}

// answer notes what became of a message in flight, and lets go of those at the
// head that are settled. The stream answers in order, or nearly so.
func (p *Publisher) answer(msg *nats.Msg, err error) {
	p.mu.Lock()
	item := p.flight.find(msg)
	if item == nil || item.answered {
		p.mu.Unlock()
		return
	}
	item.answered, item.err = true, err
	p.unanswered--
	if err == nil {
		p.proven, p.last = true, nil
	}
	if err != nil && !refusedForever(err) && p.failure == nil {
		p.failure = err
	}
	var refused []queued
	for p.flight.len() > 0 {
		if head := p.flight.front(); !head.answered || head.err != nil && !refusedForever(head.err) {
			break
		}
		if head := p.flight.popFront(); p.leave(head) {
			refused = append(refused, head)
		}
	}
	p.signalDrains()
	room := p.full && p.flight.len() <= maxInFlight/2
	if room {
		p.full = false
	}
	if room || p.failure != nil {
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
	for i := range p.flight.len() {
		if item := p.flight.at(i); !item.answered {
			item.answered, item.err = true, ErrDisconnected
		}
	}
	p.unanswered = 0
	p.failure = cmp.Or(p.failure, ErrDisconnected)
	p.poke()
}

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
// acknowledged back at the head of the queue in its order. Every answer comes,
// or its time-out does. It reports false when ctx ended first.
func (p *Publisher) settle(ctx context.Context, failure error) bool {
	p.mu.Lock()
	p.failure = cmp.Or(p.failure, failure)
	for p.unanswered > 0 {
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-ctx.Done():
			return false
		}
		p.mu.Lock()
	}
	var refused []queued
	for p.flight.len() > 0 {
		item := p.flight.popBack()
		if item.err == nil || refusedForever(item.err) {
			if p.leave(item) {
				refused = append(refused, item)
			}
			continue
		}
		item.sent, item.answered, item.err = nil, false, nil
		p.queue.pushFront(item)
	}
	p.last = p.failure
	p.failure, p.full, p.proven = nil, false, false
	p.signalDrains()
	p.mu.Unlock()
	p.giveUp(refused)
	return true
}
