package fleetsim_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober/probe"
	"github.com/picketd/picket/test/fleetsim"
)

// TestHostileServers looks at one server of each hostile kind as a prober does: each is one result with a reason, in time,
// and nothing of it is left behind.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	kinds := fleetsim.Hostile()
	f, err := fleetsim.Start(t.Context(), fleetsim.Options{Servers: len(kinds)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	for i, kind := range kinds {
		f.Set(i, kind)
	}
	for i, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			pool := probe.NewPool(probe.PoolOptions{})
			prober, err := probe.New(&picketv1.Check{Name: "health", Kind: "http", Spec: &picketv1.Check_Http{
				Http: &picketv1.HTTPSpec{Url: f.URL(i), FollowRedirects: true},
			}}, probe.Options{Pool: pool})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			done := make(chan *picketv1.ProbeResult, 1)
			go func() { done <- prober.Probe(ctx) }()
			select {
			case r := <-done:
				t.Logf("%s %s %q after %d ms", r.GetStatus(), r.GetReason(), r.GetMessage(), r.GetLatencyUs()/1000)
				if r.GetStatus() != picketv1.Status_STATUS_HEALTHY && r.GetReason() == "" {
					t.Errorf("%s without a reason", r.GetStatus())
				}
			case <-time.After(10 * timeout):
				stacks := make([]byte, 1<<20)
				t.Fatalf("no result long after its time:\n%s", stacks[:runtime.Stack(stacks, true)])
			}
			pool.Close()
			deadline := time.Now().Add(30 * time.Second)
			for ticker := time.NewTicker(20 * time.Millisecond); pool.Open() > 0; <-ticker.C {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections are left open", pool.Open())
				}
			}
		})
	}
}
