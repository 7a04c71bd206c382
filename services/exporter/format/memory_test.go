package format_test

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/services/exporter/format"
)

var memoryRows = flag.Int("rows", 0, "rows of TestMemory, of every format with every compression; 0: as many as show growth, of a few")

// results are rows like those of health checks, which repeat but for times, latencies and some of the texts.
type results struct {
	columns []format.Column
	rows    [][]any
}

func newResults() results {
	r := rand.New(rand.NewPCG(1, 2))
	set := results{columns: []format.Column{
		{Name: "check_id", Type: format.String},
		{Name: "server", Type: format.String},
		{Name: "location", Type: format.String},
		{Name: "scheduled_at", Type: format.Time},
		{Name: "status", Type: format.String},
		{Name: "latency_ms", Type: format.Float},
		{Name: "http_status", Type: format.Int},
		{Name: "error", Type: format.String},
		{Name: "on_demand", Type: format.Bool},
		{Name: "details", Type: format.JSON},
		{Name: "trace", Type: format.String},
	}}
	for i := range 5000 {
		row := []any{
			fmt.Sprintf("0199d5c2-7a4e-7c3a-9b1e-%012x", i%700), fmt.Sprintf("server-%d", i%700), "local",
			noon.Add(time.Duration(i) * time.Second), []string{"healthy", "degraded", "unreachable"}[r.IntN(3)], r.Float64() * 100,
			any(int64(200)), nil, false, fmt.Sprintf(`{"database":{"status":"ok"},"n":%d}`, r.IntN(100)), fmt.Sprintf("%032x", r.Uint64()),
		}
		if i%50 == 0 {
			row[7] = "dial tcp 127.0.0.1:9: connect: connection refused"
		}
		set.rows = append(set.rows, row)
	}
	return set
}

// countingWriter keeps nothing.
type countingWriter int64

func (w *countingWriter) Write(p []byte) (int, error) {
	*w += countingWriter(len(p))
	return len(p), nil
}

// heap is what lives now, after a collection.
func heap() uint64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// However many rows there are, what an encoder holds stays below a bound. With -rows 5000000 this is the size that the
// issue names; the default is enough to see growth.
func TestMemory(t *testing.T) {
	const most = 16 << 20
	set := newResults()
	usual := map[string]int{"csv+none": 12_000, "ndjson+zstd": 12_000, "json+gzip": 12_000, "parquet+none": 40_000, "parquet+zstd": 40_000}
	for _, f := range formats {
		for _, c := range compressions {
			name := string(f) + "+" + string(c)
			rows := usual[name]
			if *memoryRows > 0 {
				rows = *memoryRows
			}
			if rows == 0 {
				continue
			}
			t.Run(name, func(t *testing.T) {
				began := time.Now()
				held, bytes := hold(t, f, c, set, rows)
				t.Logf("%d rows, %d MB, holds %.1f MB, %v", rows, bytes>>20, float64(held)/(1<<20), time.Since(began).Round(time.Millisecond))
				if held > most {
					t.Errorf("%d rows: %d MB held, %d at most", rows, held>>20, most>>20)
				}
			})
		}
	}
}

// hold writes rows and returns the most bytes that were held meanwhile, and how many were written.
func hold(t *testing.T, f format.Format, c format.Compression, set results, rows int) (held int64, bytes countingWriter) {
	t.Helper()
	before := heap()
	encoder, err := format.New(&bytes, f, c, set.columns)
	if err != nil {
		t.Fatal(err)
	}
	step := max(1, rows/10)
	for i := range rows {
		if err := encoder.Row(set.rows[i%len(set.rows)]); err != nil {
			t.Fatal(err)
		}
		if i%step == step-1 {
			held = max(held, int64(heap())-int64(before))
		}
	}
	if err := encoder.Close(); err != nil {
		t.Fatal(err)
	}
	return held, bytes
}

// What a row costs in allocations, the writer's included. One is left to pools, which the race detector makes forget.
func TestAllocations(t *testing.T) {
	set := newResults()
	for f, most := range map[format.Format]float64{format.CSV: 0, format.NDJSON: 1, format.JSONDocument: 1, format.Parquet: 1} {
		encoder, err := format.New(io.Discard, f, format.None, set.columns)
		if err != nil {
			t.Fatal(err)
		}
		const rows = 2000
		write := func() {
			for _, row := range set.rows[:rows] {
				if err := encoder.Row(row); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := testing.AllocsPerRun(5, write) / rows; got > most {
			t.Errorf("%s: %.2f allocations a row, %.1f at most", f, got, most)
		}
		if err := encoder.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Texts of a megabyte do not add up.
func TestMemoryOfLargeTexts(t *testing.T) {
	columns := []format.Column{{Name: "a", Type: format.String}}
	text := strings.Repeat("x", 1<<20)
	for _, f := range formats {
		most := int64(8 << 20)
		if f == format.Parquet {
			most = 20 << 20 // a row group
		}
		before := heap()
		var out countingWriter
		encoder, err := format.New(&out, f, format.Zstd, columns)
		if err != nil {
			t.Fatal(err)
		}
		var peak uint64
		for i := range 48 {
			if err := encoder.Row([]any{text}); err != nil {
				t.Fatal(err)
			}
			if i%4 == 3 {
				peak = max(peak, heap())
			}
		}
		if err := encoder.Close(); err != nil {
			t.Fatal(err)
		}
		held := int64(peak) - int64(before)
		t.Logf("%s holds %d MB", f, held>>20)
		if held > most {
			t.Errorf("%s holds %d MB, %d at most", f, held>>20, most>>20)
		}
	}
}

func BenchmarkRow(b *testing.B) {
	set := newResults()
	for _, f := range formats {
		for _, c := range compressions {
			b.Run(string(f)+"+"+string(c), func(b *testing.B) {
				b.ReportAllocs()
				encoder, err := format.New(io.Discard, f, c, set.columns)
				if err != nil {
					b.Fatal(err)
				}
				for i := 0; b.Loop(); i++ {
					if err := encoder.Row(set.rows[i%len(set.rows)]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
