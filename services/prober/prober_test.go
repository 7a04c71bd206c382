package prober

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// location is a location with a real NATS server and one running prober.
type location struct {
	conn *bus.Conn
	kit  *service.Kit
	stop func()
}

func newLocation(t *testing.T, cfg Config) *location {
	t.Helper()
	nats := embeddedtest.NATSServer(t, embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	quiet := slog.New(slog.DiscardHandler)
	conn, err := bus.Connect(bus.Options{URL: nats.ClientURL(), Name: "test", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 128 << 20}); err != nil {
		t.Fatal(err)
	}
	kit := &service.Kit{
		Name: "prober", Instance: "prober-a", Location: "local", Version: "test", Started: time.Now(),
		Log: quiet, Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	p, err := New(cfg, Deps{Kit: kit, Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(running) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return &location{conn, kit, stop}
}

func (l *location) declare(t *testing.T, scheduled *picketv1.ScheduledCheck) {
	t.Helper()
	bucket, err := l.conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := bus.CatalogKey(scheduled.GetOrg(), scheduled.GetLocation(), scheduled.GetCheck().GetId())
	if err := bucket.Put(t.Context(), key, scheduled); err != nil {
		t.Fatal(err)
	}
}

// results sends every result of the stream to a channel.
func (l *location) results(t *testing.T) <-chan *picketv1.ProbeResult {
	t.Helper()
	out := make(chan *picketv1.ProbeResult, 1024)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.conn.Follow(ctx, bus.FollowOptions{ // it ends with ctx
			Stream: bus.StreamEvents, From: 1, MaxBatch: 64, MaxWait: 10 * time.Millisecond,
			Handle: func(_ context.Context, batch []*bus.Msg) error {
				for _, m := range batch {
					result := &picketv1.ProbeResult{}
					if err := m.Decode(result); err != nil {
						return err
					}
					out <- result
				}
				return nil
			},
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

func await(t *testing.T, results <-chan *picketv1.ProbeResult, wanted func(*picketv1.ProbeResult) bool) *picketv1.ProbeResult {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case r := <-results:
			if wanted(r) {
				return r
			}
		case <-deadline:
			t.Fatal("waited too long for a result")
		}
	}
}

func scheduledHTTP(n, url string) *picketv1.ScheduledCheck {
	return &picketv1.ScheduledCheck{
		Server: "server-" + n, Org: "default", Location: "local", Lifecycle: "active",
		Check: &picketv1.Check{
			Name: "health", Kind: "http", Id: "0190f3c4-0000-7000-8000-00000000000" + n, Serial: 1, Revision: 1, TimeoutMs: 800,
			Schedules: []*picketv1.Schedule{{Revision: 1, IntervalMs: 1000, EffectiveAt: timestamppb.New(time.Now().Add(-time.Hour))}},
			Spec:      &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: url}},
		},
	}
}

// From the catalog's entry to the result in the stream, with a real target; what
// refers to a secret that is not there is due all the same, and not shown as down.
func TestProbesRealTargets(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"ok","service":"` + r.UserAgent() + `","counters":{"requests":3}}`))
	}))
	t.Cleanup(target.Close)
	l := newLocation(t, DefaultConfig())
	l.declare(t, scheduledHTTP("1", target.URL))
	secret := scheduledHTTP("2", target.URL)
	secret.GetCheck().GetHttp().Headers = []*picketv1.Header{{Name: "X-Key", Value: "secret:env:PICKET_SECRET_THAT_IS_NOT_SET"}}
	l.declare(t, secret)
	metrics := scheduledHTTP("3", target.URL)
	metrics.GetCheck().Kind = "metrics"
	l.declare(t, metrics)

	results := l.results(t)
	seen := map[string]*picketv1.ProbeResult{}
	await(t, results, func(r *picketv1.ProbeResult) bool {
		seen[r.GetServer()] = r
		return len(seen) >= 2 && r.GetServer() == "server-1"
	})
	if r := seen["server-1"]; r.GetStatus() != picketv1.Status_STATUS_HEALTHY || r.GetKind() != "http" || r.GetHttpStatus() != 200 ||
		r.GetInstance() != "prober-a" || r.GetCounters()["requests"] != 3 || r.GetLatencyUs() <= 0 {
		t.Errorf("result %v", r)
	}
	if r := seen["server-2"]; r.GetStatus() != picketv1.Status_STATUS_UNKNOWN || r.GetReason() != "invalid_check" {
		t.Errorf("result %v", r)
	}
	if r, ok := seen["server-3"]; ok {
		t.Errorf("the prober ran what is not its kind: %v", r)
	}
	l.stop()
	families, err := l.kit.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "fleet_probe") {
			t.Errorf("%s is still registered after the stop", family.GetName())
		}
	}
}
