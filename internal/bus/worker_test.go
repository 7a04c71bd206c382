package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestRosterOutlivesALongStop: a process is remembered for as long as what it
// left behind may still be explained, so that a prober that starts the next
// morning knows since when nobody looked.
func TestRosterOutlivesALongStop(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ctx := testContext(t)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	status := &picketv1.WorkerStatus{Service: "prober", Location: "local", Instance: "host-1", Running: true}
	if _, _, err := conn.EnrollWorker(ctx, status); err != nil {
		t.Fatal(err)
	}
	roster, err := conn.Roster(ctx, "prober", "local")
	if err != nil || len(roster) != 1 || roster[0].GetInstance() != "host-1" {
		t.Fatalf("roster %v, %v", roster, err)
	}
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, bus.BucketWorkers)
	if err != nil {
		t.Fatal(err)
	}
	state, err := kv.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if ttl := state.TTL(); ttl < 23*time.Hour || ttl > bus.MostLate-time.Hour/2 {
		t.Errorf("processes are remembered for %s; results may be %s late", ttl, bus.MostLate)
	}
}
