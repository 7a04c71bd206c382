package alerter

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

var picketv1CatalogNoop = picketv1.CatalogChange{Change: "added", Server: &picketv1.Server{
	Name: "noop", Org: "default", Id: "00000000-0000-4000-8000-ffffffffffff", Revision: 1,
}}

// TestCrashes kills the alerter again and again while it folds; in the end the database holds, event for event and identity
// for identity, what one pass over the stream with nothing but the fold gives.
func TestCrashes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	random := rand.New(rand.NewPCG(1, 2))
	const checks, rounds = 6, 30
	for n := range checks {
		f.add(n)
	}
	shadow := newShadow(f)
	for range rounds {
		for n := range checks {
			f.probe(n, string("HHC"[random.IntN(3)]))
		}
		if alerts := shadow.catchUp(f).Alerts(); len(alerts) > 0 { // and people act
			f.command([]string{"acknowledge", "close"}[random.IntN(2)], "default", alerts[random.IntN(len(alerts))].ID.String())
		}
	}
	last := f.send(&picketv1CatalogNoop)

	s := f.alerter("mortal", "")
	s.config.Snapshot = time.Microsecond // with every batch that can
	for done := false; !done; {
		life := 1 + random.IntN(12)
		f.abandon(s, func(seq uint64) bool {
			life--
			done = seq >= last && f.cursor() >= last
			return done || life <= 0
		})
		// Now and then it died before its snapshot reached the database.
		if random.IntN(2) == 0 {
			s.config.Snapshot = time.Hour
		} else {
			s.config.Snapshot = time.Microsecond
		}
	}
	stop := f.start(s) // for the outbox
	wait(t, "the outbox to be empty", func() bool { return len(f.strings(`SELECT event_id::text FROM alert_outbox`)) == 0 })
	stop()

	shadow.catchUp(f)
	var want []string
	byHand := 0
	for _, tr := range shadow.transitions {
		if tr.Sequence <= last {
			want = append(want, fmt.Sprint(tr.Sequence, " ", tr.EventID, " ", tr.Alert.ID, " ", tr.Name, " ", tr.Actor))
		}
		if tr.Actor != "" {
			byHand++
		}
	}
	got := f.strings(`SELECT concat_ws(' ', stream_seq, event_id, alert_id, transition, actor) FROM alert_events WHERE stream_seq <= $1
		ORDER BY stream_seq, noted_at`, last)
	if len(want) < rounds || byHand < 5 {
		t.Errorf("only %d transitions, %d of them by hand: this test shows little", len(want), byHand)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if published := f.published(); len(published) != len(want) {
		t.Errorf("%d events published, %d decided", len(published), len(want))
	}
}

// shadow folds the stream with nothing but the fold.
type shadow struct {
	state       *fold.State
	stream      jetstream.Stream
	epoch       int64
	seq         uint64
	transitions []fold.Transition
}

func newShadow(f *fixture) *shadow {
	f.t.Helper()
	_, stream := f.stream(bus.StreamEvents)
	return &shadow{state: fold.New(), stream: stream, epoch: stream.CachedInfo().Created.UnixNano()}
}

func (s *shadow) catchUp(f *fixture) *fold.State {
	f.t.Helper()
	info, err := s.stream.Info(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for s.seq < info.State.LastSeq {
		s.seq++
		msg, err := s.stream.GetMsg(f.t.Context(), s.seq)
		if err != nil {
			f.t.Fatal(err)
		}
		payload, _ := decode(&bus.Msg{Subject: msg.Subject, ContentType: msg.Header.Get("Content-Type"), Data: msg.Data, Time: msg.Time})
		out := s.state.Step(fold.Event{Epoch: s.epoch, Sequence: s.seq, Time: msg.Time, Payload: payload})
		s.transitions = append(s.transitions, out.Transitions...)
	}
	return s.state
}

func (f *fixture) cursor() uint64 {
	f.t.Helper()
	var seq int64
	if err := f.db.QueryRow(f.t.Context(), `SELECT seq FROM alerter_state`).Scan(&seq); err != nil {
		f.t.Fatal(err)
	}
	return uint64(seq)
}
