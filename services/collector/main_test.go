package collector

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/ticker"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns a connection to a NATS server of the test's own.
func connect(t *testing.T) *bus.Conn {
	t.Helper()
	nats := embeddedtest.NATSServer(t, embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	conn, err := bus.Connect(bus.Options{URL: nats.ClientURL(), Name: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 128 << 20}); err != nil {
		t.Fatal(err)
	}
	return conn
}

func newKit(instance string) *service.Kit {
	return &service.Kit{
		Name: "collector", Instance: instance, Location: "local", Version: "test", Started: time.Now(),
		Log: slog.New(slog.DiscardHandler), Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
}

// start runs a collector until the test ends or stop is called.
func start(t *testing.T, conn *bus.Conn, instance string, change func(*Config)) (s *Service, stop func()) {
	t.Helper()
	cfg := DefaultConfig()
	change(&cfg)
	s, err := New(cfg, Deps{Kit: newKit(instance), Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// alone is a collector that never runs: its checks are run by hand.
func alone(t *testing.T, change func(*Config)) *Service {
	t.Helper()
	conn, err := bus.Connect(bus.Options{URL: "nats://127.0.0.1:1", Name: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	cfg := DefaultConfig()
	change(&cfg)
	s, err := New(cfg, Deps{Kit: newKit("alone"), Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.fetcher.close)
	return s
}

func defaults(*Config) {}

// serve starts a server that answers every request so.
func serve(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server
}

// body answers with a body of a media type.
func body(media, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		_, _ = w.Write([]byte(text)) // the client is gone when it fails
	}
}

func scheduled(spec *picketv1.MetricsSpec) *picketv1.ScheduledCheck {
	return &picketv1.ScheduledCheck{
		Org: "default", Server: "app", ServerId: "7d41d839-b72c-44bf-a922-0e9fd3c0983d", Location: "local", Lifecycle: "active",
		Check: &picketv1.Check{
			Id: "3f6c1f0e-6c1a-4a3e-9d52-0f6a2f1d9b11", Name: "metrics", Kind: "metrics", Serial: 1, Revision: 1, TimeoutMs: 900,
			Spec: &picketv1.Check_Metrics{Metrics: spec},
		},
	}
}

func compile(t *testing.T, s *Service, check *picketv1.ScheduledCheck) ticker.Runner {
	t.Helper()
	runner, err := s.build(check)
	if err != nil {
		t.Fatal(err)
	}
	return runner
}

// collect runs a check once, and returns its result and the figures, nil when there are none.
func collect(t *testing.T, runner ticker.Runner) (*picketv1.ProbeResult, *picketv1.MetricBatch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	outcome := runner.Run(ctx)
	if len(outcome.Messages) == 0 {
		return outcome.Result, nil
	}
	return outcome.Result, outcome.Messages[0].Payload.(*picketv1.MetricBatch)
}
