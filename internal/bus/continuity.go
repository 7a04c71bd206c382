package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// continuity notices what a stream threw away before a shared durable had it: a
// stream that discards old says nothing by itself, and acknowledging a message
// behind the hole moves the consumer's floor over it.
type continuity struct {
	conn     *Conn
	consumer jetstream.Consumer
	opts     ConsumeOptions

	mu sync.Mutex
	// highest is the last sequence delivered here for the first time; 0: none yet.
	highest uint64
	// jump is the span of first deliveries that passed this process by since the
	// last check. Most often a replica has them.
	jump Hole
	// reported is the end of the last hole told, in the life epoch of the stream.
	reported uint64
	epoch    int64
}

func newContinuity(conn *Conn, consumer jetstream.Consumer, opts ConsumeOptions) *continuity {
	return &continuity{conn: conn, consumer: consumer, opts: opts}
}

// delivered notes the sequences of a batch.
func (t *continuity) delivered(batch []*Msg) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, msg := range batch {
		if msg.Deliveries != 1 || msg.Sequence <= t.highest {
			continue
		}
		if t.highest > 0 && msg.Sequence > t.highest+1 {
			if t.jump.To == 0 {
				t.jump.From = t.highest + 1
			}
			t.jump.To = msg.Sequence - 1
		}
		t.highest = msg.Sequence
	}
}

func (t *continuity) watch(ctx context.Context) {
	for sleep(ctx, consumeWatch) {
		if err := t.check(ctx); err != nil && ctx.Err() == nil {
			t.opts.Log.Warn("continuity not checked", "stream", t.opts.Stream, "consumer", t.opts.Durable, "err", err)
		}
	}
}

// check compares where the consumer is with where the stream begins, and tells
// the handlers.
func (t *continuity) check(ctx context.Context) error {
	if t.opts.OnHole == nil && t.opts.OnBacklog == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	// The consumer first: its floor can only have grown when the stream is read.
	state, err := t.consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("consumer info: %w", err)
	}
	info, err := t.conn.StreamInfo(ctx, t.opts.Stream)
	if err != nil {
		return err
	}
	floor := state.AckFloor.Stream
	if t.opts.OnBacklog != nil {
		t.opts.OnBacklog(backlogShare(info, floor, time.Now()), ConsumerState{
			Name: t.opts.Durable, Pending: state.NumPending, AckPending: state.NumAckPending, Redelivered: state.NumRedelivered,
		})
	}
	if t.opts.OnHole == nil {
		return nil
	}
	hole, found := t.hole(info, floor)
	if !found {
		return nil
	}
	if err := t.opts.OnHole(ctx, hole); err != nil {
		return fmt.Errorf("report hole: %w", err)
	}
	t.mu.Lock()
	t.reported = hole.To
	t.mu.Unlock()
	return nil
}

// hole returns what is gone: what lies between the floor and the stream's first
// message, or the part of a jump that lies before it. A jump of which the
// stream still has everything went to a replica.
func (t *continuity) hole(info StreamInfo, floor uint64) (Hole, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.epoch != info.Epoch() {
		t.epoch, t.reported = info.Epoch(), 0
	}
	jump := t.jump
	t.jump = Hole{}
	hole := Hole{Stream: t.opts.Stream, Epoch: t.epoch, Until: info.FirstTime}
	switch first := info.FirstSeq; {
	case first > floor+1: // the floor of a durable begins before the first message that there was when it was made
		hole.From, hole.To = floor+1, first-1
	case jump.To > 0 && first > jump.From:
		hole.From, hole.To = jump.From, min(jump.To, first-1)
	default:
		return Hole{}, false
	}
	hole.From = max(hole.From, t.reported+1)
	return hole, hole.From <= hole.To
}

// backlogShare is how much of the room of a stream unread messages take, in
// bytes or in age, whichever is nearer to the end.
func backlogShare(info StreamInfo, floor uint64, now time.Time) float64 {
	if info.Messages == 0 || info.MaxBytes <= 0 || info.LastSeq <= floor {
		return 0
	}
	unread := float64(info.LastSeq-max(floor, info.FirstSeq-1)) / float64(info.Messages)
	bytes := unread * float64(info.Bytes) / float64(info.MaxBytes)
	age := unread * now.Sub(info.FirstTime).Seconds() / EventAge.Seconds()
	return max(bytes, age)
}
