package writer

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rows, duplicates    prometheus.Counter
	deadLetters         *prometheus.CounterVec
	batch, endToEnd     prometheus.Histogram
	lastCommit, backlog prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "picket_writer_rows_total", Help: "Results committed, each once.",
		}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "picket_writer_rows_deduplicated_total", Help: "Results that were there already.",
		}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "picket_writer_dead_letters_total", Help: "Messages that became dead letters, by reason.",
		}, []string{"reason"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "picket_writer_batch_duration_seconds", Help: "From a batch received to its commit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		endToEnd: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "picket_end_to_end_latency_seconds", Help: "From the scheduled instant of a tick to its committed row.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
		}),
		lastCommit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "picket_writer_last_commit_timestamp_seconds", Help: "When results were last committed.",
		}),
		backlog: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "picket_writer_backlog_ratio", Help: "Share of the stream's room that is taken by results not yet stored.",
		}),
	}
	return m, errors.Join(
		register(registry, &m.rows), register(registry, &m.duplicates), register(registry, &m.deadLetters),
		register(registry, &m.batch), register(registry, &m.endToEnd),
		register(registry, &m.lastCommit), register(registry, &m.backlog))
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
