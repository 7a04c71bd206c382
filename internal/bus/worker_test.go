package bus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

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
	if _, err := conn.EnrollWorker(ctx, status, time.Now); err != nil {
		t.Fatal(err)
	}
	roster, err := conn.Roster(ctx, "prober", "local")
	if err != nil || len(roster) != 1 || roster[0].GetInstance() != "host-1" {
		t.Fatalf("roster %v, %v", roster, err)
	}
	js := jetStream(t, url)
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

// TestEnrollMeasures: what is measured is the clock that is given, and not the one of the host, which may be set just then.
func TestEnrollMeasures(t *testing.T) {
	t.Parallel()
	conn := connect(t, embeddedtest.NATS(t))
	ctx := testContext(t)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	status := &picketv1.WorkerStatus{Service: "prober", Location: "local", Instance: "host-1", Running: true}
	for _, behind := range []time.Duration{0, time.Hour, -time.Hour} {
		entry, err := conn.EnrollWorker(ctx, status, func() time.Time { return time.Now().Add(-behind) })
		if err != nil {
			t.Fatal(err)
		}
		if (entry.Ahead - behind).Abs() > entry.RoundTrip {
			t.Errorf("a clock that is %s behind was measured to be %s, in a round trip of %s", behind, entry.Ahead, entry.RoundTrip)
		}
	}
}

// TestEnrollmentStands: a process can tell whether it is still in the roster, whatever was done to that, and a server that
// does not answer says nothing.
func TestEnrollmentStands(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ctx := testContext(t)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	js := jetStream(t, url)
	enroll := func(instance string) *bus.Enrollment {
		t.Helper()
		entry, err := conn.EnrollWorker(ctx, &picketv1.WorkerStatus{Service: "prober", Location: "local", Instance: instance}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return entry
	}
	for name, harm := range map[string]func() error{
		"entry deleted": func() error {
			kv, err := js.KeyValue(ctx, bus.BucketWorkers)
			if err != nil {
				return err
			}
			return kv.Delete(ctx, "prober.local.host-1")
		},
		"emptied": func() error {
			stream, err := js.Stream(ctx, "KV_"+bus.BucketWorkers)
			if err != nil {
				return err
			}
			return stream.Purge(ctx)
		},
		"deleted": func() error { return js.DeleteKeyValue(ctx, bus.BucketWorkers) },
		"deleted, and another in its place": func() error {
			err := js.DeleteKeyValue(ctx, bus.BucketWorkers)
			for range 10 { // the revisions are others' then
				enroll("host-3")
			}
			return err
		},
	} {
		entry := enroll("host-1")
		enroll("host-2")
		if stands, err := entry.Stands(ctx); err != nil || !stands {
			t.Errorf("before: stands %t, %v", stands, err)
		}
		if err := harm(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if stands, err := entry.Stands(ctx); err != nil || stands {
			t.Errorf("%s: stands %t, %v", name, stands, err)
		}
	}
	unanswered, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := enroll("host-1").Stands(unanswered); err == nil {
		t.Error("no error without an answer")
	}
}

// TestForgedHeartbeats: one that names another process than its subject does, a name without end, and what is no heartbeat
// are heard by nobody.
func TestForgedHeartbeats(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 100)
	run(t, func(ctx context.Context) error {
		return conn.WatchWorkers(ctx, "prober", "local", func(status *picketv1.WorkerStatus) { heard <- status.GetInstance() })
	})
	raw, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// The subscription is there when something is heard.
	good := func(name string) {
		for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
			if err := conn.Heartbeat(&picketv1.WorkerStatus{Service: "prober", Location: "local", Instance: name}); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-heard:
				if got == name {
					return
				}
				if got != "first" {
					t.Fatalf("heard %.60q", got)
				}
			default:
			}
		}
	}
	good("first")
	for _, forged := range []string{
		`{"service":"prober","location":"local","instance":"other"}`, `{"service":"prober","location":"elsewhere","instance":"me"}`,
		`{"service":"api","location":"local","instance":"me"}`, `{"service":"prober","location":"local","instance":"me"`, "\xff", "",
	} {
		if err := raw.Publish("picket.worker.prober.local.me", []byte(forged)); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("m", 100_000)
	if err := raw.Publish(bus.WorkerSubject("prober", "local", long), []byte(`{"service":"prober","location":"local","instance":"`+long+`"}`)); err != nil {
		t.Fatal(err)
	}
	if err := raw.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	good("last")
}
