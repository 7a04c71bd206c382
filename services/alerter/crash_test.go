package alerter

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	var last uint64
	for range rounds {
		for n := range checks {
			f.probe(n, string("HHC"[random.IntN(3)]))
		}
	}
	last = f.send(&picketv1CatalogNoop)

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

	var want []string
	state := fold.New()
	_, stream := f.stream(bus.StreamEvents)
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= last; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		payload, _ := decode(&bus.Msg{Subject: msg.Subject, ContentType: msg.Header.Get("Content-Type"), Data: msg.Data, Time: msg.Time})
		for _, tr := range state.Step(fold.Event{Epoch: info.Created.UnixNano(), Sequence: seq, Time: msg.Time, Payload: payload}).Transitions {
			want = append(want, fmt.Sprint(tr.Sequence, " ", tr.EventID, " ", tr.Alert.ID, " ", tr.Name))
		}
	}
	got := f.strings(`SELECT concat_ws(' ', stream_seq, event_id, alert_id, transition) FROM alert_events WHERE stream_seq <= $1
		ORDER BY stream_seq`, last)
	if len(want) < rounds {
		t.Errorf("only %d transitions: this test shows little", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if published := f.published(); len(published) != len(want) {
		t.Errorf("%d events published, %d decided", len(published), len(want))
	}
}

func (f *fixture) cursor() uint64 {
	f.t.Helper()
	var seq int64
	if err := f.db.QueryRow(f.t.Context(), `SELECT seq FROM alerter_state`).Scan(&seq); err != nil {
		f.t.Fatal(err)
	}
	return uint64(seq)
}
