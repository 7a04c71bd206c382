package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

func newKit() *service.Kit {
	return &service.Kit{Name: "writer", Instance: "host-1", Log: slog.New(slog.DiscardHandler), Health: service.NewHealth(), Metrics: service.NewRegistry()}
}

func get(t *testing.T, handler http.Handler, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	body, err := io.ReadAll(recorder.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return recorder.Code, string(body)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	kit := newKit()
	handler := service.Handler(kit)
	kit.Health.Set("nats", nil)
	kit.Health.Counter("rows", func() float64 { return 42 })
	if code, body := get(t, handler, "/readyz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("ready: %d %q", code, body)
	}
	kit.Health.Set("database", errors.New("connection refused"))
	if code, body := get(t, handler, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "database: connection refused") {
		t.Errorf("not ready: %d %q", code, body)
	}
	if code, _ := get(t, handler, "/livez"); code != http.StatusOK {
		t.Errorf("alive whatever the database does: %d", code)
	}
	code, body := get(t, handler, "/health")
	var health struct {
		Status, Service string
		Components      map[string]struct{ Status, Output string }
		Counters        map[string]float64
	}
	if err := json.Unmarshal([]byte(body), &health); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusServiceUnavailable || health.Status != "fail" || health.Components["nats"].Status != "ok" ||
		health.Components["database"].Output != "connection refused" || health.Counters["rows"] != 42 {
		t.Errorf("health %d %s", code, body)
	}
	kit.Health.Set("database", nil)
	kit.Health.Stopping()
	if code, body := get(t, handler, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
		t.Errorf("stopping: %d %q", code, body)
	}
}

// TestFrozenDependency: a look that never comes back makes the service not ready within two intervals.
func TestFrozenDependency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		health := service.NewHealth()
		ctx, cancel := context.WithCancel(t.Context())
		frozen := make(chan struct{})
		looks := 0
		go health.Watch(ctx, "database", time.Second, func(context.Context) error {
			if looks++; looks > 1 {
				<-frozen // deaf to its deadline, like a driver stuck in a system call
			}
			return nil
		})
		synctest.Wait()
		if err := health.Ready(); err != nil {
			t.Errorf("well at first, got %v", err)
		}
		time.Sleep(3500 * time.Millisecond)
		if health.Ready() == nil {
			t.Error("still ready with a dependency that has not answered for 2.5 s")
		}
		close(frozen)
		synctest.Wait()
		if err := health.Ready(); err != nil {
			t.Errorf("well again, got %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestSuperviseRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kit := newKit()
		ctx, cancel := context.WithCancel(t.Context())
		var starts []time.Duration
		begin := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			service.Supervise(ctx, kit, func(ctx context.Context) error {
				starts = append(starts, time.Since(begin))
				switch len(starts) {
				case 1:
					return errors.New("broken")
				case 2:
					panic("worse")
				case 3:
					return nil
				}
				<-ctx.Done()
				return nil
			})
		}()
		time.Sleep(time.Millisecond)
		if kit.Health.Ready() == nil {
			t.Error("ready while it waits to be restarted")
		}
		time.Sleep(10 * time.Second)
		if err := kit.Health.Ready(); err != nil {
			t.Errorf("running, but %v", err)
		}
		cancel()
		<-done
		want := []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 3500 * time.Millisecond}
		if !slices.Equal(starts, want) {
			t.Errorf("started at %v, want %v", starts, want)
		}
	})
}
