package service_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
)

// TestDeletedStreamsComeBack: a stream that somebody deletes while services run is made anew, also one that they only
// write to. Without the stream of dead letters one bad message would keep the writer from all that follow.
func TestDeletedStreamsComeBack(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	kit := newKit()
	conn, err := bus.Connect(bus.Options{URL: url, Name: t.Name(), Log: kit.Log})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := errors.New("done")
	err = service.WithStreams(ctx, kit, conn, service.Streams{Limits: bus.StreamLimits{MaxBytes: 64 << 20}}, func(ctx context.Context) error {
		nc, err := nats.Connect(url)
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		gone := []string{bus.StreamDead, bus.StreamAlerts, bus.StreamEvents}
		for _, name := range gone {
			if err := js.DeleteStream(ctx, name); err != nil {
				return err
			}
		}
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for _, name := range gone {
			for {
				_, err := conn.StreamInfo(ctx, name)
				if err == nil {
					break
				}
				select {
				case <-look.C:
				case <-ctx.Done():
					return err
				}
			}
		}
		return done
	})
	if !errors.Is(err, done) {
		t.Error(err)
	}
}
