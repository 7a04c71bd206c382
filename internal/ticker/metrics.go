package ticker

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// metrics are the figures of one ticker. None has a label per target: a fleet's
// size must not be its cardinality.
type metrics struct {
	results  *prometheus.CounterVec
	duration prometheus.Histogram
	lag      prometheus.Histogram
	missed   *prometheus.CounterVec
	onDemand *prometheus.CounterVec
	refused  *prometheus.CounterVec
	steps    prometheus.Counter
	events   *prometheus.CounterVec
	failures *prometheus.CounterVec
	// By subject kind, so that a message needs no look-up by name.
	eventsOf, failuresOf map[string]prometheus.Counter

	registerer prometheus.Registerer
	collectors []prometheus.Collector
}

func newMetrics(registerer prometheus.Registerer, figures func() figures, published func() bus.PublisherStats) (*metrics, error) {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	}
	m := &metrics{
		registerer: registerer,
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_probe_results_total", Help: "Ticks looked at, by kind of check and outcome.",
		}, []string{"kind", "outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_probe_duration_seconds", Help: "Time from the start of a probe to its verdict.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 13),
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_probe_schedule_lag_seconds", Help: "How long after its scheduled time a probe was started.",
			Buckets: []float64{0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1, 5, 15, 60},
		}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_probe_missed_total", Help: "Ticks that were due and not looked at, by the reason of their marker.",
		}, []string{"reason"}),
		onDemand: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_probe_on_demand_total", Help: "Looks that somebody asked for, by kind of check and outcome; in no other figure.",
		}, []string{"kind", "outcome"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_probe_on_demand_refused_total", Help: "Looks that were asked for and not taken, by reason.",
		}, []string{"reason"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_events_published_total", Help: "Messages acknowledged by the stream.",
		}, []string{"subject_kind"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_publish_failures_total", Help: "Messages given up, mostly because the queue was full.",
		}, []string{"subject_kind"}),
		steps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_clock_steps_total", Help: "Times the clock was off by so much that it was set instead of slewed.",
		}),
	}
	m.collectors = []prometheus.Collector{
		m.results, m.duration, m.lag, m.missed, m.onDemand, m.refused, m.events, m.failures, m.steps,
		gauge("fleet_probe_in_flight", "Probes in flight.", nil, func() float64 { return float64(figures().Running) }),
		gauge("fleet_probe_in_flight_limit", "Bound on probes in flight.", nil, func() float64 { return float64(figures().Limit) }),
		gauge("fleet_probe_waiting", "Checks that are due and wait for their turn.", nil, func() float64 { return float64(figures().Waiting) }),
		gauge("fleet_targets", "Checks of this location that this process knows.", prometheus.Labels{"state": "owned"},
			func() float64 { return float64(figures().Owned) }),
		gauge("fleet_targets", "Checks of this location that this process knows.", prometheus.Labels{"state": "standby"},
			func() float64 { f := figures(); return float64(f.Known - f.Owned) }),
		gauge("fleet_publish_queued_messages", "Messages not yet acknowledged by the stream.", nil, func() float64 { return float64(published().Queued) }),
	}
	m.eventsOf, m.failuresOf = byKind(m.events), byKind(m.failures)
	for i, c := range m.collectors {
		if err := registerer.Register(c); err != nil {
			m.collectors = m.collectors[:i]
			m.unregister()
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// unregister takes the figures off the registry, so that a restarted service can
// put its own there.
func (m *metrics) unregister() {
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
}

// ran counts a result.
func (m *metrics) ran(r *picketv1.ProbeResult) {
	m.results.WithLabelValues(r.GetKind(), health.Word(r.GetStatus())).Inc()
	m.duration.Observe(float64(r.GetLatencyUs()) / 1e6)
}

func byKind(counters *prometheus.CounterVec) map[string]prometheus.Counter {
	of := map[string]prometheus.Counter{}
	for _, kind := range []string{bus.FamilyProbe, bus.FamilyMetric} {
		of[kind] = counters.WithLabelValues(kind)
	}
	return of
}

// subjectKind is the family of the subjects that a message goes to.
func subjectKind(m bus.Message) string {
	if _, ok := m.Payload.(*picketv1.MetricBatch); ok {
		return bus.FamilyMetric
	}
	return bus.FamilyProbe
}

// published counts an acknowledged message.
func (m *metrics) published(message bus.Message) { m.eventsOf[subjectKind(message)].Inc() }

// failed counts a message that was given up.
func (m *metrics) failed(message bus.Message) { m.failuresOf[subjectKind(message)].Inc() }
