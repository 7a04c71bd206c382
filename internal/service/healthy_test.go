package service_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
)

// TestHealthy: the flag asks the service that runs with the same settings, on loopback when it listens everywhere, and
// never starts one.
func TestHealthy(t *testing.T) {
	t.Parallel()
	kit := newKit()
	server := httptest.NewServer(service.Handler(kit))
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	ask := func(listen string) (int, string) {
		out, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		defaults := defaults()
		defaults.AdminListen = listen
		code := service.Main(service.Program[config]{
			Name: "writer", Defaults: defaults,
			Common: func(c *config) *service.Common { return &c.Common },
			Run: func(context.Context, *service.Kit, *bus.Conn, config) error {
				t.Error("started the service")
				return nil
			},
		}, []string{"-healthy"}, out)
		said, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return code, string(said)
	}
	for _, host := range []string{"127.0.0.1", "0.0.0.0", ""} {
		if code, said := ask(net.JoinHostPort(host, port)); code != service.ExitOK || said != "" {
			t.Errorf("ready on %q: exit %d, %q", host, code, said)
		}
	}
	kit.Health.Set("database", errors.New("connection refused"))
	if code, said := ask("0.0.0.0:" + port); code != service.ExitFailure || !strings.Contains(said, "database: connection refused") {
		t.Errorf("not ready: exit %d, %q", code, said)
	}
	if code, _ := ask(strings.TrimPrefix(gone.URL, "http://")); code != service.ExitFailure {
		t.Errorf("nobody there: exit %d", code)
	}
}
