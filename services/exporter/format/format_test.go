package format_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	stdgzip "compress/gzip"

	"github.com/picketd/picket/services/exporter/format"
)

var (
	formats      = []format.Format{format.CSV, format.NDJSON, format.JSONDocument, format.Parquet}
	compressions = []format.Compression{format.None, format.Gzip, format.Zstd}
	columns      = []format.Column{
		{Name: "zulu", Type: format.String}, // not in alphabetical order
		{Name: "count", Type: format.Int},
		{Name: "ratio", Type: format.Float},
		{Name: "ok", Type: format.Bool},
		{Name: "at", Type: format.Time},
		{Name: "tags", Type: format.JSON},
		{Name: "alpha, \"quoted\"", Type: format.String},
	}
	noon = time.Date(2026, 11, 21, 13, 0, 0, 123456789, time.FixedZone("", 3600))
)

func encode(t testing.TB, f format.Format, c format.Compression, columns []format.Column, rows [][]any) []byte {
	t.Helper()
	var out bytes.Buffer
	encoder, err := format.New(&out, f, c, columns)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if err := encoder.Row(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := encoder.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestText(t *testing.T) {
	t.Parallel()
	rows := [][]any{
		{"plain", int64(-7), 0.5, true, noon, `{"a": 1}`, "x"},
		{nil, nil, nil, nil, nil, nil, nil},
		{"", int64(math.MaxInt64), math.NaN(), false, noon.Add(-123456789), "[1,\n 2]", "say \"hi\", \r\nthere"},
		{"=1+1", int64(0), 1e300, true, noon, "no json", "-x"},
	}
	want := map[format.Format]string{
		format.CSV: "zulu,count,ratio,ok,at,tags,\"alpha, \"\"quoted\"\"\"\r\n" +
			"plain,-7,0.5,true,2026-11-21T12:00:00.123456Z,\"{\"\"a\"\": 1}\",x\r\n" +
			",,,,,,\r\n" +
			"\"\",9223372036854775807,NaN,false,2026-11-21T12:00:00.000000Z,\"[1,\n 2]\",\"say \"\"hi\"\", \r\nthere\"\r\n" +
			"'=1+1,0,1e+300,true,2026-11-21T12:00:00.123456Z,no json,'-x\r\n",
		format.NDJSON: `{"zulu":"plain","count":-7,"ratio":0.5,"ok":true,"at":"2026-11-21T12:00:00.123456Z","tags":{"a": 1},"alpha, \"quoted\"":"x"}
{"zulu":null,"count":null,"ratio":null,"ok":null,"at":null,"tags":null,"alpha, \"quoted\"":null}
{"zulu":"","count":9223372036854775807,"ratio":null,"ok":false,"at":"2026-11-21T12:00:00.000000Z","tags":[1,2],"alpha, \"quoted\"":"say \"hi\", \r\nthere"}
{"zulu":"=1+1","count":0,"ratio":1e+300,"ok":true,"at":"2026-11-21T12:00:00.123456Z","tags":"no json","alpha, \"quoted\"":"-x"}
`,
	}
	lines := strings.Split(strings.TrimSuffix(want[format.NDJSON], "\n"), "\n")
	want[format.JSONDocument] = "{\"data\":[\n" + strings.Join(lines, ",\n") + "\n],\"count\":4}\n"
	for f, text := range want {
		if diff := cmp.Diff(text, string(encode(t, f, format.None, columns, rows))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f, diff)
		}
	}
	if got := string(encode(t, format.JSONDocument, format.None, columns, nil)); got != "{\"data\":[\n],\"count\":0}\n" {
		t.Errorf("no rows: %q", got)
	}
	if got := string(encode(t, format.CSV, format.None, columns[:1], [][]any{{nil}, {""}})); got != "zulu\r\n\"\"\r\n\"\"\r\n" {
		t.Errorf("one column: %q", got)
	}
}

// hostile are texts that break formats.
var hostile = []string{
	"", " ", "a\x00b", "\xff\xfe", "ok\xc3", "\r", "\n", "\r\n", "\"", `""`, "','", ",", "'", "''", "'=x", "=1+1", "+1", "-1", "@x", "\tx", "＝x", "＠",
	"\u2028\u2029", "\ufeff", "\U0001F600", "</script>", "null", "NaN", "{", `{"a":`, `"\ud800"`, "\x1b[31m", strings.Repeat("x", 300<<10), strings.Repeat("\"\n\xff", 1000),
}

var jsons = []string{`{}`, `[]`, `null`, `"x"`, `-1.5e3`, `{"a":{"b":[1,2,{"c":"\u0000\n\""}]}}`, "{\n\t\"a\" :\r\n 1 }", `{"a":1,"a":2}`, "{\"\xff\":1}", "1 2", ""}

func randomValue(r *rand.Rand, kind format.Type) any {
	if r.IntN(5) == 0 {
		return nil
	}
	switch kind {
	case format.Int:
		return []any{r.Int64() - r.Int64(), int64(math.MinInt64), int64(math.MaxInt64), int64(r.IntN(100)), int32(r.Int32()), int16(-3), 5}[r.IntN(7)]
	case format.Float:
		return []any{r.NormFloat64(), math.Float64frombits(r.Uint64()), math.Inf(1), math.Inf(-1), math.NaN(), 0.0, math.Copysign(0, -1), float32(0.1), 1e21, 1e-7}[r.IntN(10)]
	case format.Bool:
		return r.IntN(2) == 0
	case format.Time:
		return []any{noon.Add(time.Duration(r.Int64N(1e17))), time.Unix(0, 0), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)}[r.IntN(4)]
	case format.JSON:
		text := jsons[r.IntN(len(jsons))]
		if r.IntN(4) == 0 {
			return []byte(text)
		}
		return text
	default:
		if r.IntN(3) == 0 {
			return hostile[r.IntN(len(hostile)-2)] // of the long ones there is one below
		}
		return fmt.Sprintf("value %d", r.IntN(50))
	}
}

// TestRoundTrip reads everything back with code that is not ours.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, f := range formats {
		for _, c := range compressions {
			t.Run(string(f)+"+"+string(c), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(8) {
					r := rand.New(rand.NewPCG(seed, 1))
					rows := make([][]any, []int{0, 1, 63, 64, 65, 300}[seed%6])
					for i := range rows {
						for _, column := range columns {
							rows[i] = append(rows[i], randomValue(r, column.Type))
						}
					}
					if seed == 7 {
						for _, text := range hostile {
							rows = append(rows, []any{text, nil, nil, nil, nil, text, text})
						}
					}
					checkRoundTrip(t, f, c, columns, rows)
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

func checkRoundTrip(t *testing.T, f format.Format, c format.Compression, columns []format.Column, rows [][]any) {
	t.Helper()
	data := encode(t, f, c, columns, rows)
	if f != format.Parquet {
		data = unpack(t, c, data)
	}
	read := map[format.Format]func(*testing.T, []byte, []format.Column) [][]any{
		format.CSV: readCSV, format.NDJSON: readNDJSON, format.JSONDocument: readJSON, format.Parquet: readParquet,
	}[f]
	got := read(t, data, columns)
	want := make([][]any, len(rows))
	for i, row := range rows {
		for j, value := range row {
			want[i] = append(want[i], expected(f, columns[j].Type, value))
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("%s (-want +got):\n%.4000s", f, diff)
	}
}

// expected is what a reader has to see of a value.
func expected(f format.Format, kind format.Type, value any) any {
	if value == nil {
		return map[bool]any{true: "", false: nil}[f == format.CSV]
	}
	switch v := value.(type) {
	case int32:
		value = int64(v)
	case int16:
		value = int64(v)
	case int:
		value = int64(v)
	case float32:
		value = float64(v)
		if f != format.Parquet { // shortest of its own size
			value, _ = strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
		}
	case time.Time:
		value = v.UTC().Truncate(time.Microsecond)
	case []byte:
		value = string(v)
	}
	switch v := value.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			switch f {
			case format.NDJSON, format.JSONDocument:
				return nil
			case format.CSV:
				return map[string]string{"NaN": "NaN", "+Inf": "Infinity", "-Inf": "-Infinity"}[fmt.Sprint(v)]
			}
		}
		if f == format.CSV {
			return v
		}
	case string:
		text := strings.ToValidUTF8(v, "\uFFFD")
		if f == format.CSV {
			// encoding/csv takes the carriage return off every line feed.
			return strings.ReplaceAll(text, "\r\n", "\n")
		}
		if kind != format.JSON {
			return text
		}
		var parsed any
		if json.Unmarshal([]byte(v), &parsed) == nil && text == v {
			return parsed
		}
		return text
	}
	return value
}

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

// A text from outside never breaks a file, nor what stands beside it.
func FuzzText(f *testing.F) {
	for _, text := range hostile {
		f.Add(text, []byte(text))
	}
	for _, text := range jsons {
		f.Add(text, []byte(text))
	}
	columns := []format.Column{{Name: "a", Type: format.String}, {Name: "b", Type: format.JSON}, {Name: "c", Type: format.String}}
	f.Fuzz(func(t *testing.T, text string, raw []byte) {
		rows := [][]any{{text, raw, "end"}, {"begin", text, string(raw)}}
		for _, kind := range formats {
			checkRoundTrip(t, kind, format.None, columns, rows)
		}
	})
}

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
