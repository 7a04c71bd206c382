package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// TestHoleBeforeTheFirstAck: a durable that has acknowledged nothing yet misses what is thrown away as any other does.
func TestHoleBeforeTheFirstAck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		late bool // made when the stream has lost messages already: those were never its own
		want bool
	}{
		"the durable is there":   {false, true},
		"the durable is younger": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := embeddedtest.NATS(t)
			conn := connect(t, url)
			ensureStreams(t, conn)
			holes := make(chan bus.Hole, 1)
			asked := make(chan struct{}, 1)
			consume := func() (stop func()) {
				return run(t, func(ctx context.Context) error {
					return conn.Consume(ctx, bus.ConsumeOptions{
						Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 100, MaxWait: 10 * time.Millisecond,
						Handle: func(context.Context, []*bus.Msg) error { return errors.New("the store is away") },
						OnHole: func(_ context.Context, hole bus.Hole) error { holes <- hole; return nil },
						Available: func(ctx context.Context) error {
							select {
							case asked <- struct{}{}:
							default:
							}
							<-ctx.Done()
							return ctx.Err()
						},
						Log: slog.New(slog.DiscardHandler),
					})
				})
			}
			if !test.late {
				makeDurable(t, url)
			}
			overrun(t, conn, url)
			info, err := conn.StreamInfo(testContext(t), bus.StreamEvents)
			if err != nil {
				t.Fatal(err)
			}
			defer consume()()
			await(t, "a batch", asked) // the check comes before it
			if test.want {
				select {
				case hole := <-holes:
					if hole.From != 1 || hole.To != info.FirstSeq-1 {
						t.Errorf("hole %+v, want 1 to %d", hole, info.FirstSeq-1)
					}
				default:
					t.Error("no hole reported")
				}
				return
			}
			select {
			case hole := <-holes:
				t.Errorf("hole %+v of messages from before the durable", hole)
			default:
			}
		})
	}
}

// TestThrownAwayInHand: what a consumer had in hand, and could not store, when the stream threw it away is as lost as what it
// never had, whoever threw it away, and though the server counts it as done.
func TestThrownAwayInHand(t *testing.T) {
	t.Parallel()
	for name, throwAway := range map[string]func(t *testing.T, conn *bus.Conn, url string){
		"no room": overrun,
		"purged":  purge,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := embeddedtest.NATS(t)
			conn := connect(t, url)
			ensureStreams(t, conn)
			publishMany(t, conn, 0, 100)
			holes := make(chan bus.Hole, 10)
			asked := make(chan struct{}, 1)
			back := make(chan struct{})
			handled := make(chan uint64, 10_000)
			stop := run(t, func(ctx context.Context) error {
				return conn.Consume(ctx, bus.ConsumeOptions{
					Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 30, MaxWait: 10 * time.Millisecond,
					Handle: func(_ context.Context, batch []*bus.Msg) error {
						select {
						case <-back:
							for _, msg := range batch {
								handled <- msg.Sequence
							}
							return nil
						default:
							if batch[0].Sequence == 1 {
								for _, msg := range batch {
									handled <- msg.Sequence
								}
								return nil
							}
							return errors.New("the store is away")
						}
					},
					OnHole: func(_ context.Context, hole bus.Hole) error { holes <- hole; return nil },
					Available: func(ctx context.Context) error {
						select {
						case asked <- struct{}{}:
						default:
						}
						select {
						case <-back:
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					},
					Log: slog.New(slog.DiscardHandler),
				})
			})
			await(t, "the store is missed", asked)
			throwAway(t, conn, url)
			publishMany(t, conn, 5_000, 1)
			info, err := conn.StreamInfo(testContext(t), bus.StreamEvents)
			if err != nil {
				t.Fatal(err)
			}
			close(back)
			// What the consumer gave back may come again after what is younger.
			stored, told := map[uint64]bool{}, map[uint64]bool{}
			tell := func(hole bus.Hole) {
				for seq := hole.From; seq <= hole.To; seq++ {
					told[seq] = true
				}
			}
			for len(stored)+len(told) < int(info.LastSeq) {
				select {
				case seq := <-handled:
					stored[seq] = true
				case hole := <-holes:
					tell(hole)
				case <-time.After(patience):
					t.Fatalf("of %d messages %d were stored and %d told to be lost", info.LastSeq, len(stored), len(told))
				}
			}
			stop()
			close(holes)
			for hole := range holes {
				tell(hole)
			}
			close(handled)
			for seq := range handled {
				stored[seq] = true
			}
			for seq := range stored {
				if told[seq] {
					t.Fatalf("%d is stored and told to be lost", seq)
				}
			}
		})
	}
}

// TestDeletedDurable: a consumer that somebody deletes goes on where it was, and need not read a day anew.
func TestDeletedDurable(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ensureStreams(t, conn)
	publishMany(t, conn, 0, 100)
	first, second := newConsumer(100), newConsumer(200)
	run(t, func(ctx context.Context) error {
		return conn.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 30, MaxWait: 10 * time.Millisecond,
			Handle: func(ctx context.Context, batch []*bus.Msg) error {
				return errors.Join(first.handle(t)(ctx, batch), second.handle(t)(ctx, batch))
			},
			OnHole:    func(_ context.Context, hole bus.Hole) error { t.Errorf("hole %+v", hole); return nil },
			Available: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
		})
	})
	await(t, "the first hundred", first.done)
	withStream(t, url, func(stream jetstream.Stream) error { return stream.DeleteConsumer(testContext(t), "writer") })
	publishMany(t, conn, 100, 100)
	await(t, "the second hundred", second.done)
	// A batch may have been in hand when its consumer went.
	twice := 0
	for _, times := range second.seen {
		if times > 1 {
			twice++
		}
	}
	if twice > 30 {
		t.Errorf("%d of the first hundred were read again", twice)
	}
}

// purge empties the stream by hand.
func purge(t *testing.T, _ *bus.Conn, url string) {
	t.Helper()
	withStream(t, url, func(stream jetstream.Stream) error { return stream.Purge(testContext(t)) })
}

// withStream does something to the stream of events as somebody with a terminal would.
func withStream(t *testing.T, url string, do func(jetstream.Stream) error) {
	t.Helper()
	js := jetStream(t, url)
	stream, err := js.Stream(testContext(t), bus.StreamEvents)
	if err == nil {
		err = do(stream)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// makeDurable leaves the durable of a consumer that was stopped before it asked for anything.
func makeDurable(t *testing.T, url string) {
	t.Helper()
	js := jetStream(t, url)
	_, err := js.CreateConsumer(testContext(t), bus.StreamEvents, jetstream.ConsumerConfig{
		Durable: "writer", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy, MaxWaiting: 128,
	})
	if err != nil {
		t.Fatal(err)
	}
}
