package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func publishMany(t *testing.T, conn *bus.Conn, from, n int) {
	t.Helper()
	messages := make([]bus.Message, n)
	for i := range messages {
		messages[i] = probeMessage(fmt.Sprint(from+i), int64(from+i))
	}
	if err := conn.PublishAll(testContext(t), messages); err != nil {
		t.Fatal(err)
	}
}

// consumer collects what Consume hands it, and fails batches when told so.
type consumer struct {
	mu     sync.Mutex
	seen   map[int64]int
	fail   error
	target int
	done   chan struct{}
}

func newConsumer(target int) *consumer {
	return &consumer{seen: map[int64]int{}, target: target, done: make(chan struct{})}
}

func (c *consumer) handle(t *testing.T) func(context.Context, []*bus.Msg) error {
	return func(_ context.Context, batch []*bus.Msg) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.fail != nil {
			return c.fail
		}
		for _, msg := range batch {
			c.seen[scheduledMillis(t, msg)]++
		}
		if len(c.seen) == c.target {
			close(c.done)
			c.target = -1
		}
		return nil
	}
}

func run(t *testing.T, f func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s did not happen within %s", what, patience)
	}
}

// pending is how much a durable has not settled, and how much of that somebody holds.
func pending(t *testing.T, url, durable string) (left, held uint64) {
	t.Helper()
	c, err := jetStream(t, url).Consumer(testContext(t), bus.StreamEvents, durable)
	if err != nil {
		t.Fatal(err)
	}
	held = uint64(c.CachedInfo().NumAckPending)
	return c.CachedInfo().NumPending + held, held
}

// awaitAcknowledged returns when the server has nothing left for the writer. It takes acknowledgements in a while after it
// has received them.
func awaitAcknowledged(t *testing.T, conn *bus.Conn, url string) {
	t.Helper()
	if err := conn.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for until := time.Now().Add(patience); ; <-look.C {
		left, _ := pending(t, url, "writer")
		if left == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d messages would come again", left)
		}
	}
}

func TestConsumeAcknowledgesAfterHandle(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ensureStreams(t, conn)
	const n = 2_000
	publishMany(t, conn, 0, n)
	c := newConsumer(n)
	stop := run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 300, MaxWait: 10 * time.Millisecond,
			Handle: c.handle(t), Available: func(context.Context) error { return nil },
		})
	})
	await(t, "consuming everything", c.done)
	stop()
	awaitAcknowledged(t, conn, url)
}

// TestConsumeForgetsNothing: while the handler's store is away nothing is
// acknowledged, and everything comes again at once when it is back.
func TestConsumeForgetsNothing(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ensureStreams(t, conn)
	const n = 1_500
	publishMany(t, conn, 0, n)
	c := newConsumer(n)
	c.fail = fmt.Errorf("commit: %w", bus.ErrUnavailable)
	asked := make(chan struct{}, 1000)
	stop := run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 200, MaxWait: 10 * time.Millisecond,
			Handle: c.handle(t),
			Available: func(context.Context) error {
				asked <- struct{}{}
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.fail
			},
			Log: slog.New(slog.DiscardHandler),
		})
	})
	for range 3 {
		select {
		case <-asked:
		case <-time.After(patience):
			t.Fatal("nobody asked whether the store is back")
		}
	}
	if left, _ := pending(t, url, "writer"); left != n {
		t.Errorf("%d of %d messages left while nothing could be stored", left, n)
	}
	c.mu.Lock()
	c.fail = nil
	c.mu.Unlock()
	await(t, "consuming after the outage, sooner than the acknowledgement time-out", c.done)
	stop()
}

// TestConsumeSurvivesTheServer: the durable goes on after a restart of NATS.
func TestConsumeSurvivesTheServer(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	conn := connect(t, "nats://"+server.addr)
	ensureStreams(t, conn)
	publishMany(t, conn, 0, 500)
	c := newConsumer(1_000)
	run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
			Handle: c.handle(t), Available: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
		})
	})
	server.nats.Stop()
	server.start()
	// On a connection of its own: the other may not have noticed yet that it is gone.
	again := connect(t, "nats://"+server.addr)
	if err := again.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	publishMany(t, again, 500, 500)
	await(t, "consuming over a restart", c.done)
}

// TestConsumeHandsOverWhenItStops: a consumer that is told to stop gives back at
// once what it has taken, stored or not, so that another need not wait until the
// server believes that it is dead.
func TestConsumeHandsOverWhenItStops(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	const n = 1_000
	publishMany(t, conn, 0, n)
	var once sync.Once
	busy := make(chan struct{})
	stop := run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
			Available: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
			Handle: func(ctx context.Context, _ []*bus.Msg) error {
				once.Do(func() { close(busy) })
				<-ctx.Done()
				return ctx.Err()
			},
		})
	})
	await(t, "the first batch", busy)
	stop()
	next := newConsumer(n)
	stop = run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
			Handle: next.handle(t), Available: func(context.Context) error { return nil },
		})
	})
	select {
	case <-next.done:
	case <-time.After(patience / 2): // half of the time after which the server gives them to others by itself
		t.Error("messages stay with a consumer that has stopped")
	}
	stop()
}

// TestConsumeStopsWithoutServer: neither giving back nor stopping waits for a
// server that is gone.
func TestConsumeStopsWithoutServer(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	conn := connect(t, "nats://"+server.addr)
	ensureStreams(t, conn)
	publishMany(t, conn, 0, 500)
	var once sync.Once
	busy := make(chan struct{})
	stop := run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
			Available: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
			Handle: func(ctx context.Context, _ []*bus.Msg) error {
				once.Do(func() { close(busy) })
				<-ctx.Done()
				return ctx.Err()
			},
		})
	})
	await(t, "the first batch", busy)
	server.nats.Stop()
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	await(t, "stopping without a server", stopped)
}

func TestDeadLetterFirst(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ensureStreams(t, conn)
	js := jetStream(t, url)
	const subject = "picket.default.probe.healthy.local.checkout.health"
	if _, err := js.Publish(testContext(t), subject, []byte("\xffnot json")); err != nil {
		t.Fatal(err)
	}
	publishMany(t, conn, 1, 1)
	done := make(chan struct{})
	stop := run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 10, MaxWait: 10 * time.Millisecond,
			Available: func(context.Context) error { return nil },
			Handle: func(ctx context.Context, batch []*bus.Msg) error {
				for _, msg := range batch {
					result := &picketv1.ProbeResult{}
					if err := msg.Decode(result); err != nil {
						if err := msg.DeadLetter(ctx, bus.ReasonUnreadable, err); err != nil {
							return err
						}
						continue
					}
					close(done)
				}
				return nil
			},
		})
	})
	await(t, "the readable message", done)
	stop()
	awaitAcknowledged(t, conn, url)
	letters := followAll(t, conn, bus.StreamDead, 1)
	if got, want := letters[0].Subject, "picket.default.dead.picket_events.writer"; got != want {
		t.Errorf("dead letter on %s, want %s", got, want)
	}
	letter := &picketv1.DeadLetter{}
	if err := letters[0].Decode(letter); err != nil {
		t.Fatal(err)
	}
	if string(letter.GetPayload()) != "\xffnot json" || letter.GetReason() != bus.ReasonUnreadable || letter.GetSubject() != subject || letter.GetSequence() != 1 {
		t.Errorf("dead letter %v", letter)
	}
}

// TestHoleIsReported: what the stream threw away unread is told, once.
func TestHoleIsReported(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ensureStreams(t, conn)
	publishMany(t, conn, 0, 100)
	first := newConsumer(100)
	stop := run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
			Handle: first.handle(t), Available: func(context.Context) error { return nil },
		})
	})
	await(t, "the first hundred", first.done)
	stop()
	overrun(t, conn, url)
	info, err := conn.StreamInfo(testContext(t), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	holes := make(chan bus.Hole, 10)
	backlog := make(chan float64, 10)
	run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
			Handle: func(ctx context.Context, _ []*bus.Msg) error { <-ctx.Done(); return ctx.Err() },
			OnHole: func(_ context.Context, hole bus.Hole) error { holes <- hole; return nil },
			OnBacklog: func(share float64, _ bus.ConsumerState) {
				select {
				case backlog <- share:
				default:
				}
			},
			Available: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
		})
	})
	select {
	case hole := <-holes:
		if want := (bus.Hole{Stream: bus.StreamEvents, Epoch: info.Epoch(), From: 101, To: info.FirstSeq - 1, Until: info.FirstTime}); hole != want {
			t.Errorf("hole %+v, want %+v", hole, want)
		}
	case <-time.After(patience):
		t.Fatal("no hole reported")
	}
	if share := <-backlog; share < 0.9 {
		t.Errorf("backlog share %v of a full stream of which nothing is read", share)
	}
}

// overrun makes the stream small and publishes more than it holds.
func overrun(t *testing.T, conn *bus.Conn, url string) {
	t.Helper()
	js := jetStream(t, url)
	stream, err := js.Stream(testContext(t), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 256 << 10
	if _, err := js.UpdateStream(testContext(t), config); err != nil {
		t.Fatal(err)
	}
	publishMany(t, conn, 100, 2_000)
}

func TestFollowStartsWhereTold(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	publishMany(t, conn, 1, 50)
	var got []uint64
	enough := errors.New("enough")
	err := conn.Follow(testContext(t), bus.FollowOptions{
		Stream: bus.StreamEvents, From: 41, MaxBatch: 7, MaxWait: time.Millisecond,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			for _, msg := range batch {
				got = append(got, msg.Sequence)
			}
			if len(got) == 10 {
				return enough
			}
			return nil
		},
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if want := []uint64{41, 42, 43, 44, 45, 46, 47, 48, 49, 50}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFollowIsInterruptedByTheServer(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	conn := connect(t, "nats://"+server.addr)
	ensureStreams(t, conn)
	publishMany(t, conn, 1, 5)
	read := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- conn.Follow(testContext(t), bus.FollowOptions{
			Stream: bus.StreamEvents, From: 1, MaxBatch: 5, MaxWait: time.Second,
			Handle: func(context.Context, []*bus.Msg) error { close(read); return nil },
		})
	}()
	await(t, "reading", read)
	server.nats.Stop()
	select {
	case err := <-ended:
		if !errors.Is(err, bus.ErrInterrupted) {
			t.Errorf("ended with %v, want ErrInterrupted", err)
		}
	case <-time.After(patience):
		t.Fatal("still reading from a server that is gone")
	}
	server.start()
}

func TestStreamsAreMadeTogetherAndTwice(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	ensureStreams(t, conn) // again: nothing to do, no error
	for _, name := range []string{bus.StreamEvents, bus.StreamMetrics, bus.StreamAlerts, bus.StreamExports, bus.StreamWork, bus.StreamDead} {
		info, err := conn.StreamInfo(testContext(t), name)
		if err != nil {
			t.Error(err)
		}
		if info.MaxBytes <= 0 || info.Created.IsZero() {
			t.Errorf("stream %s: %+v", name, info)
		}
	}
}

// TestLargeMessagesAreBounded: a flood of the largest messages is taken in pieces, whoever reads them.
func TestLargeMessagesAreBounded(t *testing.T) { // not parallel: it leaves the disk to nobody else
	const messages, size, most = 120, 900 << 10, 40
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ctx := testContext(t)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	raw, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	large := bytes.Repeat([]byte("x"), size)
	for range messages {
		if _, err := raw.RequestWithContext(ctx, "picket.default.probe.healthy.local.checkout.health", large); err != nil {
			t.Fatal(err)
		}
	}
	for name, read := range map[string]func(ctx context.Context, handle func(context.Context, []*bus.Msg) error) error{
		"consume": func(ctx context.Context, handle func(context.Context, []*bus.Msg) error) error {
			return conn.Consume(ctx, bus.ConsumeOptions{
				Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 5000, MaxWait: 10 * time.Second, Handle: handle,
				Available: func(context.Context) error { return nil },
			})
		},
		"follow": func(ctx context.Context, handle func(context.Context, []*bus.Msg) error) error {
			return conn.Follow(ctx, bus.FollowOptions{Stream: bus.StreamEvents, MaxBatch: 5000, MaxWait: 10 * time.Second, Handle: handle})
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, done := 0, make(chan struct{})
			stop := run(t, func(ctx context.Context) error {
				return read(ctx, func(_ context.Context, batch []*bus.Msg) error {
					if len(batch) > most {
						t.Errorf("a batch of %d messages of %d bytes", len(batch), size)
					}
					if name == "consume" && got == 0 {
						if _, held := pending(t, url, "writer"); held > 3*most {
							t.Errorf("%d messages of %d bytes are held", held, size)
						}
					}
					if got += len(batch); got == messages {
						close(done)
					}
					return nil
				})
			})
			await(t, "all messages", done)
			stop()
		})
	}
}
