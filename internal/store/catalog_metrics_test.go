package store

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestCatalogKeepsMetrics(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	spec := &picketv1.MetricsSpec{
		Url: "https://10.0.0.5/metrics", Format: "prometheus", Mapping: "node_exporter", ServerToken: true,
		Headers: []*picketv1.Header{{Name: "X-Scope", Value: "fleet"}},
		Tls:     &picketv1.TLSOptions{ServerName: "x"},
		Rules: []*picketv1.MetricRule{{
			Name: "errors", Series: `requests{code=~"5.."}`, DivideBy: "requests", Aggregate: "max", Rate: true, Scale: 100, Offset: -1,
		}},
	}
	server := declared(catalog.SourceFile, "figured", func(s *catalog.Server) {
		s.Checks = append(s.Checks, catalog.Check{Name: catalog.MetricsCheck, Metrics: spec})
	})
	check := named(t, become(t, s, catalog.SourceFile, server), "figured").Checks[1]
	if check.Kind() != catalog.KindMetrics || check.Interval != catalog.DefaultMetricsInterval || !proto.Equal(check.Metrics, spec) {
		t.Errorf("%+v", check)
	}
}
