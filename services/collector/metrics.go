package collector

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the figures of one collector, besides those of its ticker. None has a label per server: a fleet's size
// must not be its cardinality.
type metrics struct {
	figures, bytes, empty             prometheus.Counter
	platformSamples, platformFailures prometheus.Counter

	registerer prometheus.Registerer
	collectors []prometheus.Collector
}

func newMetrics(registerer prometheus.Registerer, skipped func() int) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		registerer:       registerer,
		figures:          counter("fleet_collector_figures_total", "Figures that servers showed."),
		bytes:            counter("fleet_collector_answer_bytes_total", "Bytes of answers, as they came over the network."),
		empty:            counter("fleet_collector_empty_rules_total", "Rules that made no figure of an answer."),
		platformSamples:  counter("fleet_collector_platform_samples_total", "Figures of Picket's own streams that were published."),
		platformFailures: counter("fleet_collector_platform_failures_total", "Times that Picket's own streams could not be measured."),
	}
	m.collectors = []prometheus.Collector{
		m.figures, m.bytes, m.empty, m.platformSamples, m.platformFailures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fleet_collector_servers_skipped", Help: "Servers that are critical or unreachable, and not collected from.",
		}, func() float64 { return float64(skipped()) }),
	}
	for i, c := range m.collectors {
		if err := registerer.Register(c); err != nil {
			m.collectors = m.collectors[:i]
			m.unregister()
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// unregister takes the figures off the registry, so that a restarted service can put its own there.
func (m *metrics) unregister() {
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
}
