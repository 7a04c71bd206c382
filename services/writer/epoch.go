package writer

import (
	"context"
	"sync"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

// epochAge is how long an answer about the stream is believed. A stream that is deleted and made again within it gives
// itself away by sequences that begin anew.
const epochAge = 5 * time.Second

// position is how far this process, or the one before it, has seen the stream.
type position struct {
	mu    sync.Mutex
	life  life   // of the stream; the zero value: not known
	seq   uint64 // highest that came for the first time
	at    time.Time
	asked time.Time
	// stored is what of that is committed.
	stored store.Position
}

// life tells which life of a stream a message is from: what was in hand when it was made anew is of the one before.
type life struct {
	epoch, before int64 // before: 0 when there was none that this process knows
	created       time.Time
}

func (l life) of(msg *bus.Msg) int64 {
	if l.before != 0 && msg.Time.Before(l.created) {
		return l.before
	}
	return l.epoch
}

// reader is one stream as a writer reads it: which life of it, how far, and how far behind.
type reader struct {
	*Service
	stream, durable string
	position        position
	backlog         backlog
}

// resume takes over where the database was left.
func (p *position) resume(from store.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life, p.seq, p.at = life{epoch: from.Epoch}, uint64(max(from.Seq, 0)), from.At
}

// seenUntil is the stream time, or the tick, up to which messages were stored; zero when none were.
func (p *position) seenUntil() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// now is how far the stream is stored by this process; the zero position when nothing is.
func (p *position) now() store.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stored
}

// saw notes a batch that is stored.
func (p *position) saw(batch []*bus.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stored.Epoch != p.life.epoch {
		p.stored = store.Position{Epoch: p.life.epoch}
	}
	for _, msg := range batch {
		p.at = later(p.at, msg.Time)
		if p.life.of(msg) == p.life.epoch {
			p.stored.Seq = max(p.stored.Seq, int64(msg.Sequence))
		}
	}
	p.stored.At = p.at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// needsLook notes the sequences of a batch, and reports whether the stream must be asked which one it is.
func (p *position) needsLook(batch []*bus.Msg) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	restarted := false
	for _, msg := range batch {
		if msg.Deliveries == 1 {
			restarted = restarted || msg.Sequence <= p.seq
			p.seq = msg.Sequence
		}
	}
	return restarted || time.Since(p.asked) >= epochAge
}

// streamLife tells which life of the stream the messages of a batch are from. Another one than before is a gap: what the
// old stream had and no writer read is gone.
func (r *reader) streamLife(ctx context.Context, batch []*bus.Msg) (life, error) {
	p := &r.position
	before := p.seq
	if !p.needsLook(batch) {
		return p.life, nil
	}
	info, err := r.bus.StreamInfo(ctx, r.stream)
	if err != nil {
		p.forget()
		return life{}, err
	}
	now := p.life
	if now.epoch != info.Epoch() {
		now = life{epoch: info.Epoch(), before: p.life.epoch, created: info.Created}
		if now.before != 0 {
			if err := r.recordNewStream(ctx, now, before); err != nil {
				p.forget()
				return life{}, err
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life, p.asked = now, time.Now()
	return now, nil
}

// forget makes the next batch ask again.
func (p *position) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Time{}
}

// recordNewStream keeps what may be lost with the old stream: everything it took behind what is stored, until the new one
// was there.
func (r *reader) recordNewStream(ctx context.Context, now life, seq uint64) error {
	from, until := r.position.seenUntil(), now.created
	if from.After(until) {
		from = until
	}
	r.log.Error("stream was made anew, what it held unread is lost", "stream", r.stream, "from", from, "to", until)
	return r.store.RecordGap(ctx, store.StreamGap{
		Stream: r.stream, Consumer: r.durable, StreamEpoch: now.before,
		FromSeq: int64(seq) + 1, ToSeq: int64(seq) + 1, From: from, To: until, Reason: "recreated",
	})
}

// recordHole keeps what the stream discarded before any writer had it.
func (r *reader) recordHole(ctx context.Context, hole bus.Hole) error {
	from, until := r.position.seenUntil(), hole.Until
	if oldest := until.Add(-bus.EventAge - time.Hour); from.Before(oldest) {
		// Nobody was there for longer than the stream remembers: its own bound is the best that can be said.
		from = oldest
	}
	if from.After(until) {
		from = until
	}
	r.log.Error("messages were discarded unread", "stream", hole.Stream, "from_seq", hole.From, "to_seq", hole.To,
		"from", from, "to", until)
	return r.store.RecordGap(ctx, store.StreamGap{
		Stream: hole.Stream, Consumer: r.durable, StreamEpoch: hole.Epoch,
		FromSeq: int64(hole.From), ToSeq: int64(hole.To), From: from, To: until, Reason: "overrun",
	})
}
