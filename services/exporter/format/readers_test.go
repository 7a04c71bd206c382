package format_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	stdgzip "compress/gzip"

	"github.com/picketd/picket/services/exporter/format"
)

func unpack(t testing.TB, c format.Compression, data []byte) []byte {
	t.Helper()
	var reader io.Reader = bytes.NewReader(data)
	var err error
	switch c {
	case format.Gzip:
		reader, err = stdgzip.NewReader(reader)
	case format.Zstd:
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(reader, zstd.WithDecoderConcurrency(1)); err == nil {
			defer decoder.Close()
			reader = decoder
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func readCSV(t *testing.T, data []byte, columns []format.Column) [][]any {
	t.Helper()
	records, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, column := range columns {
		if records[0][i] != column.Name {
			t.Fatalf("header %q", records[0])
		}
	}
	rows := make([][]any, len(records)-1)
	for i, record := range records[1:] {
		for j, field := range record {
			rows[i] = append(rows[i], csvValue(t, columns[j].Type, field))
		}
	}
	return rows
}

func csvValue(t *testing.T, kind format.Type, field string) any {
	t.Helper()
	if field == "" {
		return ""
	}
	var value any
	var err error
	switch kind {
	case format.Int:
		value, err = strconv.ParseInt(field, 10, 64)
	case format.Float:
		if strings.Contains(field, "N") || strings.Contains(field, "I") {
			return field
		}
		value, err = strconv.ParseFloat(field, 64)
	case format.Bool:
		value, err = strconv.ParseBool(field)
	case format.Time:
		value, err = time.Parse(time.RFC3339Nano, field)
	default:
		if strings.ContainsAny(field[:1], "=+-@\t\r\n") {
			t.Errorf("a spreadsheet would run %q", field)
		}
		return strings.TrimPrefix(field, "'")
	}
	if err != nil {
		t.Error(err)
	}
	return value
}

func readNDJSON(t *testing.T, data []byte, columns []format.Column) [][]any {
	t.Helper()
	var rows [][]any
	for line := range strings.Lines(string(data)) {
		rows = append(rows, jsonRow(t, []byte(line), columns))
	}
	return rows
}

func readJSON(t *testing.T, data []byte, columns []format.Column) [][]any {
	t.Helper()
	var document struct {
		Data  []json.RawMessage `json:"data"`
		Count int               `json:"count"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	if document.Count != len(document.Data) {
		t.Errorf("count %d of %d", document.Count, len(document.Data))
	}
	var rows [][]any
	for _, row := range document.Data {
		rows = append(rows, jsonRow(t, row, columns))
	}
	return rows
}

func jsonRow(t *testing.T, text []byte, columns []format.Column) []any {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(fields) != len(columns) {
		t.Errorf("%d fields", len(fields))
	}
	row := make([]any, len(columns))
	for i, column := range columns {
		field := fields[column.Name]
		if string(field) == "null" {
			continue
		}
		var err error
		switch column.Type {
		case format.Int:
			row[i], err = strconv.ParseInt(string(field), 10, 64)
		case format.Time:
			var v time.Time
			err = json.Unmarshal(field, &v)
			row[i] = v
		default:
			err = json.Unmarshal(field, &row[i])
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, field)
		}
	}
	return row
}

func readParquet(t *testing.T, data []byte, columns []format.Column) [][]any {
	t.Helper()
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range file.Schema().Columns() {
		if path[0] != columns[i].Name {
			t.Fatalf("columns %v", file.Schema().Columns())
		}
	}
	reader := parquet.NewReader(file)
	defer func() {
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
	}()
	rows := make([][]any, 0, reader.NumRows())
	buffer := make([]parquet.Row, 10)
	for {
		n, err := reader.ReadRows(buffer)
		for _, row := range buffer[:n] {
			values := make([]any, len(columns))
			for i, value := range row {
				values[i] = parquetValue(columns[i].Type, value)
			}
			rows = append(rows, values)
		}
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func parquetValue(kind format.Type, value parquet.Value) any {
	if value.IsNull() {
		return nil
	}
	switch kind {
	case format.Int:
		return value.Int64()
	case format.Float:
		return value.Double()
	case format.Bool:
		return value.Boolean()
	case format.Time:
		return time.UnixMicro(value.Int64()).UTC()
	case format.JSON:
		var parsed any
		if err := json.Unmarshal(value.ByteArray(), &parsed); err != nil {
			return err
		}
		return parsed
	default:
		return string(value.ByteArray())
	}
}
