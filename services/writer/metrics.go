package writer

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are by table, or by consumer: Durable and MetricsDurable.
type metrics struct {
	rows, duplicates, deadLetters            *prometheus.CounterVec
	batch, endToEnd                          *prometheus.HistogramVec
	lastCommit, backlog                      *prometheus.GaugeVec
	pending, ackPending, redelivered         *prometheus.GaugeVec
	rolled                                   prometheus.Counter
	missingPartitions, lastRollup, lastSweep prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		rows:        counter("fleet_writer_rows_total", "Rows committed, each once, by table.", "table"),
		duplicates:  counter("fleet_writer_rows_deduplicated_total", "Rows that were there already, by table.", "table"),
		deadLetters: counter("fleet_dead_letters_total", "Messages that became dead letters, by consumer and reason.", "consumer", "reason"),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fleet_writer_batch_duration_seconds", Help: "From a batch received to its commit, by consumer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"consumer"}),
		endToEnd: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fleet_end_to_end_latency_seconds", Help: "From the scheduled instant of a tick to its committed row, by consumer.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
		}, []string{"consumer"}),
		lastCommit:  gauge("fleet_writer_last_commit_timestamp_seconds", "When rows were last committed, by consumer.", "consumer"),
		backlog:     gauge("fleet_writer_backlog_ratio", "Share of the stream's room that is taken by what is not yet stored, by consumer.", "consumer"),
		pending:     gauge("fleet_consumer_pending_messages", "Messages of the stream that were not delivered yet, by consumer.", "consumer"),
		ackPending:  gauge("fleet_consumer_ack_pending_messages", "Messages delivered and not yet acknowledged, by consumer.", "consumer"),
		redelivered: gauge("fleet_consumer_redelivered_messages", "Unacknowledged messages that were delivered more than once, by consumer.", "consumer"),
		rolled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_writer_rollup_buckets_total", Help: "Buckets of roll-ups made, again ones included.",
		}),
		missingPartitions: single("fleet_writer_partitions_missing", "Months of this and the next two that have no partition."),
		lastRollup:        single("fleet_writer_last_rollup_timestamp_seconds", "When this writer last had all roll-ups made."),
		lastSweep:         single("fleet_writer_last_retention_timestamp_seconds", "When this writer last removed what is older than its retention."),
	}
	return m, errors.Join(
		register(registry, &m.rows), register(registry, &m.duplicates), register(registry, &m.deadLetters),
		register(registry, &m.batch), register(registry, &m.endToEnd),
		register(registry, &m.lastCommit), register(registry, &m.backlog),
		register(registry, &m.pending), register(registry, &m.ackPending), register(registry, &m.redelivered),
		register(registry, &m.rolled), register(registry, &m.missingPartitions), register(registry, &m.lastRollup), register(registry, &m.lastSweep))
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
