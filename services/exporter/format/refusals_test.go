package format_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/picketd/picket/services/exporter/format"
)

func TestUnsupported(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func() error{
		"format":      func() error { return newError("xlsx", format.None, columns) },
		"compression": func() error { return newError(format.CSV, "lz4", columns) },
		"codec":       func() error { return newError(format.Parquet, "lz4", columns) },
		"no columns":  func() error { return newError(format.CSV, format.None, nil) },
		"twice":       func() error { return newError(format.CSV, format.None, []format.Column{{Name: "a"}, {Name: "a"}}) },
		"no name":     func() error { return newError(format.Parquet, format.None, []format.Column{{}}) },
		"type":        func() error { return newError(format.Parquet, format.None, []format.Column{{Name: "a", Type: 99}}) },
	} {
		if err := begin(); !errors.Is(err, format.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, f := range formats {
		for i := range columns {
			row := []any{"s", int64(1), 1.5, true, noon, "{}", "t"}
			row[i] = struct{}{}
			encoder, err := format.New(io.Discard, f, "", columns)
			if err != nil {
				t.Fatal(err)
			}
			if err := encoder.Row(row); !errors.Is(err, format.ErrUnsupported) || !strings.Contains(err.Error(), strconv.Quote(columns[i].Name)) {
				t.Errorf("%s: %v", f, err)
			}
			if err := encoder.Row(row[1:]); !errors.Is(err, format.ErrUnsupported) {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
}

func newError(f format.Format, c format.Compression, columns []format.Column) error {
	_, err := format.New(io.Discard, f, c, columns)
	return err
}

// fullWriter has room for so many bytes.
type fullWriter int

var errFull = errors.New("full")

func (w *fullWriter) Write(p []byte) (int, error) {
	if *w -= fullWriter(len(p)); *w < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// An error of the writer comes out, wherever it happens.
func TestWriterFails(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	rows := make([][]any, 500)
	for i := range rows {
		rows[i] = []any{strconv.FormatUint(r.Uint64(), 36), r.Int64(), r.Float64(), true, noon, "{}", "x"}
	}
	for _, f := range formats {
		for _, c := range compressions {
			size := len(encode(t, f, c, columns, rows))
			for room := 0; room < size; room += max(1, size/6) {
				if err := fill(fullWriter(room), f, c, rows); !errors.Is(err, errFull) {
					t.Fatalf("%s+%s with room for %d of %d bytes: %v", f, c, room, size, err)
				}
			}
			if err := fill(fullWriter(size), f, c, rows); err != nil {
				t.Fatalf("%s+%s: %v", f, c, err)
			}
		}
	}
}

func fill(w fullWriter, f format.Format, c format.Compression, rows [][]any) error {
	encoder, err := format.New(&w, f, c, columns)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := encoder.Row(row); err != nil {
			return err
		}
	}
	return encoder.Close()
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format             format.Format
		compression        format.Compression
		extension, content string
	}{
		{format.CSV, "", ".csv", "text/csv; charset=utf-8; header=present"},
		{format.CSV, format.Gzip, ".csv.gz", "application/gzip"},
		{format.NDJSON, format.None, ".ndjson", "application/x-ndjson"},
		{format.NDJSON, format.Zstd, ".ndjson.zst", "application/zstd"},
		{format.JSONDocument, format.None, ".json", "application/json"},
		{format.Parquet, format.Gzip, ".parquet", "application/vnd.apache.parquet"},
	} {
		if got := format.Extension(c.format, c.compression); got != c.extension {
			t.Errorf("extension %s, want %s", got, c.extension)
		}
		if got := format.ContentType(c.format, c.compression); got != c.content {
			t.Errorf("content type %s, want %s", got, c.content)
		}
	}
}
