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
	epoch int64  // 0: not known
	seq   uint64 // highest that came for the first time
	at    time.Time
	asked time.Time
}

// resume takes over where the database was left.
func (p *position) resume(from store.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch, p.seq, p.at = from.Epoch, uint64(max(from.Seq, 0)), from.At
}

// seenUntil is the stream time, or the tick, up to which results were seen; zero when none were.
func (p *position) seenUntil() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// saw notes a batch that is stored.
func (p *position) saw(batch []*bus.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, msg := range batch {
		if msg.Time.After(p.at) {
			p.at = msg.Time
		}
	}
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

// streamEpoch tells which life of the stream a batch is from. Another one than before is a gap: what the old stream
// had and no writer read is gone.
func (s *Service) streamEpoch(ctx context.Context, batch []*bus.Msg) (int64, error) {
	p := &s.position
	before := p.seq
	if !p.needsLook(batch) {
		return p.epoch, nil
	}
	info, err := s.bus.StreamInfo(ctx, bus.StreamEvents)
	if err != nil {
		p.forget()
		return 0, err
	}
	if was := p.epoch; was != 0 && was != info.Epoch() {
		if err := s.recordNewStream(ctx, was, before, batch[0].Time); err != nil {
			p.forget()
			return 0, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch, p.asked = info.Epoch(), time.Now()
	return p.epoch, nil
}

// forget makes the next batch ask again.
func (p *position) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Time{}
}

func (s *Service) recordNewStream(ctx context.Context, epoch int64, seq uint64, until time.Time) error {
	from := s.position.seenUntil()
	if from.After(until) {
		from = until
	}
	s.log.Error("event stream was made anew, what it held unread is lost", "from", from, "to", until)
	return s.store.RecordGap(ctx, store.StreamGap{
		Stream: bus.StreamEvents, Consumer: Durable, StreamEpoch: epoch,
		FromSeq: int64(seq) + 1, ToSeq: int64(seq) + 1, From: from, To: until, Reason: "recreated",
	})
}

// recordHole keeps what the stream discarded before any writer had it.
func (s *Service) recordHole(ctx context.Context, hole bus.Hole) error {
	from, until := s.position.seenUntil(), hole.Until
	if oldest := until.Add(-bus.EventAge - time.Hour); from.Before(oldest) {
		// Nobody was there for longer than the stream remembers: its own bound is the best that can be said.
		from = oldest
	}
	if from.After(until) {
		from = until
	}
	s.log.Error("results were discarded unread", "stream", hole.Stream, "from_seq", hole.From, "to_seq", hole.To,
		"from", from, "to", until)
	return s.store.RecordGap(ctx, store.StreamGap{
		Stream: hole.Stream, Consumer: Durable, StreamEpoch: hole.Epoch,
		FromSeq: int64(hole.From), ToSeq: int64(hole.To), From: from, To: until, Reason: "overrun",
	})
}
