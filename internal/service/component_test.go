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
