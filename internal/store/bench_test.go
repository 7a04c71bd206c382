package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	benchChecks = 10_000
	benchBatch  = 5_000
)

// benchBatches yields batches as the stream brings them: 10,000 checks due every 30 s, in the order of their phases.
type benchBatches struct {
	start time.Time
	next  int
}

func (b *benchBatches) batch() []Result {
	rows := make([]Result, 0, benchBatch)
	for range benchBatch {
		round, i := b.next/benchChecks, b.next%benchChecks
		// Neighbours in time are strangers in the index.
		n := (i * 6113) % benchChecks
		at := b.start.Add(time.Duration(round)*30*time.Second + time.Duration(i)*3*time.Millisecond)
		row := outcome(n, at)
		row.StreamSeq = int64(b.next)
		rows = append(rows, row)
		b.next++
	}
	return rows
}

// BenchmarkWrite compares, in the same run and the same table, a decoded batch through ResultWriter until its commit
// with a bare COPY of the same rows, sorted and encoded beforehand, in a transaction of its own. The two alternate, so
// that what else the machine does falls on both. `ratio` is what the design bounds: at least 0.85.
func BenchmarkWrite(b *testing.B) {
	s := newStore(b)
	w := s.NewResultWriter()
	start := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	if err := s.EnsurePartitions(b.Context(), start); err != nil {
		b.Fatal(err)
	}
	// The checks are known, as they are to a writer that has run for one interval.
	warm := benchBatches{start: start.Add(-time.Hour)}
	for range benchChecks / benchBatch {
		write(b, w, warm.batch())
	}
	written, bare := benchBatches{start: start}, benchBatches{start: start.Add(12 * time.Hour)}
	var writeTime, copyTime time.Duration
	for b.Loop() {
		rows, raw := written.batch(), encodeAll(bare.batch())
		one := func() {
			began := time.Now()
			if got := write(b, w, rows); got.Rows != benchBatch {
				b.Fatalf("%+v", got)
			}
			writeTime += time.Since(began)
		}
		other := func() {
			began := time.Now()
			if err := copyRaw(b.Context(), s, copyResultsSQL, raw); err != nil {
				b.Fatal(err)
			}
			copyTime += time.Since(began)
		}
		if written.next/benchBatch%2 == 0 {
			one()
			other()
		} else {
			other()
			one()
		}
	}
	n := float64(b.N) * benchBatch
	b.ReportMetric(n/writeTime.Seconds(), "rows/s")
	b.ReportMetric(n/copyTime.Seconds(), "raw_rows/s")
	b.ReportMetric(copyTime.Seconds()/writeTime.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkWriteConflicts is the way for redelivered batches, half of whose rows are there.
func BenchmarkWriteConflicts(b *testing.B) {
	s := newStore(b)
	w := s.NewResultWriter()
	batches := benchBatches{start: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)}
	var total time.Duration
	for b.Loop() {
		rows := batches.batch()
		write(b, w, rows[:benchBatch/2])
		began := time.Now()
		if got, err := w.Write(b.Context(), rows, true); err != nil || got.Rows != benchBatch/2 {
			b.Fatalf("%+v, %v", got, err)
		}
		total += time.Since(began)
	}
	b.ReportMetric(float64(b.N)*benchBatch/total.Seconds(), "rows/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFlush moves the times of 10,000 states.
func BenchmarkFlush(b *testing.B) {
	s := newStore(b)
	w := s.NewResultWriter()
	batches := benchBatches{start: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)}
	var total time.Duration
	for b.Loop() {
		for range benchChecks / benchBatch {
			write(b, w, batches.batch())
		}
		began := time.Now()
		if err := w.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		total += time.Since(began)
	}
	b.ReportMetric(float64(b.N)*benchChecks/total.Seconds(), "states/s")
	b.ReportMetric(0, "ns/op")
}

func encodeAll(rows []Result) []byte {
	buf := []byte(copyHeader)
	for _, row := range sortBatch(rows, nil) {
		buf = appendResult(buf, row.Result)
	}
	return binary.BigEndian.AppendUint16(buf, 0xffff)
}

func copyRaw(ctx context.Context, s *Store, sql string, raw []byte) error {
	return InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(raw), sql)
		if err == nil && tag.RowsAffected() != benchBatch {
			err = fmt.Errorf("%d rows copied", tag.RowsAffected())
		}
		return err
	})
}

// metricBatch is what 10,000 servers show in a minute, from one phase to another: eight gauges and four counters each,
// and one figure that has no column.
func metricBatch(start time.Time, round, from, n int) []Metric {
	rows := make([]Metric, 0, n)
	for i := from; i < from+n; i++ {
		at := start.Add(time.Duration(round)*time.Minute + time.Duration(i)*6*time.Millisecond)
		values := map[string]float64{"load1": 0.5}
		for j, name := range MetricNames() {
			values[name] = float64(round*(j+1)) + 0.25*float64(j/len(MetricNames()))
		}
		values[costName] = float64(round) * 0.00125
		rows = append(rows, reading((i*6113)%benchChecks, at, values))
	}
	return rows
}

// BenchmarkWriteMetrics is a decoded batch of metrics through MetricWriter until its commit, roll-up log included, beside
// a bare COPY of the same rows, sorted and encoded beforehand. The two alternate, as in BenchmarkWrite.
func BenchmarkWriteMetrics(b *testing.B) {
	s := newStore(b)
	w := newMetricWriter(s)
	start := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	if err := s.EnsurePartitions(b.Context(), start); err != nil {
		b.Fatal(err)
	}
	var writeTime, copyTime time.Duration
	written := 0
	for b.Loop() {
		round, from := written/benchChecks, written%benchChecks
		rows, raw := metricBatch(start, round, from, benchBatch), encodeMetrics(b, metricBatch(start.Add(12*time.Hour), round, from, benchBatch))
		one := func() {
			began := time.Now()
			if got := writeMetrics(b, w, rows, false); got.Rows != benchBatch {
				b.Fatalf("%+v", got)
			}
			writeTime += time.Since(began)
		}
		other := func() {
			began := time.Now()
			if err := copyRaw(b.Context(), s, copyMetricsSQL, raw); err != nil {
				b.Fatal(err)
			}
			copyTime += time.Since(began)
		}
		if written/benchBatch%2 == 0 {
			one()
			other()
		} else {
			other()
			one()
		}
		written += benchBatch
	}
	b.ReportMetric(float64(written)/writeTime.Seconds(), "rows/s")
	b.ReportMetric(float64(written)/copyTime.Seconds(), "raw_rows/s")
	b.ReportMetric(copyTime.Seconds()/writeTime.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

func encodeMetrics(b *testing.B, rows []Metric) []byte {
	facts, batch := make([]metricFacts, len(rows)), make([]metricRow, len(rows))
	for i := range rows {
		if err := facts[i].read(&rows[i]); err != nil {
			b.Fatal(err)
		}
		batch[i] = newMetricRow(&facts[i], i)
	}
	buf := []byte(copyHeader)
	for _, row := range sortMetrics(batch) {
		buf = appendMetric(buf, &row)
	}
	return binary.BigEndian.AppendUint16(buf, 0xffff)
}
