package exporter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/store"
)

// rowsVariable is how many rows are exported to see how much memory that takes.
const rowsVariable = "PICKET_EXPORT_TEST_ROWS"

// maxMemory is promised for one export at a time, whatever its size.
const maxMemory = 64 << 20

// What a process of its own needs at most while it makes large exports, one after the other.
func TestMemory(t *testing.T) {
	rows := wantedRows(t)
	if rows == 0 {
		rows = 100_000
	}
	const checks = 100
	w := newWorld(t, stores["s3"](t))
	w.fill(checks, rows/checks)
	program := w.program(w.build())
	for _, of := range []store.NewExport{
		{Format: "parquet"},
		{Format: "csv"},
		{Format: "parquet", Compression: "zstd"},
		{Format: "ndjson", Compression: "gzip"},
	} {
		of.Type = "health_checks"
		started := time.Now()
		e := w.ask(of)
		w.within(time.Hour, "the export", func() bool { return w.look(e).Status == store.ExportCompleted })
		e = w.look(e)
		took := time.Since(started)
		if e.Rows != int64(rows/checks*checks) {
			t.Errorf("%d rows, want %d", e.Rows, rows)
		}
		peak := program.peak(t)
		t.Logf("%s %s: %d rows, %d bytes in %v (%.0f rows/s), peak of the process %.1f MB", of.Format, of.Compression, e.Rows, e.Bytes,
			took.Round(time.Millisecond), float64(e.Rows)/took.Seconds(), float64(peak)/(1<<20))
		if peak > maxMemory {
			t.Errorf("%s %s: the process took %d bytes, want %d at most", of.Format, of.Compression, peak, maxMemory)
		}
	}
}

// wantedRows is how many rows somebody asked for, zero when nobody did.
func wantedRows(t *testing.T) int {
	t.Helper()
	text := os.Getenv(rowsVariable)
	if text == "" {
		return 0
	}
	rows, err := strconv.Atoi(text)
	if err != nil || rows <= 0 {
		t.Fatalf("%s=%s is no number of rows", rowsVariable, text)
	}
	return rows
}

// build builds the command itself.
func (w *world) build() (path string) {
	w.t.Helper()
	path = filepath.Join(w.t.TempDir(), "exporter")
	build := exec.CommandContext(w.t.Context(), "go", "build", "-o", path, "./cmd/exporter")
	if output, err := build.CombinedOutput(); err != nil {
		w.t.Fatalf("build: %v\n%s", err, output)
	}
	return path
}

// program runs the command.
func (w *world) program(path string, settings ...string) *child {
	w.t.Helper()
	return w.run(exec.Command(path), append(settings,
		"NATS_URL="+w.nats.ClientURL(), "DATABASE_URL="+w.database.URL, "PICKET_ADMIN_LISTEN=127.0.0.1:0",
		"S3_ENDPOINT="+w.objects.Endpoint, "S3_BUCKET="+w.objects.Bucket, "S3_REGION="+w.objects.Region,
		"S3_ACCESS_KEY="+w.objects.AccessKey, "S3_SECRET_KEY="+w.objects.SecretKey, "PICKET_EXPORT_DIR="+w.objects.Dir)...)
}

// peak is the most memory that the process had at any time.
func (c *child) peak(t testing.TB) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("the kernel says nothing of VmHWM")
	return 0
}
