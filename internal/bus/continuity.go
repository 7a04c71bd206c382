package bus

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// continuity notices what a stream threw away before a shared durable had it: a stream that discards old, or is purged by
// hand, says nothing by itself, and the server moves the durable's floor over what is gone, whether it was acknowledged or
// not. So what is settled is counted here: up to the floor that was seen last everything is, and above it what this process
// has acknowledged. Whatever else is gone is told. Where replicas share the durable that can be too much, by what the others
// acknowledged in the last ten seconds; it is never too little.
type continuity struct {
	conn *Conn
	opts ConsumeOptions

	mu sync.Mutex
	// epoch is the life of the stream that the rest is about; 0: none was looked at yet.
	epoch int64
	// floor is the sequence up to which everything is settled or told.
	floor uint64
	// settled are the sequences above it that are settled too.
	settled spans
	// hand is the first sequence of the batch that is being handled, in the life handEpoch of the stream; 0: none. What
	// becomes of it is not decided.
	hand      uint64
	handEpoch int64
}

func newContinuity(conn *Conn, opts ConsumeOptions) *continuity {
	return &continuity{conn: conn, opts: opts}
}

// take notes that a batch is being handled.
func (t *continuity) take(batch []*Msg) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hand, t.handEpoch = batch[0].Sequence, t.epoch
	for _, msg := range batch {
		t.hand = min(t.hand, msg.Sequence)
	}
}

// put notes what became of it: all of it is stored, or what was settled by itself.
func (t *continuity) put(batch []*Msg, stored bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hand = 0
	if t.handEpoch != t.epoch {
		return
	}
	for _, msg := range batch {
		if (stored || msg.settled) && msg.Sequence > t.floor {
			t.settled.add(msg.Sequence)
		}
	}
}

// resume is where a durable that was deleted goes on in a stream.
func (t *continuity) resume(epoch int64) (from uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.epoch != epoch {
		return 1
	}
	from, _ = t.settled.missing(t.floor+1, math.MaxUint64)
	return from
}

func (t *continuity) watch(ctx context.Context, consumer jetstream.Consumer) {
	for sleep(ctx, consumeWatch) {
		if err := t.check(ctx, consumer); err != nil && ctx.Err() == nil {
			t.opts.Log.Warn("continuity not checked", "stream", t.opts.Stream, "consumer", t.opts.Durable, "err", err)
		}
	}
}

// check compares where the consumer is with where the stream begins, and tells
// the handlers.
func (t *continuity) check(ctx context.Context, consumer jetstream.Consumer) error {
	if t.opts.OnHole == nil && t.opts.OnBacklog == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	// The consumer first: its floor can only have grown when the stream is read.
	state, err := consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("consumer info: %w", err)
	}
	info, err := t.conn.StreamInfo(ctx, t.opts.Stream)
	if err != nil {
		return err
	}
	if state.Created.Before(info.Created) {
		return fmt.Errorf("stream was made anew behind its consumer: %w", ErrInterrupted)
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
	hole, upTo := t.hole(info, floor)
	if hole.From != 0 {
		if err := t.opts.OnHole(ctx, hole); err != nil {
			return fmt.Errorf("report hole: %w", err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.floor = upTo
	t.settled.drop(upTo)
	return nil
}

// hole returns what is gone and was not settled, none when its From is 0, and up to where everything is decided when that
// is told.
func (t *continuity) hole(info StreamInfo, floor uint64) (hole Hole, upTo uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.epoch != info.Epoch() {
		// The floor of a durable begins before the first message that there was when it was made.
		t.epoch, t.floor, t.settled = info.Epoch(), floor, nil
	}
	gone := max(info.FirstSeq, 1) - 1
	upTo = max(t.floor, floor, gone)
	if t.hand != 0 && t.handEpoch == t.epoch {
		gone, upTo = min(gone, t.hand-1), max(t.floor, min(upTo, t.hand-1))
	}
	hole = Hole{Stream: t.opts.Stream, Epoch: t.epoch, Until: info.FirstTime}
	hole.From, hole.To = t.settled.missing(t.floor+1, gone)
	return hole, upTo
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
