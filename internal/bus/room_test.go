package bus_test

import (
	"fmt"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
)

// A server with little room holds all streams, and the two large ones share what there is: with any amount, when
// several services begin at once.
func TestStreamsShareASmallDisk(t *testing.T) {
	t.Parallel()
	for name, room := range map[string]int64{"half a gigabyte": 512 << 20, "two gigabytes": 2 << 30, "not quite both": 41 << 30, "both, just": 44 << 30} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nats := natsWith(t, natsserver.Options{JetStream: true, JetStreamMaxStore: room})
			conn := connect(t, nats.ClientURL())
			if err := conn.WaitConnected(testContext(t)); err != nil {
				t.Fatal(err)
			}
			// Services begin at once, each by a connection of its own.
			var services errgroup.Group
			for range 8 {
				conn := connect(t, nats.ClientURL())
				services.Go(func() error {
					if err := conn.WaitConnected(testContext(t)); err != nil {
						return err
					}
					return conn.EnsureStreams(t.Context(), bus.StreamLimits{})
				})
			}
			if err := services.Wait(); err != nil {
				t.Fatal(err)
			}
			events, err := conn.StreamInfo(t.Context(), bus.StreamEvents)
			if err != nil {
				t.Fatal(err)
			}
			metrics, err := conn.StreamInfo(t.Context(), bus.StreamMetrics)
			if err != nil {
				t.Fatal(err)
			}
			if events.MaxBytes != metrics.MaxBytes || events.MaxBytes < min(20<<30, room/16) {
				t.Errorf("of %d MiB the events have %d, the metrics %d", room>>20, events.MaxBytes>>20, metrics.MaxBytes>>20)
			}
		})
	}
}

// TestStreamIsRestoredWithLess: a stream that was deleted comes back although its room is gone to somebody else.
func TestStreamIsRestoredWithLess(t *testing.T) {
	t.Parallel()
	nats := natsWith(t, natsserver.Options{JetStream: true, JetStreamMaxStore: 2 << 30})
	conn := connect(t, nats.ClientURL())
	ensureStreams(t, conn)
	before, err := conn.StreamInfo(t.Context(), bus.StreamMetrics)
	if err != nil {
		t.Fatal(err)
	}
	js := jetStream(t, nats.ClientURL())
	if err := js.DeleteStream(t.Context(), bus.StreamMetrics); err != nil {
		t.Fatal(err)
	}
	// All that is left goes to others, but a little.
	take := func(name string, bytes int64) error {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"other." + name}, MaxBytes: bytes})
		return err
	}
	if err := take("LITTLE", 4<<20); err != nil {
		t.Fatal(err)
	}
	for bytes, n := int64(1<<30), 0; bytes >= 1<<20; n++ {
		if take(fmt.Sprint("OTHER_", n), bytes) != nil {
			bytes /= 2
		}
	}
	if err := js.DeleteStream(t.Context(), "LITTLE"); err != nil {
		t.Fatal(err)
	}
	if err := conn.RestoreStreams(testContext(t), bus.StreamLimits{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	after, err := conn.StreamInfo(t.Context(), bus.StreamMetrics)
	if err != nil {
		t.Fatal(err)
	}
	if after.MaxBytes >= before.MaxBytes || after.MaxBytes < 1<<20 {
		t.Errorf("the stream had %d bytes and has %d", before.MaxBytes, after.MaxBytes)
	}
}
