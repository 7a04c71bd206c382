package bus_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// TestLeaveProvisioning: whoever leaves streams and buckets to another makes none, says so, and is content once they are there.
func TestLeaveProvisioning(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	open := func(leave bool) *bus.Conn {
		conn, err := bus.Connect(bus.Options{URL: url, Name: t.Name(), Log: slog.New(slog.DiscardHandler), LeaveProvisioning: leave})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		if err := conn.WaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	leaves, makes := open(true), open(false)
	limits := bus.StreamLimits{MaxBytes: 64 << 20}
	for what, err := range map[string]error{
		"ensure":  leaves.EnsureStreams(t.Context(), limits),
		"restore": leaves.RestoreStreams(t.Context(), limits),
	} {
		if !errors.Is(err, bus.ErrNotProvisioned) {
			t.Errorf("%s: %v, want ErrNotProvisioned", what, err)
		}
	}
	if _, err := leaves.CatalogBucket(t.Context()); !errors.Is(err, bus.ErrNotProvisioned) {
		t.Errorf("bucket: %v, want ErrNotProvisioned", err)
	}
	if _, err := makes.StreamInfo(t.Context(), bus.StreamEvents); err == nil {
		t.Error("made a stream all the same")
	}
	if err := makes.EnsureStreams(t.Context(), limits); err != nil {
		t.Fatal(err)
	}
	if err := leaves.EnsureStreams(t.Context(), limits); err != nil {
		t.Errorf("everything is there: %v", err)
	}
	if _, err := leaves.CatalogBucket(t.Context()); err != nil {
		t.Errorf("the bucket is there: %v", err)
	}
}
