package bus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const checkID = "3f0c6f5e-8d5f-4c0e-9f6e-2f6b6f1f2a01"

// letterWorld is a server with a writer that takes results for dead while it is told to.
type letterWorld struct {
	t    *testing.T
	conn *bus.Conn
	raw  *nats.Conn
	// refuse is why results are refused; taken are the identities of those that are not.
	refuse chan error
	taken  chan string
}

func newLetterWorld(t *testing.T) *letterWorld {
	t.Helper()
	url := embeddedtest.NATS(t)
	w := &letterWorld{t: t, conn: connect(t, url), refuse: make(chan error, 1), taken: make(chan string, 100)}
	ensureStreams(t, w.conn)
	raw, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.Close)
	w.raw = raw
	var refused error
	run(t, func(ctx context.Context) error {
		return w.conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 10, MaxWait: 10 * time.Millisecond,
			Available: func(context.Context) error { return nil },
			Handle: func(ctx context.Context, batch []*bus.Msg) error {
				select {
				case refused = <-w.refuse:
				default:
				}
				for _, msg := range batch {
					err, reason := refused, bus.ReasonRefused
					if decoded := msg.Decode(&picketv1.ProbeResult{}); decoded != nil {
						err, reason = decoded, bus.ReasonUnreadable
					}
					if err == nil {
						w.taken <- msg.ID
						continue
					}
					if err := msg.DeadLetter(ctx, reason, err); err != nil {
						return err
					}
				}
				return nil
			},
		})
	})
	return w
}

// publish sends a result that the contract allows.
func (w *letterWorld) publish(server string) {
	w.t.Helper()
	at := time.Now().Truncate(time.Second)
	_, err := w.conn.Publish(testContext(w.t), bus.Message{
		Subject: bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "health"), ID: "id-" + server, Time: at,
		Payload: &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_HEALTHY, Org: "default", Server: server, Check: "health", Location: "local", Kind: "http",
			CheckId: checkID, ScheduledAt: timestamppb.New(at),
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *letterWorld) send(subject, text string) {
	w.t.Helper()
	if _, err := w.raw.RequestWithContext(testContext(w.t), subject, []byte(text)); err != nil {
		w.t.Fatal(err)
	}
}

// letters waits until there are as many.
func (w *letterWorld) letters(filter bus.LetterFilter, n int) []*bus.Letter {
	w.t.Helper()
	ctx := testContext(w.t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var letters []*bus.Letter
		err := w.conn.Letters(ctx, filter, func(l *bus.Letter) error { letters = append(letters, l); return nil })
		if err != nil {
			w.t.Fatal(err)
		}
		if len(letters) >= n {
			return letters
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("%d letters, expected %d", len(letters), n)
		}
	}
}

func (w *letterWorld) take(identity string) {
	w.t.Helper()
	select {
	case got := <-w.taken:
		if !strings.HasSuffix(got, identity) {
			w.t.Errorf("received %q, expected that of %q", got, identity)
		}
	case <-time.After(patience):
		w.t.Fatalf("%s has not come again", identity)
	}
}

// TestReplayLetter puts a letter back within the window in which the stream drops what it knows: the message comes as it was,
// once however many replay it, and the letter is marked.
func TestReplayLetter(t *testing.T) {
	t.Parallel()
	w := newLetterWorld(t)
	ctx := testContext(t)
	w.refuse <- errors.New("no such column")
	w.publish("a")
	letter := w.letters(bus.LetterFilter{}, 1)[0]
	if letter.Content.GetReason() != bus.ReasonRefused || letter.Content.GetHeaders()["ce-id"] != "id-a" || letter.Org != "default" || letter.Cut {
		t.Errorf("letter %+v", letter)
	}
	if err := letter.StillDead(time.Now()); err != nil {
		t.Errorf("a result that keeps the contract: %v", err)
	}
	if err := letter.StillDead(time.Now().Add(26 * time.Hour)); !errors.Is(err, bus.ErrContract) {
		t.Errorf("a result of the day before yesterday: %v", err)
	}
	w.refuse <- nil
	other, err := w.conn.Letter(ctx, letter.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.conn.ReplayLetter(ctx, letter, "alice")
	if err != nil {
		t.Fatal(err)
	}
	w.take("id-a")
	// Somebody who looked before does it as well.
	again, err := w.conn.ReplayLetter(ctx, other, "bob")
	if err != nil || again != first {
		t.Errorf("replayed at once by two: message %d (%v), expected %d", again, err, first)
	}
	if letters := w.letters(bus.LetterFilter{Unreplayed: true}, 0); len(letters) != 0 {
		t.Errorf("%d letters count as not replayed", len(letters))
	}
	letter, err = w.conn.Letter(ctx, letter.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if len(letter.Replays) != 1 || letter.Replays[0].GetActor() != "alice" || letter.Replays[0].GetSequence() != first {
		t.Errorf("marks %v", letter.Replays)
	}
	if _, err := w.conn.Letter(ctx, letter.Sequence+1); !errors.Is(err, bus.ErrNoLetter) {
		t.Errorf("the mark passes for a letter: %v", err)
	}
	// Asked for once more on purpose, it goes out once more.
	if _, err := w.conn.ReplayLetter(ctx, letter, "alice"); err != nil {
		t.Fatal(err)
	}
	w.take("id-a")
	if err := w.conn.RemoveLetter(ctx, letter.Sequence); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.RemoveLetter(ctx, letter.Sequence); !errors.Is(err, bus.ErrNoLetter) {
		t.Errorf("removed twice: %v", err)
	}
}

// TestLetters finds letters by what is known of them.
func TestLetters(t *testing.T) {
	t.Parallel()
	w := newLetterWorld(t)
	w.refuse <- errors.New("no such column")
	for _, server := range []string{"a", "b", "c", "d", "e"} {
		w.publish(server)
	}
	w.send("picket.default.probe.healthy.local.f.health", "\xff")
	w.send("picket.other.probe.healthy.local.g.health", "{")
	all := w.letters(bus.LetterFilter{}, 7)
	subjects := func(letters []*bus.Letter) (list []string) {
		for _, l := range letters {
			list = append(list, strings.Split(l.Content.GetSubject(), ".")[5])
		}
		return list
	}
	for name, test := range map[string]struct {
		filter bus.LetterFilter
		want   []string
	}{
		"organization": {bus.LetterFilter{Org: "other"}, []string{"g"}},
		"reason":       {bus.LetterFilter{Reason: bus.ReasonUnreadable}, []string{"f", "g"}},
		"subject":      {bus.LetterFilter{Subject: "picket.*.probe.*.*.b.*"}, []string{"b"}},
		"all below":    {bus.LetterFilter{Subject: "picket.other.>"}, []string{"g"}},
		"nothing":      {bus.LetterFilter{Subject: "picket.other"}, nil},
		"stream":       {bus.LetterFilter{Stream: bus.StreamMetrics}, nil},
		"consumer":     {bus.LetterFilter{Stream: bus.StreamEvents, Consumer: "writer", Org: "other"}, []string{"g"}},
		"since":        {bus.LetterFilter{Since: all[4].Time}, []string{"e", "f", "g"}},
		"not yet":      {bus.LetterFilter{Since: time.Now().Add(time.Hour)}, nil},
		"up to":        {bus.LetterFilter{To: all[1].Sequence}, []string{"a", "b"}},
		"replayed":     {bus.LetterFilter{Replayed: true}, nil},
	} {
		if diff := cmp.Diff(test.want, subjects(w.letters(test.filter, 0))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for n, want := range map[int][]string{1: {"g"}, 3: {"e", "f", "g"}, 7: subjects(all), 100: subjects(all)} {
		newest, more, err := w.conn.NewestLetters(testContext(t), bus.LetterFilter{}, n)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, subjects(newest)); diff != "" || more != (n < 7) {
			t.Errorf("newest %d, more %t (-want +got):\n%s", n, more, diff)
		}
	}
	newest, _, err := w.conn.NewestLetters(testContext(t), bus.LetterFilter{Subject: "*.*.*.*.*.a.*"}, 1)
	if diff := cmp.Diff([]string{"a"}, subjects(newest)); diff != "" || err != nil {
		t.Errorf("the newest of an old one: %v (-want +got):\n%s", err, diff)
	}
}

// TestForgedLetters: whoever can write a letter cannot have the one who replays it do what only he may.
func TestForgedLetters(t *testing.T) {
	t.Parallel()
	w := newLetterWorld(t)
	ctx := testContext(t)
	const box = "picket.default.dead.picket_events.writer"
	w.send(box, "\xff garbage")
	w.send(box, `{}`)
	for _, forged := range []*picketv1.DeadLetter{
		{Stream: bus.StreamEvents, Subject: "$JS.API.STREAM.DELETE." + bus.StreamEvents},
		{Stream: bus.StreamEvents, Subject: "picket.>"},
		{Stream: bus.StreamEvents, Subject: "picket.default.probe.healthy.local.a.health 0\r\nPUB x 0\r\n"},
		{Stream: "KV_picket_catalog", Subject: "$KV.picket_catalog.default.local.1"},
		{Stream: bus.StreamDead, Subject: box},
		// Refused by the server: that subject belongs to another stream.
		{Stream: bus.StreamEvents, Subject: "picket.work.export", Payload: []byte("{}")},
		{Stream: bus.StreamEvents, Subject: "picket.worker.prober.local.me", Payload: []byte("{}")},
	} {
		forged.Consumer = "writer"
		if _, err := w.conn.Publish(ctx, bus.Message{Subject: box, Payload: forged, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	letters := w.letters(bus.LetterFilter{}, 9)
	if letters[0].Fault == nil || letters[0].Size != len("\xff garbage") {
		t.Errorf("garbage passes for a letter: %+v", letters[0])
	}
	for _, letter := range letters {
		within, cancel := context.WithTimeout(ctx, 5*time.Second)
		if _, err := w.conn.ReplayLetter(within, letter, "admin"); err == nil {
			t.Errorf("replayed %v", letter.Content)
		}
		cancel()
	}
	// Orders to the server do not come along.
	_, err := w.conn.Publish(ctx, bus.Message{Subject: box, Time: time.Now(), Payload: &picketv1.DeadLetter{
		Stream: bus.StreamEvents, Consumer: "writer", Subject: "picket.default.probe.healthy.local.a.health", Payload: []byte("{}"),
		Headers: map[string]string{"Nats-Rollup": "all", "Nats-Expected-Last-Sequence": "77", "Content-Type": "application/json"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	letter := w.letters(bus.LetterFilter{}, 10)[9]
	if err := letter.StillDead(time.Now()); !errors.Is(err, bus.ErrContract) {
		t.Errorf("an empty result: %v", err)
	}
	if _, err := w.conn.ReplayLetter(ctx, letter, "admin"); err != nil {
		t.Errorf("replayed without its orders: %v", err)
	}
}

// TestCutLetter: what is not whole is not put back.
func TestCutLetter(t *testing.T) {
	t.Parallel()
	w := newLetterWorld(t)
	w.send("picket.default.probe.healthy.local.a.health", strings.Repeat("x", 600<<10))
	letter := w.letters(bus.LetterFilter{}, 1)[0]
	if !letter.Cut || letter.Size != 600<<10 || letter.Replayable() == nil {
		t.Errorf("letter of %d bytes, cut %t, %v", letter.Size, letter.Cut, letter.Replayable())
	}
}
