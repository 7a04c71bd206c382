package alerter

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/services/alerter/fold"
)

type metrics struct {
	active      *prometheus.GaugeVec
	transitions *prometheus.CounterVec
	skipped     *prometheus.CounterVec
	events      prometheus.Counter
	timeToOpen  prometheus.Histogram
	commit      prometheus.Histogram
	lag, leader prometheus.Gauge
	notAfter    *prometheus.GaugeVec // without labels: a vector can be empty
	expiring    *prometheus.GaugeVec
	statuses    prometheus.Counter
	statusFails prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_alerts_active", Help: "Alerts that are not closed; only the alerter that folds has them.",
		}, []string{"severity", "state"}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_alert_transitions_total", Help: "Transitions committed, by the state before (none: there was no alert) and after.",
		}, []string{"from", "to"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_alerter_skipped_total", Help: "Events that were not folded, by reason.",
		}, []string{"reason"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_alerter_events_total", Help: "Events read past the cursor.",
		}),
		timeToOpen: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_alert_time_to_open_seconds", Help: "From the tick of the first bad result to the alert open.",
			Buckets: []float64{1, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600},
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_alert_commit_seconds", Help: "From the deciding event in the stream to its transition committed.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_alerter_lag_events", Help: "Events in the stream that are not folded.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_alerter_leader", Help: "1 while this alerter folds, 0 while it waits for its turn.",
		}),
	}
	m.notAfter = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fleet_certificate_not_after_timestamp_seconds",
		Help: "When the first certificate of the fleet's targets ends; only the alerter that folds has it, and only when one was seen.",
	}, nil)
	m.expiring = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fleet_certificates_expiring", Help: "Certificates of the fleet's targets that end within a time, ended ones included; only the alerter that folds has it.",
	}, []string{"within"})
	m.statuses = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fleet_alerter_statuses_written_total", Help: "Entries written to and removed from the bucket picket_status.",
	})
	m.statusFails = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fleet_alerter_status_failures_total", Help: "Failed attempts to bring the bucket picket_status in line.",
	})
	return m, errors.Join(
		register(registry, &m.active), register(registry, &m.transitions), register(registry, &m.skipped),
		register(registry, &m.events), register(registry, &m.timeToOpen), register(registry, &m.commit),
		register(registry, &m.lag), register(registry, &m.leader), register(registry, &m.statuses), register(registry, &m.statusFails),
		register(registry, &m.notAfter), register(registry, &m.expiring))
}

// register keeps the collector of an earlier life of the service, so that counters survive its restart.
func register[C prometheus.Collector](registry prometheus.Registerer, collector *C) error {
	err := registry.Register(*collector)
	if there, already := errors.AsType[prometheus.AlreadyRegisteredError](err); already {
		existing, ok := there.ExistingCollector.(C)
		if !ok {
			return fmt.Errorf("register metrics: %w", err)
		}
		*collector = existing
		return nil
	}
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// observe takes note of transitions that are committed now.
func (m *metrics) observe(transitions []fold.Transition, counts map[fold.Count]int, now time.Time) {
	for i := range transitions {
		t := &transitions[i]
		m.transitions.WithLabelValues(cmp.Or(t.From, "none"), t.Alert.State).Inc()
		m.commit.Observe(max(0, now.Sub(t.At).Seconds()))
		if t.Name == fold.Opened && t.Alert.CheckID != uuid.Nil {
			m.timeToOpen.Observe(max(0, t.Alert.OpenedAt.Sub(t.Alert.Since).Seconds()))
		}
	}
	m.count(counts)
}

func (m *metrics) count(counts map[fold.Count]int) {
	m.active.Reset()
	for key, n := range counts {
		m.active.WithLabelValues(key.Severity, key.State).Set(float64(n))
	}
}

// standby is what they show while another alerter folds.
func (m *metrics) standby() {
	m.leader.Set(0)
	m.lag.Set(0)
	m.notAfter.Reset()
	m.expiring.Reset()
	m.active.Reset()
}
