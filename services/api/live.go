package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

const (
	// How many may look on at a time: of one token, of one organization, at this process.
	livePerToken = 20
	livePerOrg   = 200
	liveReaders  = 1000
	// backfillsAtOnce bounds those that read what is past, and backfillEvents what each may have of it.
	backfillsAtOnce = 4
	backfillEvents  = 50_000
	backfillRows    = 10_000
	backfillPage    = 1000
	backfillTimeout = 30 * time.Second
	backfillRounds  = 5
)

// live is what the process has for all who look on.
type live struct {
	feeds     [feeds]*feed
	backfills chan struct{}
	slots     *liveSlots
}

func newLive() live {
	l := live{backfills: make(chan struct{}, backfillsAtOnce), slots: &liveSlots{held: map[string]int{}}}
	for i := range l.feeds {
		l.feeds[i] = newFeed(liveStreams[i].stream)
	}
	return l
}

// liveSlots counts who looks on. It is safe for concurrent use.
type liveSlots struct {
	mu   sync.Mutex
	held map[string]int
}

// take counts one more until release is called; ok is false when there are as many as there may be.
func (l *liveSlots) take(who Principal) (release func(), ok bool) {
	bounds := []struct {
		key  string
		most int
	}{{"token/" + who.TokenID, livePerToken}, {"org/" + who.Org, livePerOrg}, {"all", liveReaders}}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range bounds {
		if l.held[b.key] >= b.most {
			return nil, false
		}
	}
	for _, b := range bounds {
		l.held[b.key]++
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, b := range bounds {
			if l.held[b.key]--; l.held[b.key] == 0 {
				delete(l.held, b.key)
			}
		}
	}), true
}

// errLiveEnd ends a stream in an orderly way; the reader has been told why.
var errLiveEnd = errors.New("stream ended")

// reader is one who looks on.
type reader struct {
	s      *Service
	who    Principal
	filter liveFilter
	wanted [feeds]bool
	cursor liveCursor
	// since is where it was in the event stream before it caught up.
	since place
	send  func(liveFrame) error
}

// look sends events that the filter matches, from a cursor on or from now, until ctx ends, the reader is too slow, its
// token ends, or send fails.
func (s *Service) look(ctx context.Context, who Principal, filter liveFilter, from *liveCursor, send func(liveFrame) error) error {
	r := &reader{s: s, who: who, filter: filter, wanted: filter.streams(), send: send}
	for i, f := range s.live.feeds {
		if !r.wanted[i] {
			continue
		}
		defer f.join()() //nolint:gocritic // one for each stream, until the end
		at, err := awaitFeed(ctx, f)
		if err != nil {
			return err
		}
		r.cursor[i] = at
	}
	if from != nil {
		for i := range from {
			if r.wanted[i] && from[i].epoch != 0 {
				r.cursor[i] = from[i]
			}
		}
		if err := r.catchUp(ctx); err != nil {
			return err
		}
	}
	// The first heartbeat says from where on nothing is missed.
	if err := r.heartbeat(ctx); err != nil {
		return err
	}
	return r.follow(ctx)
}

// awaitFeed waits until a feed knows where it is.
func awaitFeed(ctx context.Context, f *feed) (place, error) {
	for {
		at, _, ok, changed := f.position()
		if ok {
			return at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return place{}, context.Cause(ctx)
		}
	}
}

func (r *reader) follow(ctx context.Context) error {
	beat, pulse := time.NewTicker(heartbeatEvery), time.NewTicker(livePulse)
	defer beat.Stop()
	defer pulse.Stop()
	connected := true
	for {
		var changed [feeds]<-chan struct{}
		progress := false
		for i, f := range r.s.live.feeds {
			if !r.wanted[i] {
				continue
			}
			events, next, behind, more := f.take(r.cursor[i])
			changed[i] = more
			if behind {
				if at, _, _, _ := f.position(); at.epoch == r.cursor[i].epoch {
					return r.end("too_slow")
				}
				if err := r.catchUp(ctx); err != nil { // the stream was made anew
					return err
				}
				progress = true
				continue
			}
			for _, event := range events {
				r.cursor[i].seq = event.seq
				if err := r.show(event); err != nil {
					return err
				}
			}
			progress = progress || len(events) > 0
			r.cursor[i] = next
		}
		if progress && ctx.Err() == nil {
			continue
		}
		select {
		case <-changed[0]:
		case <-changed[1]:
		case <-changed[2]:
		case <-changed[3]:
		case <-beat.C:
			if err := r.heartbeat(ctx); err != nil {
				return err
			}
		case <-pulse.C:
			if was := connected; was != r.s.conn.Connected() {
				connected = !was
				if err := r.connection(ctx, connected); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// connection tells that NATS is away, so that silence is not taken for peace; that it is back, the heartbeat tells.
func (r *reader) connection(ctx context.Context, connected bool) error {
	if connected {
		return r.heartbeat(ctx)
	}
	return r.send(liveFrame{r.cursor.String(), liveAway, []byte(`{"reason":"nats_away"}`)})
}

func (r *reader) show(event *liveEvent) error {
	if !r.filter.matches(&event.subject) {
		return nil
	}
	text := event.text()
	if text == nil {
		return nil
	}
	return r.send(liveFrame{r.cursor.String(), event.subject.Family, text})
}

// heartbeat shows that the connection lives and where it is, and ends it with the token.
func (r *reader) heartbeat(ctx context.Context) error {
	token, err := r.s.tokens.find(ctx, r.who.TokenID)
	gone := errors.Is(err, store.ErrNotFound)
	if gone || err == nil && (!token.RevokedAt.IsZero() || !token.ExpiresAt.IsZero() && !time.Now().Before(token.ExpiresAt)) {
		return r.end("token_ended")
	}
	return r.send(liveFrame{id: r.cursor.String(), event: liveHeartbeat})
}

func (r *reader) end(reason string) error {
	data, err := json.Marshal(map[string]string{"reason": reason})
	if err != nil {
		return err
	}
	if err := r.send(liveFrame{r.cursor.String(), liveEnd, data}); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", errLiveEnd, reason)
}

func (r *reader) gap(stream, reason string) error {
	data, err := json.Marshal(map[string]string{"stream": stream, "reason": reason})
	if err != nil {
		return err
	}
	return r.send(liveFrame{r.cursor.String(), liveGap, data})
}

// catchUp sends what came since the reader's cursor until every stream goes on from the ring.
func (r *reader) catchUp(ctx context.Context) error {
	select {
	case r.s.live.backfills <- struct{}{}:
		defer func() { <-r.s.live.backfills }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, backfillTimeout)
	defer cancel()
	r.since = r.cursor[0]
	for i, f := range r.s.live.feeds {
		for round := 0; r.wanted[i]; round++ {
			at, from, ok, _ := f.position()
			if ok && r.cursor[i].epoch == at.epoch && r.cursor[i].seq >= from && r.cursor[i].seq <= at.seq {
				break
			}
			if round == backfillRounds {
				return r.end("too_slow")
			}
			if err := r.backfill(ctx, i, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// backfill sends what a stream took between the reader's cursor and a place, from the stream, and from the database
// what the stream does not have any more.
func (r *reader) backfill(ctx context.Context, i int, to place) error {
	stream := liveStreams[i].stream
	info, err := r.s.conn.StreamInfo(ctx, stream)
	if err != nil {
		return err
	}
	start := r.cursor[i].seq
	if r.cursor[i].epoch != to.epoch || start+1 < info.FirstSeq || start > info.LastSeq {
		if err := r.fromDatabase(ctx, i, place{to.epoch, info.FirstSeq}); err != nil {
			return err
		}
		start = max(info.FirstSeq, 1) - 1
	}
	r.cursor[i] = place{to.epoch, start}
	subjects := make([]string, 0, len(liveStreams[i].families))
	for _, family := range liveStreams[i].families {
		subjects = append(subjects, bus.FamilyFilter(r.filter.org, family))
	}
	count := 0
	err = r.s.conn.Replay(ctx, bus.ReplayOptions{Stream: stream, Subjects: subjects, From: start + 1, To: to.seq, Handle: func(msg *bus.Msg) error {
		if count++; count > backfillEvents {
			return errBackfill
		}
		event := newLiveEvent(msg)
		if event == nil {
			return nil
		}
		r.cursor[i].seq = event.seq
		return r.show(event)
	}})
	if errors.Is(err, errBackfill) {
		err = r.gap(stream, "too_much")
	}
	r.cursor[i] = to
	return err
}

var errBackfill = errors.New("more than is read back")

// fromDatabase sends the results and transitions that the stream forgot. What has no history there is a gap, and the
// reader is told.
func (r *reader) fromDatabase(ctx context.Context, i int, before place) error {
	stream, after := liveStreams[i].stream, store.StreamPlace{Epoch: r.cursor[i].epoch, Seq: int64(r.cursor[i].seq)}
	if err := r.gap(stream, "stream_forgot"); err != nil {
		return err
	}
	switch stream {
	case bus.StreamEvents:
		return r.resultsFromDatabase(ctx, i, after, store.StreamPlace{Epoch: before.epoch, Seq: int64(before.seq)})
	case bus.StreamAlerts:
		return r.alertsFromDatabase(ctx)
	}
	return nil
}
