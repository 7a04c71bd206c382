package exporter

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/store"
)

type metrics struct {
	exports, failures, callbacks, dead *prometheus.CounterVec
	states                             *prometheus.GaugeVec
	duration                           prometheus.Histogram
	bytes, rows, requeued, swept       prometheus.Counter
	running, stuck, orphans, lastSweep prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		exports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_exports_total", Help: "Exports completed, by format.",
		}, []string{"format"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_exports_failed_total", Help: "Exports that failed for good, by format.",
		}, []string{"format"}),
		callbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_export_callbacks_total", Help: "Attempts at callbacks, by outcome: delivered, retried, failed.",
		}, []string{"outcome"}),
		// By the name that the writer has for its own.
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_dead_letters_total", Help: "Messages that became dead letters, by consumer and reason.",
		}, []string{"consumer", "reason"}),
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_exports_unfinished", Help: "Exports that wait (pending) or are made (processing), at the last sweep.",
		}, []string{"state"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_export_duration_seconds", Help: "From the start of the attempt that completed an export to its end.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2.5, 12),
		}),
		bytes:     counter("fleet_export_bytes_total", "Size of the objects of completed exports."),
		rows:      counter("fleet_export_rows_total", "Rows of completed exports."),
		requeued:  counter("fleet_exports_requeued_total", "Exports that the sweep found without anybody making them."),
		swept:     counter("fleet_export_orphans_removed_total", "Orphaned objects and uploads that were removed."),
		running:   gauge("fleet_exports_running", "Exports that this process makes now."),
		stuck:     gauge("fleet_exports_stuck", "Exports whose maker let its lease run out, at the last sweep."),
		orphans:   gauge("fleet_export_orphan_objects", "Objects and uploads that belong to no export, as the last sweep of the store found them."),
		lastSweep: gauge("fleet_export_last_sweep_timestamp_seconds", "When this process last finished a sweep."),
	}
	return m, errors.Join(
		register(registry, &m.exports), register(registry, &m.failures), register(registry, &m.callbacks), register(registry, &m.states), register(registry, &m.dead),
		register(registry, &m.duration), register(registry, &m.bytes), register(registry, &m.rows), register(registry, &m.requeued),
		register(registry, &m.swept), register(registry, &m.running), register(registry, &m.stuck), register(registry, &m.orphans),
		register(registry, &m.lastSweep))
}

func (m *metrics) completed(format string, took time.Duration, result store.ExportResult) {
	m.exports.WithLabelValues(format).Inc()
	m.duration.Observe(took.Seconds())
	m.bytes.Add(float64(result.Bytes))
	m.rows.Add(float64(result.Rows))
}

// register keeps the collector of an earlier life of the service, so that counters survive its restart.
func register[C prometheus.Collector](registry prometheus.Registerer, collector *C) error {
	err := registry.Register(*collector)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		existing, same := there.ExistingCollector.(C)
		if !same {
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
