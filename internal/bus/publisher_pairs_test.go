package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsclient "github.com/nats-io/nats.go"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// figuresMessage is what a run brings besides its result, which has the same identity.
func figuresMessage(id string, ms int64) bus.Message {
	return bus.Message{
		Subject: bus.MetricSubject("default", "local", "checkout"), ID: id, Time: time.UnixMilli(ms),
		Payload: &picketv1.MetricBatch{Server: "checkout", Org: "default", Location: "local", Values: map[string]float64{"load": 1}},
	}
}

// enqueuePair puts result i in, with its figures.
func enqueuePair(p *bus.Publisher, i int) {
	p.Enqueue(probeMessage(fmt.Sprint(i), int64(i)), figuresMessage(fmt.Sprint(i), int64(i)))
}

// Answers of a stream.
const (
	taken         = `{"stream":"PICKET_METRICS","seq":1}`
	noRoom        = `{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`
	refusedAsLong = `{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}`
)

// tap is a real server of which the test itself is the stream of figures. It sees
// what is published in the order in which it is: "f1" are the figures of result "r1".
type tap struct {
	t         *testing.T
	conn      *bus.Conn
	published chan *natsclient.Msg
	figures   map[string]*natsclient.Msg // not answered
}

func newTap(t *testing.T) *tap {
	t.Helper()
	url := embeddedtest.NATS(t)
	w := &tap{
		t: t, conn: connect(t, url), published: make(chan *natsclient.Msg, 10_000), figures: map[string]*natsclient.Msg{},
	}
	ensureStreams(t, w.conn)
	if err := jetStream(t, url).DeleteStream(testContext(t), bus.StreamMetrics); err != nil {
		t.Fatal(err)
	}
	nc, err := natsclient.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := nc.ChanSubscribe("picket.default.>", w.published); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return w
}

// next returns the next n messages.
func (w *tap) next(n int) (names []string) {
	w.t.Helper()
	for range n {
		select {
		case msg := <-w.published:
			id := msg.Header.Get("Nats-Msg-Id")
			if strings.Contains(msg.Subject, ".metric.") {
				w.figures["f"+id] = msg
				names = append(names, "f"+id)
			} else {
				names = append(names, "r"+id)
			}
		case <-time.After(patience):
			w.t.Fatalf("after %q nothing is published any more", names)
		}
	}
	return names
}

// expect wants these messages next.
func (w *tap) expect(want ...string) {
	w.t.Helper()
	if got := w.next(len(want)); !slices.Equal(got, want) {
		w.t.Fatalf("published %q, want %q", got, want)
	}
}

func (w *tap) answer(with string, figures ...string) {
	w.t.Helper()
	for _, name := range figures {
		if err := w.figures[name].Respond([]byte(with)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func numbered(letter string, from, to int) (names []string) {
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprint(letter, i))
	}
	return names
}

// TestResultWaitsForItsFigures: a result is not even sent while the stream has not
// acknowledged its figures, nor is what came after it; what came before is.
func TestResultWaitsForItsFigures(t *testing.T) {
	t.Parallel()
	w := newTap(t)
	publisher := bus.NewPublisher(w.conn, bus.PublisherOptions{})
	runPublisher(t, publisher)
	publisher.Enqueue(probeMessage("0", 0))
	w.expect("r0")
	enqueuePair(publisher, 1)
	w.expect("f1")
	publisher.Enqueue(probeMessage("2", 2))
	w.answer(taken, "f1")
	w.expect("r1", "r2")

	// What a stream's acknowledgements are withheld of does not hold up other figures.
	enqueuePair(publisher, 3)
	w.expect("f3")
	publisher.Enqueue(probeMessage("4", 4))
	enqueuePair(publisher, 5)
	w.expect("f5")
	if stats := publisher.Stats(); stats.Queued != 5 || stats.Settled != 4 {
		t.Errorf("stats %+v with two pairs and a result waiting", stats)
	}
	w.answer(taken, "f3")
	w.expect("r3", "r4")
	w.answer(taken, "f5")
	w.expect("r5")
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if stats := publisher.Stats(); stats.Acknowledged != 9 || stats.Settled != 9 {
		t.Errorf("stats %+v after nine messages", stats)
	}
}

// TestPairsArePipelined: figures go in one go and their results in another, never
// one pair after the other.
func TestPairsArePipelined(t *testing.T) {
	t.Parallel()
	w := newTap(t)
	publisher := bus.NewPublisher(w.conn, bus.PublisherOptions{})
	const n = 300
	for i := range n {
		enqueuePair(publisher, i)
	}
	runPublisher(t, publisher)
	w.expect("f0") // alone: whether anybody takes it is not known
	w.answer(taken, "f0")
	if got, want := w.next(n), append([]string{"r0"}, numbered("f", 1, n)...); !sameElements(got, want) {
		t.Fatalf("published %q", got)
	}
	w.answer(taken, numbered("f", 1, n)...)
	w.expect(numbered("r", 1, n)...)
}

func sameElements(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// TestRefusedFigures: what is refused comes again and its result waits on; what can
// never be taken is given up, said, and no longer waited for.
func TestRefusedFigures(t *testing.T) {
	t.Parallel()
	w := newTap(t)
	var dropped []string
	var mu sync.Mutex
	publisher := bus.NewPublisher(w.conn, bus.PublisherOptions{
		Log: slog.New(slog.DiscardHandler),
		OnDrop: func(m bus.Message, _ error) {
			mu.Lock()
			defer mu.Unlock()
			dropped = append(dropped, m.ID)
		},
	})
	runPublisher(t, publisher)
	for i := range 3 {
		enqueuePair(publisher, i)
	}
	w.expect("f0")
	w.answer(noRoom, "f0")
	w.expect("f0") // alone
	if publisher.Stats().Err == nil {
		t.Error("figures are refused, and the publisher does not say so")
	}
	w.answer(taken, "f0")
	if got := w.next(3); !sameElements(got, []string{"r0", "f1", "f2"}) {
		t.Fatalf("published %q", got)
	}
	w.answer(refusedAsLong, "f1")
	w.answer(taken, "f2")
	w.expect("r1", "r2")

	unwritable := figuresMessage("3", 3)
	unwritable.Payload = invalidResult()
	publisher.Enqueue(probeMessage("3", 3), unwritable)
	huge := figuresMessage("4", 4)
	huge.Payload = bigResult(2 << 20)
	publisher.Enqueue(probeMessage("4", 4), huge)
	w.expect("r3", "r4")
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"1", "3", "4"}; !slices.Equal(dropped, want) {
		t.Errorf("figures given up: %q, want %q", dropped, want)
	}
}

// TestDroppedFiguresReleaseTheirResult: room is made by the oldest, be it figures or
// a result; a result whose figures made room waits for nothing.
func TestDroppedFiguresReleaseTheirResult(t *testing.T) {
	t.Parallel()
	w := newTap(t)
	var dropped []string
	publisher := bus.NewPublisher(w.conn, bus.PublisherOptions{
		MaxBytes: 64 << 10,
		OnDrop:   func(m bus.Message, _ error) { dropped = append(dropped, strings.SplitN(m.Subject, ".", 4)[2]+m.ID) },
	})
	const n = 1_000
	for i := range n {
		enqueuePair(publisher, i)
	}
	for i, name := range dropped {
		if want := fmt.Sprint([]string{"metric", "probe"}[i%2], i/2); name != want {
			t.Fatalf("drop %d is %s, want %s", i, name, want)
		}
	}
	for len(dropped)%2 == 0 { // until the last is the figures of a pair
		publisher.Enqueue(probeMessage("x", n))
	}
	first := len(dropped) / 2
	runPublisher(t, publisher)
	got := w.next(2)
	if want := []string{fmt.Sprint("f", first+1), fmt.Sprint("r", first)}; !sameElements(got, want) {
		t.Errorf("published %q, want %q", got, want)
	}
	if stats := publisher.Stats(); int(stats.Dropped) != len(dropped) || int(stats.Settled) < len(dropped) {
		t.Errorf("stats %+v with %d dropped", stats, len(dropped))
	}
}

// TestFiguresLargerThanTheQueue are given up at once; their result goes.
func TestFiguresLargerThanTheQueue(t *testing.T) {
	t.Parallel()
	w := newTap(t)
	publisher := bus.NewPublisher(w.conn, bus.PublisherOptions{MaxBytes: 4 << 10})
	runPublisher(t, publisher)
	huge := figuresMessage("1", 1)
	huge.Payload = bigResult(5 << 10)
	publisher.Enqueue(probeMessage("1", 1), huge)
	w.expect("r1")
	if dropped := publisher.Stats().Dropped; dropped != 1 {
		t.Errorf("%d dropped, want the figures", dropped)
	}
}

// TestDrainWaitsForBoth: for the figures, and for the result behind them.
func TestDrainWaitsForBoth(t *testing.T) {
	t.Parallel()
	w := newTap(t)
	publisher := bus.NewPublisher(w.conn, bus.PublisherOptions{})
	runPublisher(t, publisher)
	enqueuePair(publisher, 1)
	w.expect("f1")
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := publisher.Drain(short); !errors.Is(err, context.Canceled) {
		t.Errorf("drained with figures and result open: %v", err)
	}
	w.answer(taken, "f1")
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	w.expect("r1")
}

// TestKilledBetweenFiguresAndResult: the connection ends when the stream has the
// figures and before it has said so, as in the death of a process. There is no
// result then; and there are both, once, when somebody sends them again.
func TestKilledBetweenFiguresAndResult(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	look := connect(t, url)
	ensureStreams(t, look)
	proxy := embeddedtest.FaultProxy(t, strings.TrimPrefix(url, "nats://"))
	conn := connect(t, "nats://"+proxy.Addr())
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{Log: slog.New(slog.DiscardHandler)})
	runPublisher(t, publisher)
	enqueuePair(publisher, 0)
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	died := make(chan struct{})
	die := sync.OnceFunc(func() { close(died) })
	proxy.Inspect(func(from embeddedtest.Side, data []byte) int {
		if from == embeddedtest.Server && strings.Contains(string(data), `"stream":"PICKET_METRICS"`) {
			die()
			return 0
		}
		return len(data)
	})
	const n = 10
	for i := 1; i < n; i++ {
		enqueuePair(publisher, i)
	}
	await(t, "the figures are stored", died)
	events, err := look.StreamInfo(testContext(t), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if events.Messages != 1 {
		t.Errorf("%d results without figures that anybody has acknowledged", events.Messages-1)
	}
	proxy.Inspect(nil)
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{bus.StreamEvents, bus.StreamMetrics} {
		for i, msg := range followAll(t, look, stream, n) {
			if msg.ID != fmt.Sprint(i) {
				t.Errorf("message %d of %s is %s", i, stream, msg.ID)
			}
		}
	}
}

// TestPairsSurviveTheServer: figures and results, and results alone, put in while
// the server comes and goes: all arrive once, each kind in its order, and no result
// before its figures.
func TestPairsSurviveTheServer(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	conn := connect(t, "nats://"+server.addr)
	ensureStreams(t, conn)
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{Log: slog.New(slog.DiscardHandler)})
	runPublisher(t, publisher)
	next, pairs := 0, 0
	put := func(n int) {
		for range n {
			if next%3 == 2 {
				publisher.Enqueue(probeMessage(fmt.Sprint(next), int64(next)))
			} else {
				enqueuePair(publisher, next)
				pairs++
			}
			next++
		}
	}
	for range 3 {
		put(1_500)
		server.nats.Stop()
		put(1_500)
		server.start()
		put(200)
	}
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	stored, previous := map[string]time.Time{}, ""
	for _, msg := range followAll(t, conn, bus.StreamMetrics, pairs) {
		if len(msg.ID) < len(previous) || len(msg.ID) == len(previous) && msg.ID <= previous {
			t.Fatalf("figures %s behind %s", msg.ID, previous)
		}
		stored[msg.ID], previous = msg.Time, msg.ID
	}
	for i, msg := range followAll(t, conn, bus.StreamEvents, next) {
		if got := scheduledMillis(t, msg); got != int64(i) {
			t.Fatalf("result %d is number %d", i, got)
		}
		switch figures, had := stored[msg.ID]; {
		case had != (i%3 != 2):
			t.Fatalf("result %d has figures: %v", i, had)
		case had && figures.After(msg.Time):
			t.Fatalf("result %d was stored %s before its figures", i, figures.Sub(msg.Time))
		}
	}
}
