package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// TestStalledConnection: a wire on which nothing moves, with more to send than all buffers on the way hold. Nobody who asks
// waits for long, what cannot be sent is bounded, and given up oldest first and told; the rest arrives in its order when the
// wire is well.
func TestStalledConnection(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	look := connect(t, url)
	ensureStreams(t, look)
	proxy := embeddedtest.FaultProxy(t, strings.TrimPrefix(url, "nats://"))
	conn := connect(t, "nats://"+proxy.Addr())
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	lost := make(chan struct{})
	defer conn.OnState(func(connected bool) {
		select {
		case <-lost:
		default:
			if !connected {
				close(lost)
			}
		}
	})()
	const (
		room  = 8 << 20
		large = 16 << 10
		total = 4_000 // 64 MB, which no pair of sockets holds
	)
	var mu sync.Mutex
	var dropped []string
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{MaxBytes: room, OnDrop: func(m bus.Message, err error) {
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(err, bus.ErrQueueFull) {
			t.Errorf("%s dropped: %v", m.ID, err)
		}
		dropped = append(dropped, m.ID)
	}})
	run(t, publisher.Run)
	payload := bigResult(large)
	enqueue := func(i int) {
		message := probeMessage(fmt.Sprint(i), int64(i))
		message.Payload = payload
		publisher.Enqueue(message)
	}
	enqueue(0)
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}

	proxy.Freeze()
	stalled := time.Now()
	for i := 1; i <= total; i++ {
		enqueue(i)
		if queued := publisher.Stats().Queued; queued > room/large {
			t.Fatalf("%d messages of %d bytes wait in room for %d bytes", queued, large, room)
		}
	}
	if took := time.Since(stalled); took > 10*time.Second {
		t.Errorf("to enqueue took %s", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	asked := time.Now()
	if err := conn.Ping(ctx); err == nil {
		t.Error("a wire on which nothing moves has answered")
	}
	if took := time.Since(asked); took > 10*time.Second {
		t.Errorf("the answer that there is none took %s", took)
	}
	await(t, "the connection is given up", lost)
	if took := time.Since(stalled); took > 20*time.Second {
		t.Errorf("that took %s", took)
	}

	proxy.Thaw()
	if err := publisher.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	stats := publisher.Stats()
	if int(stats.Dropped) != len(dropped) || int(stats.Acknowledged)+len(dropped) != total+1 {
		t.Errorf("%d dropped, %d told; %d acknowledged of %d", stats.Dropped, len(dropped), stats.Acknowledged, total+1)
	}
	if len(dropped) == 0 {
		t.Error("nothing was dropped: this test shows little")
	}
	arrived := readIDs(t, look)
	gone := map[string]bool{}
	for _, id := range dropped {
		gone[id] = true
	}
	next := 0
	for i := range total + 1 {
		id := fmt.Sprint(i)
		if next < len(arrived) && arrived[next] == id {
			next++
		} else if !gone[id] {
			t.Fatalf("%s is not where it belongs: neither arrived behind %v nor dropped", id, arrived[max(0, next-3):next])
		}
	}
	if next != len(arrived) {
		t.Errorf("%d messages came out of order or twice, the first is %s", len(arrived)-next, arrived[next])
	}
	// A message may have been given up while it was on its way; the youngest never are.
	if last := arrived[len(arrived)-1]; last != fmt.Sprint(total) {
		t.Errorf("the last is %s", last)
	}
}

// readIDs returns the identities in the stream of events, in its order.
func readIDs(t *testing.T, conn *bus.Conn) []string {
	t.Helper()
	info, err := conn.StreamInfo(testContext(t), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	var ids []string
	err = conn.Follow(ctx, bus.FollowOptions{
		Stream: bus.StreamEvents, From: 1, MaxBatch: 100, MaxWait: 10 * time.Millisecond,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			for _, msg := range batch {
				ids = append(ids, msg.ID)
				if msg.Sequence == info.LastSeq {
					stop()
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestPing: a server without JetStream is there and of no use.
func TestPing(t *testing.T) {
	t.Parallel()
	for name, stores := range map[string]bool{"with": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nats := natsWith(t, natsserver.Options{JetStream: stores})
			conn := connect(t, nats.ClientURL())
			if err := conn.WaitConnected(testContext(t)); err != nil {
				t.Fatal(err)
			}
			switch err := conn.Ping(testContext(t)); {
			case stores && err != nil:
				t.Errorf("got %v", err)
			case !stores && !errors.Is(err, bus.ErrNoJetStream):
				t.Errorf("got %v, want ErrNoJetStream", err)
			}
		})
	}
}
