package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// runPublisher runs p until the test ends.
func runPublisher(t *testing.T, p *bus.Publisher) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("publisher ended with %v", err)
		}
	})
}

// followAll reads n messages of a stream in order.
func followAll(t *testing.T, conn *bus.Conn, stream string, n int) []*bus.Msg {
	t.Helper()
	var all []*bus.Msg
	enough := errors.New("enough")
	err := conn.Follow(testContext(t), bus.FollowOptions{
		Stream: stream, From: 1, MaxBatch: 500, MaxWait: 1,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			if all = append(all, batch...); len(all) >= n {
				return enough
			}
			return nil
		},
	})
	if !errors.Is(err, enough) {
		t.Fatalf("read %d of %d messages: %v", len(all), n, err)
	}
	return all
}

func TestPublisherKeepsOrder(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	var mu sync.Mutex
	var told []string
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{OnAck: func(m bus.Message) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, m.ID)
	}})
	runPublisher(t, publisher)
	const n = 10_000
	for i := range n {
		publisher.Enqueue(probeMessage(fmt.Sprint(i), int64(i)))
	}
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for i, msg := range followAll(t, conn, bus.StreamEvents, n) {
		if got := scheduledMillis(t, msg); got != int64(i) {
			t.Fatalf("message %d is number %d", i, got)
		}
	}
	if stats := publisher.Stats(); stats.Acknowledged != n || stats.Dropped != 0 || stats.Queued != 0 {
		t.Errorf("stats %+v after %d messages", stats, n)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != n {
		t.Fatalf("told of %d acknowledgements", len(told))
	}
	for i, id := range told {
		if want := probeMessage(fmt.Sprint(i), int64(i)).ID; id != want {
			t.Fatalf("acknowledgement %d is told of %s, want %s", i, id, want)
		}
	}
}

// TestPublisherSurvivesTheServer: messages put in while the server comes and
// goes arrive all, once, and in order.
func TestPublisherSurvivesTheServer(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	conn := connect(t, "nats://"+server.addr)
	ensureStreams(t, conn)
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{Log: slog.New(slog.DiscardHandler)})
	runPublisher(t, publisher)
	next := 0
	put := func(n int) {
		for range n {
			publisher.Enqueue(probeMessage(fmt.Sprint(next), int64(next)))
			next++
		}
	}
	for range 3 {
		put(3_000)
		server.nats.Stop()
		put(3_000)
		server.start()
		put(500)
	}
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	// Doubles inside the window of the stream's memory are the stream's to drop;
	// after a restart it knows the identities from its store.
	for i, msg := range followAll(t, conn, bus.StreamEvents, next) {
		if got := scheduledMillis(t, msg); got != int64(i) {
			t.Fatalf("message %d is number %d", i, got)
		}
	}
}

func TestPublisherDropsTheOldest(t *testing.T) {
	t.Parallel()
	conn := connect(t, "nats://127.0.0.1:1") // nobody there
	var dropped []string
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{
		MaxBytes: 64 << 10,
		OnDrop: func(m bus.Message, reason error) {
			if !errors.Is(reason, bus.ErrQueueFull) {
				t.Errorf("dropped for %v", reason)
			}
			dropped = append(dropped, m.ID)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	runPublisher(t, publisher)
	const n = 2_000
	for i := range n {
		publisher.Enqueue(probeMessage(fmt.Sprint(i), int64(i)))
	}
	stats := publisher.Stats()
	if stats.Queued+len(dropped) != n || int(stats.Dropped) != len(dropped) {
		t.Errorf("%d queued and %d dropped of %d", stats.Queued, len(dropped), n)
	}
	if len(dropped) < n/2 {
		t.Errorf("only %d dropped: the queue is not bounded", len(dropped))
	}
	for i, id := range dropped[:10] {
		if id != fmt.Sprint(i) {
			t.Errorf("drop %d is message %s, not the oldest", i, id)
		}
	}
}

func TestPublisherGivesUpWhatCanNeverBeSent(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	var dropped atomic.Int64
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{
		OnDrop: func(bus.Message, error) { dropped.Add(1) }, Log: slog.New(slog.DiscardHandler),
	})
	runPublisher(t, publisher)
	huge := probeMessage("huge", 1)
	huge.Payload = bigResult(2 << 20)
	publisher.Enqueue(huge)
	invalid := probeMessage("invalid", 1)
	invalid.Payload = invalidResult()
	publisher.Enqueue(invalid)
	publisher.Enqueue(probeMessage("good", 2))
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := dropped.Load(); got != 2 {
		t.Errorf("%d dropped, want the two that can not be sent", got)
	}
	if all := followAll(t, conn, bus.StreamEvents, 1); all[0].ID != "good" {
		t.Errorf("the stream has %q", all[0].ID)
	}
}

func TestPublishSameIDIsOneMessage(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	ctx := testContext(t)
	first, err := conn.Publish(ctx, probeMessage("same", 1))
	if err != nil {
		t.Fatal(err)
	}
	second, err := conn.Publish(ctx, probeMessage("same", 1))
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Errorf("sequences %d and %d for one identity", first, second)
	}
}

func TestPublishAllWithoutServer(t *testing.T) {
	t.Parallel()
	conn := connect(t, "nats://127.0.0.1:1")
	err := conn.PublishAll(testContext(t), []bus.Message{probeMessage("a", 1)})
	if !errors.Is(err, bus.ErrDisconnected) {
		t.Errorf("got %v, want ErrDisconnected", err)
	}
}

// TestDrainEndsWhenTheLastIsDropped: a queue that dropping has emptied is drained.
func TestDrainEndsWhenTheLastIsDropped(t *testing.T) {
	t.Parallel()
	conn := connect(t, "nats://127.0.0.1:1") // nobody there
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{MaxBytes: 4 << 10})
	for i := range 10 {
		publisher.Enqueue(probeMessage(fmt.Sprint(i), int64(i)))
	}
	drained := make(chan error, 1)
	waiting := make(chan struct{})
	ctx := &watchedContext{Context: testContext(t), asked: sync.OnceFunc(func() { close(waiting) })}
	go func() { drained <- publisher.Drain(ctx) }()
	await(t, "waiting for the queue", waiting)
	for i := range 10 { // they push out everything that was there
		m := probeMessage("large", int64(i))
		m.Payload = bigResult(3 << 10)
		publisher.Enqueue(m)
	}
	select {
	case err := <-drained:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience / 2):
		t.Fatal("drain waits for messages that were dropped")
	}
}

// watchedContext tells when somebody waits for its end.
type watchedContext struct {
	context.Context
	asked func()
}

func (c *watchedContext) Done() <-chan struct{} {
	c.asked()
	return c.Context.Done()
}

// TestLargerThanTheQueue: a message that can never fit goes alone.
func TestLargerThanTheQueue(t *testing.T) {
	t.Parallel()
	conn := connect(t, "nats://127.0.0.1:1")
	var dropped []string
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{
		MaxBytes: 4 << 10,
		OnDrop:   func(m bus.Message, _ error) { dropped = append(dropped, m.ID) },
	})
	publisher.Enqueue(probeMessage("small", 1))
	huge := probeMessage("huge", 2)
	huge.Payload = bigResult(5 << 10)
	publisher.Enqueue(huge)
	if want := []string{"huge"}; !slices.Equal(dropped, want) {
		t.Errorf("dropped %q, want %q", dropped, want)
	}
	if stats := publisher.Stats(); stats.Queued != 1 || stats.Dropped != 1 {
		t.Errorf("stats %+v", stats)
	}
}

// TestDrainWaitsForWhatWasThere: messages that keep coming do not keep Drain.
func TestDrainWaitsForWhatWasThere(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{})
	runPublisher(t, publisher)
	publisher.Enqueue(probeMessage("first", 0))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				// Always some thousands in the queue: it is never seen empty.
				if publisher.Stats().Queued < 8_000 {
					publisher.Enqueue(probeMessage(fmt.Sprint(i), int64(i)))
				}
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	for range 3 {
		if err := publisher.Drain(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAcknowledgedAfterRun: what was in flight when Run ended is counted when its
// acknowledgement comes, and what was not sent goes when Run runs again.
func TestAcknowledgedAfterRun(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{})
	next := 0
	for range 20 {
		stop := run(t, publisher.Run)
		for range 300 {
			publisher.Enqueue(probeMessage(fmt.Sprint(next), int64(next)))
			next++
		}
		stop()
	}
	run(t, publisher.Run)
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for i, msg := range followAll(t, conn, bus.StreamEvents, next) {
		if got := scheduledMillis(t, msg); got != int64(i) {
			t.Fatalf("message %d is number %d", i, got)
		}
	}
	if stats := publisher.Stats(); stats.Acknowledged != int64(next) {
		t.Errorf("stats %+v after %d messages", stats, next)
	}
}

// TestOrderWhileTheStreamIsAway: the server is there and has no stream. Every
// message is refused at once and waits, the oldest make room, and all that is
// left goes in its order when the stream comes.
func TestOrderWhileTheStreamIsAway(t *testing.T) {
	t.Parallel()
	conn := connect(t, embeddedtest.NATS(t))
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var dropped atomic.Int64
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{
		MaxBytes: 256 << 10, Log: slog.New(slog.DiscardHandler),
		OnDrop: func(bus.Message, error) { dropped.Add(1) },
	})
	runPublisher(t, publisher)
	const n = 5_000
	for i := range n {
		publisher.Enqueue(probeMessage(fmt.Sprint(i), int64(i)))
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(patience); publisher.Stats().Err == nil; <-look.C {
		if time.Now().After(deadline) {
			t.Fatal("nobody takes the messages, and the publisher does not say so")
		}
	}
	ensureStreams(t, conn)
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	left := n - int(dropped.Load())
	if dropped.Load() == 0 || left == 0 {
		t.Fatalf("%d of %d dropped: the test shows nothing", dropped.Load(), n)
	}
	previous := int64(-1)
	for _, msg := range followAll(t, conn, bus.StreamEvents, left) {
		got := scheduledMillis(t, msg)
		if got <= previous {
			t.Fatalf("message %d behind %d", got, previous)
		}
		previous = got
	}
	if previous != n-1 {
		t.Errorf("the last is %d, not %d", previous, n-1)
	}
	if stats := publisher.Stats(); stats.Acknowledged != int64(left) || stats.Queued != 0 || stats.Err != nil {
		t.Errorf("stats %+v, %d left", stats, left)
	}
}
