package service_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/picketd/picket/internal/service"
)

// TestComponentsAreMetrics: what is away can be alerted on; what is only degraded is not away.
func TestComponentsAreMetrics(t *testing.T) {
	t.Parallel()
	health := service.NewHealth()
	health.Set("nats", nil)
	health.Set("database", errors.New("connection refused"))
	health.SetDegraded("objects", errors.New("slow"))
	want := `
# HELP fleet_component_up 1 while what the service needs answers it, 0 while not.
# TYPE fleet_component_up gauge
fleet_component_up{component="database"} 0
fleet_component_up{component="nats"} 1
fleet_component_up{component="objects"} 1
`
	if err := testutil.CollectAndCompare(health.Collector(), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestUpIsReadiness: a service that cannot do its work is not up, whatever its process does.
func TestUpIsReadiness(t *testing.T) {
	t.Parallel()
	health := service.NewHealth()
	for _, step := range []struct {
		err  error
		want string
	}{{nil, "1"}, {errors.New("connection refused"), "0"}} {
		health.Set("nats", step.err)
		want := `
# HELP fleet_worker_up 1 while the service is ready, 0 while not; the label tells which it is.
# TYPE fleet_worker_up gauge
fleet_worker_up{role="prober"} ` + step.want + "\n"
		if err := testutil.CollectAndCompare(health.Up("prober"), strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
}
