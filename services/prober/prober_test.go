package prober

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// location is a location with a real NATS server and one running prober.
type location struct {
	conn *bus.Conn
	kit  *service.Kit
	stop func()
}

func newLocation(t *testing.T, deps Deps) *location {
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
	deps.Kit, deps.Conn = kit, conn
	p, err := New(DefaultConfig(), deps)
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
	l := newLocation(t, Deps{})
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

// A token that is sealed for the server is presented; one that does not open is
// our failure, and never the server's.
func TestPresentsTheServersToken(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-token" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(target.Close)
	keyring, err := catalog.NewKeyring(bytes.Repeat([]byte{7}, catalog.SealKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	seal := func(server, token string) string {
		return keyring.Seal(catalog.SealedField{Org: "default", Server: server, Field: "api_token"}, token)
	}
	l := newLocation(t, Deps{Keyring: keyring})
	for n, credential := range map[string]*picketv1.Credential{
		"1": {Sealed: seal("server-1", "the-token")},
		"2": {Sealed: seal("server-1", "the-token")}, // sealed for another
		"3": nil,
		"4": {
			Sealed: seal("server-4", "not-yet-known"), Previous: seal("server-4", "the-token"),
			PreviousUntil: timestamppb.New(time.Now().Add(time.Hour)),
		},
	} {
		check := scheduledHTTP(n, target.URL)
		check.GetCheck().GetHttp().ServerToken = true
		check.Credential = credential
		l.declare(t, check)
	}
	results := l.results(t)
	seen := map[string]*picketv1.ProbeResult{}
	await(t, results, func(r *picketv1.ProbeResult) bool {
		seen[r.GetServer()] = r
		return len(seen) == 4
	})
	for server, want := range map[string]string{"server-1": "healthy ", "server-2": "unknown credential", "server-3": "degraded http_401", "server-4": "healthy "} {
		if got := health.Word(seen[server].GetStatus()) + " " + seen[server].GetReason(); got != want {
			t.Errorf("%s: %s (%s), want %s", server, got, seen[server].GetMessage(), want)
		}
	}

	// The token changes and nothing else does: the next look presents the new one.
	changed := scheduledHTTP("2", target.URL)
	changed.GetCheck().GetHttp().ServerToken = true
	changed.Credential = &picketv1.Credential{Sealed: seal("server-2", "the-token")}
	l.declare(t, changed)
	await(t, results, func(r *picketv1.ProbeResult) bool {
		return r.GetServer() == "server-2" && r.GetStatus() == picketv1.Status_STATUS_HEALTHY
	})
}
