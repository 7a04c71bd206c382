package bus

import (
	"math"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
)

// lane is a FIFO of its own: its messages keep their order among themselves. The
// lock of the Publisher guards it.
type lane struct {
	queue  fifo  // not yet sent
	flight fifo  // sent; all older than the queue
	full   bool  // messages stay in the queue because too many are in flight
	proven bool  // something was acknowledged since the last failure; each lane for itself, their streams recover when they do
	last   error // that failure, while nothing was
}

// queued is one message on its way.
type queued struct {
	message Message
	size    int
	serial  uint64 // counts the messages of both lanes
	after   uint64 // the serial number up to which the lane ahead is to be settled before
	// sent is what the client was given; nil in the queue.
	sent     *nats.Msg
	answered bool
	err      error // the answer, nil when acknowledged
}

func newQueued(m Message) queued {
	return queued{message: m, size: proto.Size(m.Payload) + len(m.Subject) + len(m.ID) + messageOverhead}
}

func (l *lane) len() int { return l.queue.len() + l.flight.len() }

// oldest is the serial number of the oldest message that is not settled, beyond
// every one when there is none.
func (l *lane) oldest() uint64 {
	switch {
	case l.flight.len() > 0:
		return l.flight.front().serial
	case l.queue.len() > 0:
		return l.queue.front().serial
	default:
		return math.MaxUint64
	}
}

// take puts the oldest of the queue into flight, up to one that waits for more of
// the lane ahead than what is older than oldestAhead.
func (l *lane) take(batch []outgoing, oldestAhead uint64) (n int) {
	room := maxInFlight
	if !l.proven {
		room = 1
	}
	for n < len(batch) && l.flight.len() < room && l.queue.len() > 0 && l.queue.front().after < oldestAhead {
		item := l.queue.popFront()
		item.sent = &nats.Msg{}
		l.flight.pushBack(item)
		batch[n] = outgoing{message: item.message, msg: item.sent}
		n++
	}
	l.full = l.queue.len() > 0 && l.flight.len() >= room
	return n
}
