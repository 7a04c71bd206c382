package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

// makeDurable leaves the durable of a consumer that was stopped before it asked for anything.
func makeDurable(t *testing.T, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateConsumer(testContext(t), bus.StreamEvents, jetstream.ConsumerConfig{
		Durable: "writer", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy, MaxWaiting: 128,
	})
	if err != nil {
		t.Fatal(err)
	}
}
