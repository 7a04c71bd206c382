package exporter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/picketd/picket/internal/store"
)

// A large export whose maker, the command itself, is killed twice in its middle ends in one object: as many rows as there
// are, the checksum that its row says, and nothing else in the store. As large as PICKET_EXPORT_TEST_ROWS says.
func TestLargeKilledTwice(t *testing.T) {
	rows := wantedRows(t)
	if rows == 0 {
		t.Skip("NO LARGE EXPORT: " + rowsVariable + " says how many rows; crash points are tested with few anyway")
	}
	const checks = 100
	w := newWorld(t, stores["s3"](t))
	w.fill(checks, rows/checks)
	program := w.build()
	want := int64(rows / checks * checks)
	for _, format := range []string{"parquet", "csv"} {
		began := time.Now()
		e := w.ask(store.NewExport{Type: "health_checks", Format: format})
		for kill := range 2 {
			victim := w.program(program, "PICKET_EXPORT_LEASE=3s", "PICKET_EXPORT_SWEEP_INTERVAL=1s")
			w.within(time.Hour, "the middle of the export", func() bool {
				now := w.look(e)
				if now.Status == store.ExportCompleted {
					t.Fatalf("%s: %d rows were too few to find its middle", format, rows)
				}
				return now.Attempt > e.Attempt && now.ProgressRows > want/4
			})
			peak := victim.peak(t)
			victim.kill()
			e = w.look(e)
			t.Logf("%s: kill %d in attempt %d after %d of %d rows, peak %.1f MB, uploads begun: %d", format, kill+1, e.Attempt,
				e.ProgressRows, want, float64(peak)/(1<<20), w.unfinished())
			if e.Status != store.ExportProcessing {
				t.Fatalf("%s: killed while it was %s", format, e.Status)
			}
		}
		last := w.program(program, "PICKET_EXPORT_LEASE=3s", "PICKET_EXPORT_SWEEP_INTERVAL=1s")
		w.within(time.Hour, "the end of the export", func() bool { return w.look(e).Status == store.ExportCompleted })
		e = w.look(e)
		peak := last.peak(t)
		last.kill()
		sum, found, size := w.measure(e.Key, format)
		t.Logf("%s: attempt %d, %d rows, %d bytes, SHA-256 %s, %v in all, peak %.1f MB", format, e.Attempt, found, size, sum,
			time.Since(began).Round(time.Second), float64(peak)/(1<<20))
		if e.Attempt != 3 || e.Rows != want || found != want || size != e.Bytes || sum != e.SHA256 || peak > maxMemory {
			t.Errorf("%s: %d rows of %d, object of %d bytes with %s; its row: %+v; peak %d", format, found, want, size, sum, e, peak)
		}
		w.checkNothingElse(e)
		if err := w.blob.Delete(t.Context(), e.Key); err != nil {
			t.Fatal(err)
		}
	}
}

// measure reads an object as it comes: its SHA-256, how many rows it has and how many bytes.
func (w *world) measure(key, format string) (sum string, rows, size int64) {
	w.t.Helper()
	r, err := w.blob.Open(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	hash := sha256.New()
	counted := &lineCounter{}
	var kept bytes.Buffer
	into := io.MultiWriter(hash, counted)
	if format == "parquet" { // a reader of it jumps about, and it is small
		into = io.MultiWriter(hash, &kept)
	}
	if size, err = io.Copy(into, r); err != nil {
		w.t.Fatal(err)
	}
	rows = counted.lines - 1 // the header
	if format == "parquet" {
		file, err := parquet.OpenFile(bytes.NewReader(kept.Bytes()), size)
		if err != nil {
			w.t.Fatal(err)
		}
		rows = countParquet(w.t, file)
	}
	return hex.EncodeToString(hash.Sum(nil)), rows, size
}

// countParquet reads every row of a file, whatever its footer says.
func countParquet(t testing.TB, file *parquet.File) (rows int64) {
	t.Helper()
	buffer := make([]parquet.Row, 1000)
	for _, group := range file.RowGroups() {
		reader := group.Rows()
		for {
			n, err := reader.ReadRows(buffer)
			rows += int64(n)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// lineCounter counts line feeds; no text of the history has one.
type lineCounter struct{ lines int64 }

func (c *lineCounter) Write(p []byte) (int, error) {
	c.lines += int64(bytes.Count(p, []byte("\n")))
	return len(p), nil
}
