package scrape_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/picketd/picket/internal/metric"
	"github.com/picketd/picket/services/collector/scrape"
)

func everything([]byte) bool { return true }

func only(names ...string) func([]byte) bool {
	return func(name []byte) bool { return slices.Contains(names, string(name)) }
}

// shown are series as one line each, sorted; counters end with a +.
func shown(series []metric.Series) []string {
	lines := make([]string, 0, len(series))
	for _, s := range series {
		line := s.Name
		for _, l := range s.Labels {
			line += fmt.Sprintf(" %s=%q", l.Name, l.Value)
		}
		line += fmt.Sprintf(" %v", s.Value)
		if s.Counter {
			line += " +"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func TestText(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body string
		open bool
		want []string
	}{
		"0.0.4": {
			body: `# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\" # {x} 1"} 1.458255915e9
metric_without_timestamp_and_labels 12.47
something_weird{problem="division by zero"} +Inf -3982045
# TYPE temperature gauge
temperature{} -7e-1
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.05"} 24054
http_request_duration_seconds_bucket{le="+Inf"} 144320
http_request_duration_seconds_sum 53423
http_request_duration_seconds_count 144320
# TYPE rpc_duration_seconds summary
rpc_duration_seconds{quantile="0.5"} 4773
rpc_duration_seconds_sum 1.7560473e+07
rpc_duration_seconds_count 2693
# TYPE not_a_total gauge
not_a_total 5
`,
			want: []string{
				`http_request_duration_seconds_bucket le="+Inf" 144320 +`, `http_request_duration_seconds_bucket le="0.05" 24054 +`,
				`http_request_duration_seconds_count 144320 +`, `http_request_duration_seconds_sum 53423 +`,
				`http_requests_total code="200" method="post" 1027 +`, `http_requests_total code="400" method="post" 3 +`,
				`metric_without_timestamp_and_labels 12.47`,
				`msdos_file_access_time_seconds error="Cannot find file:\n\"FILE.TXT\" # {x} 1" path="C:\\DIR\\FILE.TXT" 1.458255915e+09`,
				`not_a_total 5`, `rpc_duration_seconds quantile="0.5" 4773`, `rpc_duration_seconds_count 2693 +`,
				`rpc_duration_seconds_sum 1.7560473e+07 +`, `something_weird problem="division by zero" +Inf`, `temperature -0.7`,
			},
		},
		// After the examples of the OpenMetrics 1.0 specification.
		"openmetrics": {
			open: true,
			body: `# TYPE acme_http_router_request_seconds summary
# UNIT acme_http_router_request_seconds seconds
# HELP acme_http_router_request_seconds Latency though all of ACME's HTTP request "router".
acme_http_router_request_seconds_sum{path="/api/v1",method="GET"} 9036.32 1605301325.123
acme_http_router_request_seconds_count{path="/api/v1",method="GET"} 807283.0
acme_http_router_request_seconds_created{path="/api/v1",method="GET"} 1605281325.0
# TYPE go_goroutines gauge
go_goroutines 69 1605301325
# TYPE process_cpu_seconds counter
process_cpu_seconds_total 4.20072246e+06
process_cpu_seconds_created 1605281325
# TYPE foo histogram
foo_bucket{le="0.01"} 0
foo_bucket{le="0.1"} 8 # {} 0.054
foo_bucket{le="+Inf"} 17 # {trace_id="oHg5SJY}RH"} 9.8 1520879607.789
foo_count 17
foo_sum 324789.3
# TYPE waiting gaugehistogram
waiting_bucket{le="+Inf"} 3
waiting_gcount 3
# TYPE version info
version_info{entity="controller",name="pretty name",version="8.2.7"} 1
# TYPE state stateset
state{state="a"} 1
# TYPE odd unknown
odd_total 3
# EOF
`,
			want: []string{
				`acme_http_router_request_seconds_count method="GET" path="/api/v1" 807283 +`,
				`acme_http_router_request_seconds_created method="GET" path="/api/v1" 1.605281325e+09`,
				`acme_http_router_request_seconds_sum method="GET" path="/api/v1" 9036.32 +`,
				`foo_bucket le="+Inf" 17 +`, `foo_bucket le="0.01" 0 +`, `foo_bucket le="0.1" 8 +`, `foo_count 17 +`,
				`foo_sum 324789.3 +`, `go_goroutines 69`, `odd_total 3 +`, `process_cpu_seconds_created 1.605281325e+09`,
				`process_cpu_seconds_total 4.20072246e+06 +`, `state state="a" 1`,
				`version_info entity="controller" name="pretty name" version="8.2.7" 1`,
				`waiting_bucket le="+Inf" 3`, `waiting_gcount 3`,
			},
		},
		"quoted names": {
			body: "# TYPE \"up\" gauge\n{\"up\", job=\"a\"} 1\n{ \"my.metric\",a=\"b\"} 2\n",
			want: []string{`my.metric a="b" 2`, `up job="a" 1`},
		},
		"no last line end, carriage returns": {body: "a 1\r\nb 2\r\nc{x=\"\"} 3", want: []string{`a 1`, `b 2`, `c 3`}},
		"nothing":                            {body: "", want: []string{}},
		"nothing, openmetrics":               {body: "# EOF", open: true, want: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := scrape.Text([]byte(test.body), scrape.TextOptions{OpenMetrics: test.open, Needs: everything, MaxSeries: 100})
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.want, shown(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What Prometheus' own client writes in both dialects is read as the same series.
func TestTextReadsBothDialectsOfTheClient(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "With \"quotes\"\nand lines."}, []string{"path"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "seconds", Help: "Latency.", Buckets: []float64{0.1, 1}})
	depth := prometheus.NewGauge(prometheus.GaugeOpts{Name: "queue_depth", Help: "Messages."})
	quantiles := prometheus.NewSummary(prometheus.SummaryOpts{Name: "size", Objectives: map[float64]float64{0.5: 0.1}})
	registry.MustRegister(requests, seconds, depth, quantiles)
	requests.WithLabelValues(`/a"b\c}`).Add(7)
	requests.WithLabelValues("/d").(prometheus.ExemplarAdder).AddWithExemplar(3, prometheus.Labels{"trace_id": `a}"b`})
	seconds.(prometheus.ExemplarObserver).ObserveWithExemplar(0.5, prometheus.Labels{"trace_id": "x"})
	depth.Set(-4.5)
	quantiles.Observe(3)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	read := func(format expfmt.Format, open bool) ([]metric.Series, string) {
		var body bytes.Buffer
		encoder := expfmt.NewEncoder(&body, format, expfmt.WithCreatedLines())
		for _, family := range families {
			if err := encoder.Encode(family); err != nil {
				t.Fatal(err)
			}
		}
		if closer, ok := encoder.(expfmt.Closer); ok {
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
		}
		series, err := scrape.Text(body.Bytes(), scrape.TextOptions{OpenMetrics: open, MaxSeries: 100, Needs: func(name []byte) bool {
			return !bytes.HasSuffix(name, []byte("_created"))
		}})
		if err != nil {
			t.Fatalf("%v\n%s", err, body.String())
		}
		return series, body.String()
	}
	plain, _ := read(expfmt.NewFormat(expfmt.TypeTextPlain), false)
	open, body := read(expfmt.NewFormat(expfmt.TypeOpenMetrics), true)
	if !strings.Contains(body, "# EOF") || !strings.Contains(body, "trace_id") || !strings.Contains(body, "_created") {
		t.Fatalf("this is no OpenMetrics with exemplars:\n%s", body)
	}
	order := cmpopts.SortSlices(func(a, b metric.Series) bool { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) < 0 })
	if diff := gocmp.Diff(plain, open, order); diff != "" {
		t.Error(diff)
	}
	want := []string{
		`queue_depth -4.5`, `requests_total path="/a\"b\\c}" 7 +`, `requests_total path="/d" 3 +`,
		`seconds_bucket le="+Inf" 1 +`, `seconds_bucket le="0.1" 0 +`, `seconds_bucket le="1" 1 +`, // written 1.0 in OpenMetrics
		`seconds_count 1 +`, `seconds_sum 0.5 +`, `size quantile="0.5" 3`, `size_count 1 +`, `size_sum 3 +`,
	}
	if diff := gocmp.Diff(want, shown(plain)); diff != "" {
		t.Error(diff)
	}
}

func TestTextTakesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	body := "a 1\nb{c=\"d\" broken\nc 3 # broken too\n{\"b\" broken\n"
	got, err := scrape.Text([]byte(body), scrape.TextOptions{Needs: only("a", "c"), MaxSeries: 2})
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]string{"a 1", "c 3"}, shown(got)); diff != "" {
		t.Error(diff)
	}
}

func TestTextRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"a 1\n<html>\n":         `unreadable: line 2: it does not begin with the name of a metric`,
		"{\"cpu_percent\": 1}x": `unreadable: line 1: unexpected end of metric name ':'`,
		"a 1\n\n# x\nb much\n":  `unreadable: line 4: expected float as value, got "much"`,
		"a{b=\"c\" 1\n":         `unreadable: line 1: its labels do not end`,
		"a{b=\"c\"}\n":          `unreadable: line 1: it has no value`,
		"a{b=c} 1\n":            `unreadable: line 1: expected '"' at start of label value, found 'c'`,
		"a{b=\"\xff\"} 1\n":     `unreadable: line 1: invalid label value "\xff"`,
		"1a 1\n":                `unreadable: line 1: it does not begin with the name of a metric`,
		"a 1\na 1\na 1\n":       `too many series: more than 2 are needed`,
	} {
		_, err := scrape.Text([]byte(body), scrape.TextOptions{Needs: everything, MaxSeries: 2})
		if err == nil || err.Error() != want || !errors.Is(err, scrape.ErrBody) && !errors.Is(err, scrape.ErrTooManySeries) {
			t.Errorf("%q: %v, want %s", body, err, want)
		}
	}
	for body, want := range map[string]string{
		"a 1\n":             `unreadable: it ends without # EOF`,
		"a 1\n# EOF\nb 2\n": `unreadable: line 3: something follows # EOF`,
	} {
		_, err := scrape.Text([]byte(body), scrape.TextOptions{OpenMetrics: true, Needs: everything, MaxSeries: 2})
		if !errors.Is(err, scrape.ErrBody) || err.Error() != want {
			t.Errorf("%q: %v, want %s", body, err, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("# TYPE a counter\na_total{b=\"c\\\"d\"} 1 123 # {x=\"y\"} 1\n# EOF\n"), false)
	f.Add([]byte("{\"a b\",c=\"d\"} NaN\na +Inf\n"), true)
	f.Add([]byte("a{,} 1"), false)
	f.Fuzz(func(t *testing.T, body []byte, open bool) {
		got, err := scrape.Text(body, scrape.TextOptions{OpenMetrics: open, Needs: everything, MaxSeries: 50})
		if err != nil {
			if !errors.Is(err, scrape.ErrBody) && !errors.Is(err, scrape.ErrTooManySeries) {
				t.Fatal(err)
			}
			return
		}
		if len(got) > 50 {
			t.Fatalf("%d series", len(got))
		}
		for _, s := range got {
			if s.Name == "" || !slices.IsSortedFunc(s.Labels, func(a, b metric.Label) int { return strings.Compare(a.Name, b.Name) }) {
				t.Fatalf("%+v", s)
			}
		}
	})
}
