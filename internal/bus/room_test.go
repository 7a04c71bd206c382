package bus_test

import (
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
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
			nats, err := natsserver.NewServer(&natsserver.Options{
				Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: room, NoSigs: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			nats.Start()
			t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
			if !nats.ReadyForConnections(10 * time.Second) {
				t.Fatal("server does not answer")
			}
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
