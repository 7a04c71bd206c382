package writer

import (
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
)

// BenchmarkStreamToRow stores what a stream holds already: received, decoded from JSON, committed, acknowledged. NATS,
// PostgreSQL and the writer share the machine.
func BenchmarkStreamToRow(b *testing.B) {
	const checks, ticks = 5000, 10
	w := newWorld(b, bus.StreamLimits{})
	if err := w.store.EnsurePartitions(b.Context(), time.Now()); err != nil {
		b.Fatal(err)
	}
	// The checks are known, as they are to a writer that has run for one interval.
	start := time.Now().Add(-time.Hour)
	w.publish(results(checks, start))
	w.start("warm", w.database.URL).stop()
	var total time.Duration
	published := uint64(checks)
	for b.Loop() {
		for range ticks {
			start = start.Add(time.Second)
			w.publish(results(checks, start))
			published += checks
		}
		began := time.Now()
		r := w.start("one", w.database.URL, func(c *Config) { *c = DefaultConfig() })
		w.until("every message to be acknowledged", func() bool { return w.allAcked() && w.consumer().AckFloor.Stream == published })
		total += time.Since(began)
		r.stop()
	}
	b.ReportMetric(float64(b.N)*checks*ticks/total.Seconds(), "rows/s")
	b.ReportMetric(0, "ns/op")
}
