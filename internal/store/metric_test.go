package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func newMetricWriter(s *Store) *MetricWriter { return s.NewMetricWriter(s.NewResultWriter()) }

func writeMetrics(t testing.TB, w *MetricWriter, rows []Metric, redelivered bool) Written {
	t.Helper()
	written, err := w.Write(t.Context(), rows, redelivered)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

func meterID(n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte{'m', byte(n >> 8), byte(n)})
}

// reading is what server n shows at an instant.
func reading(n int, at time.Time, values map[string]float64) Metric {
	return Metric{
		CheckID: meterID(n), ServerID: meterID(1000 + n), Location: "local", ScheduledAt: at.Truncate(time.Millisecond),
		Org: "default", Values: values, StreamEpoch: 7, StreamSeq: at.UnixMilli(),
	}
}

// decimals are costs as servers say them, and the decimal that must be stored: digit by digit what was said.
func decimals() map[float64]string {
	return map[float64]string{
		0: "0", 1: "1", 0.1: "0.1", 12.34: "12.34", 0.00012: "0.00012", 10000: "10000", 9999.9999: "9999.9999", 123456789.125: "123456789.125",
		100000000: "100000000", 1e12: "1000000000000", 0.000000000001: "0.000000000001", 1e-40: "0.000000000000000000000000000000", 0.00001234567890123456: "0.00001234567890123456", 40000.0004: "40000.0004",
		0.30000000000000004: "0.30000000000000004",
	}
}

// TestMetricsKeepEveryFigure: both ways into the table store the same, what fits no column is kept besides.
func TestMetricsKeepEveryFigure(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := newMetricWriter(s)
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	full := map[string]float64{"custom": 2.5, "load1": -3}
	for i, name := range MetricNames() {
		full[name] = float64(i+1) * 3
	}
	full["cpu_percent"] = 12.75
	copied := []Metric{
		reading(1, at, full),
		reading(1, at.Add(time.Second), nil),
		// Nothing that a server says is lost, and nothing false is made of it.
		reading(1, at.Add(2*time.Second), map[string]float64{
			"network_rx_bytes": -1, "network_tx_bytes": 1e300, "active_services": 2.5, "active_users": -4, "llm_cost_usd": -0.5, "llm_requests": 1 << 53,
		}),
		reading(1, at.Add(3*time.Second), map[string]float64{"llm_cost_usd": 1e13, "cpu_percent": -1e-3}),
	}
	copied[1].OnDemand, copied[1].Location, copied[1].Extra = true, "eu", []byte(`{"version":"1.2","nested":{"a":[1,"x"]}}`)
	copied[0].Extra = []byte(`{"custom":"text","os":"linux"}`)
	i := 0
	for cost := range decimals() {
		copied = append(copied, reading(1, at.Add(time.Duration(10+i)*time.Second), map[string]float64{"llm_cost_usd": cost}))
		i++
	}
	inserted := slices.Clone(copied)
	for i := range inserted {
		inserted[i].CheckID = meterID(2)
	}
	if got := writeMetrics(t, w, copied, false); got.Rows != len(copied) {
		t.Fatalf("%+v", got)
	}
	if got := writeMetrics(t, w, inserted, true); got.Rows != len(inserted) {
		t.Fatalf("%+v", got)
	}
	const content = `SELECT json_agg(to_jsonb(m) - 'check_id' ORDER BY scheduled_at)::text FROM server_metrics_aggregated m WHERE check_id = $1`
	one, two := query[string](t, s, content, meterID(1)), query[string](t, s, content, meterID(2))
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("COPY and INSERT differ:\n%s", diff)
	}
	var stored []map[string]any
	if err := json.Unmarshal([]byte(one), &stored); err != nil {
		t.Fatal(err)
	}
	for _, name := range MetricNames() {
		if stored[0][name] != full[name] {
			t.Errorf("%s is %v, want %v", name, stored[0][name], full[name])
		}
	}
	if diff := cmp.Diff(map[string]any{"custom": 2.5, "load1": -3.0, "os": "linux"}, stored[0]["extra"]); diff != "" {
		t.Error(diff)
	}
	if stored[1]["on_demand"] != true || stored[1]["location"] != "eu" || stored[1]["cpu_percent"] != nil || stored[1]["period"] != "1m" {
		t.Errorf("row %v", stored[1])
	}
	odd := map[string]any{"network_rx_bytes": -1.0, "network_tx_bytes": 1e300, "active_services": 2.5, "llm_cost_usd": -0.5}
	if diff := cmp.Diff(odd, stored[2]["extra"]); diff != "" {
		t.Error(diff)
	}
	if stored[2]["active_users"] != -4.0 || stored[2]["llm_requests"] != float64(1<<53) || stored[3]["cpu_percent"] != -1e-3 {
		t.Errorf("row %v", stored[2])
	}
	for _, check := range []uuid.UUID{meterID(1), meterID(2)} {
		for cost, want := range decimals() {
			got := query[int](t, s, `SELECT count(*) FROM server_metrics_aggregated WHERE check_id = $1 AND llm_cost_usd::text = $2`, check, want)
			if got != 1 {
				t.Errorf("cost %v: %d rows with %s", cost, got, want)
			}
		}
	}
}

func FuzzDecimal(f *testing.F) {
	for cost := range decimals() {
		f.Add(cost)
	}
	f.Fuzz(func(t *testing.T, cost float64) {
		if !(cost >= 0 && cost <= mostCost) {
			return
		}
		text := decimal(cost)
		var back float64
		if _, err := fmt.Sscan(text, &back); err != nil || math.Abs(back-cost) > 1e-12 {
			t.Fatalf("%v became %s", cost, text)
		}
		if len(text) > 40 || strings.ContainsAny(text, "e-+") {
			t.Fatalf("%v became %s", cost, text)
		}
		appendDecimal(nil, text)
	})
}

// TestMetricsOnce: the first of an identity stays, whichever way it comes again, and its samples with it.
func TestMetricsOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := newMetricWriter(s)
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	batch := func(cpu float64) []Metric {
		rows := make([]Metric, 0, 51)
		for i := range 50 {
			rows = append(rows, reading(i, at, map[string]float64{"cpu_percent": cpu}))
		}
		platform := Metric{Org: "default", Location: "local", ScheduledAt: at}
		for i := range 5 {
			platform.Samples = append(platform.Samples, Sample{
				Org: "default", Name: "connections", Service: "postgres", Time: at, Value: cpu, Tags: Tags(map[string]string{"n": fmt.Sprint(i)}),
			})
		}
		// One twice, one that is no number.
		platform.Samples = append(platform.Samples, platform.Samples[0], Sample{Org: "default", Name: "nan", Time: at, Value: math.NaN()})
		return append(rows, platform, rows[3])
	}
	if got := writeMetrics(t, w, batch(1), false); got.Rows != 51 || got.Duplicates != 1 || got.Samples != 5 {
		t.Errorf("first: %+v", got)
	}
	for _, redelivered := range []bool{false, true} {
		if got := writeMetrics(t, w, batch(2), redelivered); got.Rows != 1 || got.Duplicates != 51 || got.Samples != 0 {
			t.Errorf("again: %+v", got)
		}
	}
	if n := query[int](t, s, `SELECT count(*) FROM server_metrics_aggregated WHERE cpu_percent = 1`); n != 50 {
		t.Errorf("%d rows of the first time, want 50", n)
	}
	if n := query[int](t, s, `SELECT count(*) FROM system_metrics WHERE value = 1`); n != 5 {
		t.Errorf("%d samples of the first time, want 5", n)
	}
	// Another organization's figure of the same name is another figure.
	other := batch(3)[50:51]
	for i := range other[0].Samples {
		other[0].Samples[i].Org = "other"
	}
	if got := writeMetrics(t, w, other, false); got.Samples != 5 {
		t.Errorf("of another organization: %+v", got)
	}
}

// TestMetricsRefused: a row that the database does not take is alone in that, and a check of another organization is
// nobody's to fill.
func TestMetricsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	results := s.NewResultWriter()
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	known := ticks(1, at)
	write(t, results, known)
	w := s.NewMetricWriter(results)
	var rows []Metric
	for i := range 20 {
		rows = append(rows, reading(i, at, map[string]float64{"cpu_percent": 1}))
	}
	rows[4].Extra = []byte(`{"text":"\u0000"}`)
	rows[9].Extra = []byte(`not JSON`)
	rows[13].Location = "zero \x00 byte"
	rows[17].CheckID, rows[17].Location, rows[17].Org = known[0].CheckID, known[0].Location, "other"
	rows = append(rows, Metric{Org: "default", ScheduledAt: at, Samples: []Sample{
		{Org: "default", Name: "a \x00 b", Time: at, Value: 1},
	}})
	got := writeMetrics(t, w, rows, false)
	refused := map[int]error{}
	for _, r := range got.Refused {
		refused[r.Row] = r.Err
	}
	if got.Rows != 16 || len(refused) != 5 || refused[4] == nil || refused[9] == nil || refused[13] == nil || refused[20] == nil {
		t.Errorf("%+v", got)
	}
	if !errors.Is(refused[17], ErrForeign) {
		t.Errorf("another organization's check: %v", refused[17])
	}
}

// TestCountersOfResults: the counters of a body are samples in the transaction of its row.
func TestCountersOfResults(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	w := s.NewResultWriter()
	at := time.Date(2026, 2, 28, 23, 59, 0, 0, time.UTC)
	rows := ticks(30, at)
	for i := range rows {
		tags := Tags(map[string]string{"check": rows[i].Check, "location": rows[i].Location, "n": fmt.Sprint(i)})
		for _, name := range []string{"messages_received", "queue_depth"} {
			rows[i].Samples = append(rows[i].Samples, Sample{Org: rows[i].Org, Name: name, Service: rows[i].Server, Tags: tags, Time: rows[i].ScheduledAt, Value: float64(i)})
		}
	}
	rows[7].Message = "zero \x00 byte"
	got := write(t, w, rows)
	if got.Rows != 29 || got.Samples != 58 || len(got.Refused) != 1 {
		t.Errorf("%+v", got)
	}
	for _, redelivered := range []bool{false, true} {
		again, err := w.Write(t.Context(), rows[:7], redelivered)
		if err != nil || again.Rows != 0 || again.Samples != 0 {
			t.Errorf("again: %+v, %v", again, err)
		}
	}
	if n := query[int](t, s, `SELECT count(*) FROM system_metrics_2026_02`); n != 58 {
		t.Errorf("%d samples, want 58", n)
	}
	// A result that is refused leaves none, and one whose samples are refused is refused whole.
	bad := ticks(2, at.Add(time.Second))
	bad[1].Samples = []Sample{{Org: "default", Name: "x\x00", Service: "s", Time: at, Value: 1}}
	if got := write(t, w, bad); got.Rows != 1 || len(got.Refused) != 1 || got.Refused[0].Row != 1 {
		t.Errorf("%+v", got)
	}
}

// TestExtra: figures without a column are kept beside what is no figure, under any name, and as exactly as they came.
func TestExtra(t *testing.T) {
	t.Parallel()
	odd := "a \"name\" with\\ \u2028 <all> of it\n"
	for name, c := range map[string]struct {
		values map[string]float64
		extra  string
		want   map[string]any
	}{
		"nothing":       {map[string]float64{"cpu_percent": 1}, "", nil},
		"figures":       {map[string]float64{"load1": 0.1, odd: 1e-300, "big": 1e21, "cpu_percent": 1, "total_users": 0.5}, "", map[string]any{"load1": 0.1, odd: 1e-300, "big": 1e21, "total_users": 0.5}},
		"text":          {nil, `{"host":"a"}`, map[string]any{"host": "a"}},
		"both":          {map[string]float64{"load1": 2}, `{"host":"a"}`, map[string]any{"host": "a", "load1": 2.0}},
		"the same name": {map[string]float64{"load1": 2}, `{"load1":"high"}`, map[string]any{"load1": 2.0}},
		"empty":         {nil, `{}`, nil},
	} {
		var facts metricFacts
		if err := facts.read(&Metric{CheckID: checkID(1), Values: c.values, Extra: []byte(c.extra)}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got map[string]any
		if facts.extra != nil {
			if err := json.Unmarshal(facts.extra, &got); err != nil {
				t.Errorf("%s: %s: %v", name, facts.extra, err)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, value := range []float64{math.NaN(), math.Inf(1)} {
		if err := new(metricFacts).read(&Metric{CheckID: checkID(1), Values: map[string]float64{"load1": value}}); !errors.Is(err, errNoNumber) {
			t.Errorf("%v is taken: %v", value, err)
		}
	}
}
