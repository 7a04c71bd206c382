package catalog

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/catalog"
)

type metrics struct {
	targets   *prometheus.GaugeVec
	checks    prometheus.Gauge
	leader    prometheus.Gauge
	refused   *prometheus.GaugeVec
	applied   *prometheus.CounterVec
	published *prometheus.CounterVec
	took      prometheus.Histogram
	spared    prometheus.Counter
	// owned is the number of checks for the heartbeat.
	owned atomic.Int64
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		targets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_catalog_servers", Help: "Servers in the catalog, by source; known to the replica that leads.",
		}, []string{"source"}),
		checks: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_catalog_checks", Help: "Checks in the catalog; known to the replica that leads.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_catalog_leader", Help: "1 while this replica holds the lease.",
		}),
		refused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_catalog_source_refused", Help: "1 while what a source declares is refused or held, and what it declared before is in force.",
		}, []string{"source"}),
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_catalog_applied_total", Help: "Servers added, changed and removed in the database, by source.",
		}, []string{"source", "change"}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_catalog_published_total", Help: "Events sent, and entries of the bucket put and deleted.",
		}, []string{"what"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_catalog_reconcile_seconds", Help: "Time of one comparison with everything that follows from it.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 8),
		}),
		spared: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_catalog_reconcile_spared_total", Help: "Comparisons that were due and not made, since nothing differed from the last one.",
		}),
	}
	for _, source := range []catalog.Source{catalog.SourceEnv, catalog.SourceFile, catalog.SourceAPI, catalog.SourceSelf} {
		m.targets.WithLabelValues(string(source))
		m.refused.WithLabelValues(string(source))
	}
	for _, collector := range []prometheus.Collector{
		m.targets, m.checks, m.leader, m.refused, m.applied, m.published, m.took, m.spared,
	} {
		if err := registry.Register(collector); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
