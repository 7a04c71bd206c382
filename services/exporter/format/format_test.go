package format_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
