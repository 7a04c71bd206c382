package api

import (
	"context"
	"sync"
	"time"

	"github.com/picketd/picket/internal/bus"
)

const (
	// ringEvents and ringBytes bound what of one stream is kept in memory for those who look on.
	ringEvents = 8192
	ringBytes  = 16 << 20
	// takeEvents is how many events a reader takes at a time.
	takeEvents = 128
	// feedLinger is how long a stream is still followed after the last reader left.
	feedLinger = 10 * time.Second
	feedBatch  = 500
	feedWait   = 20 * time.Millisecond
	feedRetry  = 250 * time.Millisecond
)

// place is a place in a stream: everything up to it was had.
type place struct {
	epoch int64
	seq   uint64
}

// feed follows one stream while somebody looks on, once for the whole process, and keeps its newest events in a ring.
// Readers have nothing of their own but their place in it: who falls out of the ring was too slow. It is safe for
// concurrent use.
type feed struct {
	stream string

	mu      sync.Mutex
	users   int
	wake    chan struct{} // told that there are users; holds one
	changed chan struct{} // closed and made anew when something came
	ready   bool
	// at is the newest event seen; the ring has every event of its epoch behind from.
	at    place
	from  uint64
	ring  []*liveEvent
	bytes int
}

func newFeed(stream string) *feed {
	return &feed{stream: stream, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// join counts a reader until leave is called.
func (f *feed) join() (leave func()) {
	f.mu.Lock()
	f.users++
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.users--
	})
}

// position is where the feed is; ok is false while it is not known, and changed tells when that may be otherwise.
func (f *feed) position() (at place, from uint64, ok bool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at, f.from, f.ready, f.changed
}

// take returns the events behind a place, the place that the reader is at then, and whether the ring still has what
// follows: when not, behind is true. changed tells that there is more.
func (f *feed) take(p place) (events []*liveEvent, next place, behind bool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ready {
		return nil, p, false, f.changed
	}
	if p.epoch != f.at.epoch || p.seq < f.from {
		return nil, p, true, f.changed
	}
	i, j := 0, len(f.ring)
	for i < j { // the first event behind p
		if m := (i + j) / 2; f.ring[m].seq <= p.seq {
			i = m + 1
		} else {
			j = m
		}
	}
	end := min(len(f.ring), i+takeEvents)
	events = append(events, f.ring[i:end]...)
	next = f.at
	if end < len(f.ring) {
		next = place{f.at.epoch, f.ring[end-1].seq}
	}
	return events, next, false, f.changed
}

// run follows the stream while somebody looks on, until ctx ends.
func (f *feed) run(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil && f.used(ctx) {
			if s.conn.WaitConnected(ctx) != nil {
				return
			}
			if err := f.follow(ctx, s.conn); err != nil && ctx.Err() == nil {
				s.log.DebugContext(ctx, "following a stream for readers interrupted, trying again", "stream", f.stream, "err", err)
				sleep(ctx, feedRetry)
			}
		}
		f.forget()
	}
}

// used reports whether anybody looks on, and waits a little when nobody does: they come back.
func (f *feed) used(ctx context.Context) bool {
	for range 2 {
		f.mu.Lock()
		users := f.users
		f.mu.Unlock()
		if users > 0 {
			return true
		}
		sleep(ctx, feedLinger)
	}
	return false
}

// forget empties the ring when nobody looks on.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users == 0 {
		f.ready, f.ring, f.bytes = false, nil, 0
	}
}

// follow reads on from where the feed is, or from the end of the stream when that is nowhere any more.
func (f *feed) follow(ctx context.Context, conn *bus.Conn) error {
	info, err := conn.StreamInfo(ctx, f.stream)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if !f.ready || f.at.epoch != info.Epoch() || f.at.seq > info.LastSeq || f.at.seq+1 < info.FirstSeq {
		f.ready, f.at, f.from = true, place{info.Epoch(), info.LastSeq}, info.LastSeq
		f.ring, f.bytes = nil, 0
		f.tell()
	}
	at := f.at
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go f.watch(ctx, cancel, conn)
	return conn.Follow(ctx, bus.FollowOptions{
		Stream: f.stream, From: at.seq + 1, MaxBatch: feedBatch, MaxWait: feedWait,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			f.add(at.epoch, batch)
			return nil
		},
	})
}

// watch ends the following when nobody looks on any more, or when it is another stream: the server says nothing of that
// to a reader that waits.
func (f *feed) watch(ctx context.Context, end context.CancelFunc, conn *bus.Conn) {
	defer end()
	for sleep(ctx, 2*time.Second) {
		f.mu.Lock()
		users, at := f.users, f.at
		f.mu.Unlock()
		if users == 0 && !f.used(ctx) {
			return
		}
		if info, err := conn.StreamInfo(ctx, f.stream); err == nil && (info.Epoch() != at.epoch || info.LastSeq < at.seq) {
			return
		}
	}
}

func (f *feed) add(epoch int64, batch []*bus.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.epoch != epoch {
		return
	}
	for _, msg := range batch {
		if msg.Sequence != f.at.seq+1 { // the stream dropped what lies between: whoever waits for it must ask the database
			f.ring, f.bytes, f.from = nil, 0, msg.Sequence-1
		}
		f.at.seq = msg.Sequence
		if event := newLiveEvent(msg); event != nil {
			f.ring = append(f.ring, event)
			f.bytes += event.size()
		}
	}
	gone := 0
	for len(f.ring)-gone > ringEvents || f.bytes > ringBytes && gone < len(f.ring) {
		f.bytes -= f.ring[gone].size()
		f.from = f.ring[gone].seq
		gone++
	}
	if gone > 0 {
		f.ring = append(make([]*liveEvent, 0, ringEvents+feedBatch), f.ring[gone:]...)
	}
	f.tell()
}

// tell wakes the readers; f.mu is held.
func (f *feed) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}
