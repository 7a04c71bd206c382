package system_test

import (
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metricsOf reads what a program says to Prometheus.
func metricsOf(t *testing.T, p *process) map[string]*dto.MetricFamily {
	t.Helper()
	address, ok := p.find(httpLine)
	if !ok {
		admin, ok := p.find(adminLine)
		if !ok {
			t.Fatalf("%s has not said where it is", p.name)
		}
		address = "http://" + admin
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// goFigures reads the figures of a process that have no labels.
func goFigures(t *testing.T, p *process) map[string]float64 {
	t.Helper()
	figures := map[string]float64{}
	for name, family := range metricsOf(t, p) {
		if m := family.GetMetric(); len(m) == 1 && len(m[0].GetLabel()) == 0 {
			figures[name] = m[0].GetGauge().GetValue() + m[0].GetCounter().GetValue()
		}
	}
	return figures
}
