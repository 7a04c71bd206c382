package service_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/service"
)

// TestDegraded: what a service can do its work without is shown and takes nothing from readiness, also in the health of
// the process that includes it.
func TestDegraded(t *testing.T) {
	t.Parallel()
	part, whole := newKit(), newKit()
	whole.Health.Include("catalog", part.Health)
	part.Health.SetDegraded("source_file", errors.New("line 3"))
	for _, kit := range []*service.Kit{part, whole} {
		handler := service.Handler(kit)
		if code, body := get(t, handler, "/readyz"); code != http.StatusOK {
			t.Errorf("not ready: %d %q", code, body)
		}
		code, body := get(t, handler, "/health")
		if code != http.StatusOK || !strings.Contains(body, `"status":"degraded"`) || !strings.Contains(body, "line 3") {
			t.Errorf("health: %d %s", code, body)
		}
	}
	part.Health.Set("database", errors.New("away"))
	for _, kit := range []*service.Kit{part, whole} {
		if code, body := get(t, service.Handler(kit), "/health"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"status":"fail"`) {
			t.Errorf("health: %d %s", code, body)
		}
	}
	part.Health.Set("database", nil)
	part.Health.SetDegraded("source_file", nil)
	if _, body := get(t, service.Handler(whole), "/health"); strings.Contains(body, "degraded") {
		t.Errorf("still degraded: %s", body)
	}
}
