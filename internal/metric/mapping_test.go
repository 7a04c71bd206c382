package metric_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/picketd/picket/internal/metric"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func compile(t *testing.T, mapping string, rules ...*picketv1.MetricRule) *metric.Mapping {
	t.Helper()
	m, err := metric.Compile(mapping, rules)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFigures(t *testing.T) {
	t.Parallel()
	disks := []metric.Series{
		series("avail", 20, "device", "sda", "fstype", "ext4", "mountpoint", "/"),
		series("avail", 90, "device", "sdb", "fstype", "xfs", "mountpoint", "/data"),
		series("avail", 0, "device", "cd", "fstype", "iso9660", "mountpoint", "/cd"),
		series("size", 100, "device", "sda", "fstype", "ext4", "mountpoint", "/"),
		series("size", 100, "device", "sdb", "fstype", "xfs", "mountpoint", "/data"),
		series("size", 0, "device", "cd", "fstype", "iso9660", "mountpoint", "/cd"),
		series("broken", math.NaN()), series("broken", math.Inf(1), "a", "b"),
		series("total", 1000),
		series("avail", 99, "device", "sda", "fstype", "ext4", "mountpoint", "/"), // comes twice
	}
	for name, test := range map[string]struct {
		rule *picketv1.MetricRule
		want []float64 // none: no figure
	}{
		"one":                    {&picketv1.MetricRule{Series: `avail{device="sda"}`}, []float64{20}},
		"sum is the default":     {&picketv1.MetricRule{Series: `avail`}, []float64{110}},
		"sum":                    {&picketv1.MetricRule{Series: `avail`, Aggregate: "sum"}, []float64{110}},
		"max":                    {&picketv1.MetricRule{Series: `avail`, Aggregate: "max"}, []float64{90}},
		"min":                    {&picketv1.MetricRule{Series: `avail`, Aggregate: "min"}, []float64{0}},
		"avg":                    {&picketv1.MetricRule{Series: `avail{device=~"sd."}`, Aggregate: "avg"}, []float64{55}},
		"count":                  {&picketv1.MetricRule{Series: `avail`, Aggregate: "count"}, []float64{3}},
		"count of nothing":       {&picketv1.MetricRule{Series: `nothing`, Aggregate: "count"}, nil},
		"nothing selected":       {&picketv1.MetricRule{Series: `avail{device="sdz"}`}, nil},
		"divided, zero left out": {&picketv1.MetricRule{Series: `avail`, DivideBy: `size`, Aggregate: "min"}, []float64{0.2}},
		"divided by what has fewer labels": {
			&picketv1.MetricRule{Series: `avail`, DivideBy: `total`, Aggregate: "max"}, []float64{0.09},
		},
		"divided by a sum": {&picketv1.MetricRule{Series: `total`, DivideBy: `avail{device=~"sd."}`}, []float64{1000.0 / 110}},
		"no divisor":       {&picketv1.MetricRule{Series: `avail`, DivideBy: `nothing`}, nil},
		"scale and offset": {&picketv1.MetricRule{Series: `avail{device="sda"}`, Scale: -2, Offset: 100}, []float64{60}},
		"not finite":       {&picketv1.MetricRule{Series: `broken`}, nil},
		"too large":        {&picketv1.MetricRule{Series: `total`, Scale: math.MaxFloat64}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.rule.Name = "it"
			figures := compile(t, "", test.rule).Figures(disks, &metric.Counters{}, time.Hour)
			want, empty := map[string]float64{}, []string{"it"}
			if test.want != nil {
				want["it"], empty = test.want[0], nil
			}
			if diff := cmp.Diff(want, figures.Values, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(empty, figures.Empty); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func counter(name string, value float64, labels ...string) metric.Series {
	s := series(name, value, labels...)
	s.Counter = true
	return s
}

func TestRates(t *testing.T) {
	t.Parallel()
	m := compile(
		t, "",
		&picketv1.MetricRule{Name: "rate", Series: "requests", Rate: true},
		&picketv1.MetricRule{Name: "mean", Series: "seconds", Rate: true, DivideBy: "requests"},
		&picketv1.MetricRule{Name: "use", Series: "requests", Rate: true, DivideBy: "limit"},
		&picketv1.MetricRule{Name: "plain", Series: "requests"},
	)
	var counters metric.Counters
	look := func(at time.Duration, requests, seconds float64, more ...metric.Series) metric.Figures {
		return m.Figures(append([]metric.Series{
			counter("requests", requests, "code", "200"), counter("seconds", seconds, "code", "200"), series("limit", 10),
		}, more...), &counters, at)
	}
	for i, step := range []struct {
		got     metric.Figures
		values  map[string]float64
		waiting []string
	}{
		{look(time.Hour, 100, 10), map[string]float64{"plain": 100}, []string{"rate", "mean", "use"}},
		{look(time.Hour+10*time.Second, 150, 20), map[string]float64{"plain": 150, "rate": 5, "mean": 0.2, "use": 0.5}, nil},
		// A second look within a second says nothing of rates, and does not disturb the next.
		{look(time.Hour+10*time.Second+999*time.Millisecond, 151, 20), map[string]float64{"plain": 151}, []string{"rate", "mean", "use"}},
		{look(time.Hour+20*time.Second, 250, 21), map[string]float64{"plain": 250, "rate": 10, "mean": 0.01, "use": 1}, nil},
		// The server was restarted: what it has counted since is the increase.
		{look(time.Hour+30*time.Second, 30, 6), map[string]float64{"plain": 30, "rate": 3, "mean": 0.2, "use": 0.3}, nil},
		// A series that was not there before has no rate yet; the others do.
		{
			look(time.Hour+40*time.Second, 40, 7, counter("requests", 1000, "code", "500")),
			map[string]float64{"plain": 1040, "rate": 1, "mean": 0.1, "use": 0.1},
			nil,
		},
		{
			look(time.Hour+50*time.Second, 40, 7, counter("requests", 1020, "code", "500")),
			map[string]float64{"plain": 1060, "rate": 2, "use": 0.2},
			nil, // nothing to divide by
		},
		// Longer than a rate means anything.
		{look(2*time.Hour, 5000, 70), map[string]float64{"plain": 5000}, []string{"rate", "mean", "use"}},
		{look(2*time.Hour+10*time.Minute, 5600, 70), map[string]float64{"plain": 5600, "rate": 1, "mean": 0, "use": 0.1}, nil},
	} {
		if diff := cmp.Diff(step.values, step.got.Values, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
		if diff := cmp.Diff(step.waiting, step.got.Waiting); diff != "" {
			t.Errorf("step %d, waiting: %s", i, diff)
		}
	}
}

func TestOwnRulesWin(t *testing.T) {
	t.Parallel()
	m := compile(t, metric.NodeExporter, &picketv1.MetricRule{Name: metric.MemoryPercent, Series: "mine"})
	figures := m.Figures([]metric.Series{
		series("mine", 7), series("node_memory_MemAvailable_bytes", 1), series("node_memory_MemTotal_bytes", 2),
	}, &metric.Counters{}, 0)
	if diff := cmp.Diff(map[string]float64{metric.MemoryPercent: 7}, figures.Values); diff != "" {
		t.Error(diff)
	}
}

func TestCompileFaults(t *testing.T) {
	t.Parallel()
	if _, err := metric.Compile("nodexporter", nil); !errors.Is(err, metric.ErrUnknownMapping) || err.Error() != `unknown mapping "nodexporter": known are node_exporter` {
		t.Error(err)
	}
	_, err := metric.Compile("", []*picketv1.MetricRule{
		{Name: "good", Series: "up"},
		{Name: "9", Series: "up{", DivideBy: "}", Aggregate: "median", Scale: math.Inf(1), Offset: math.NaN()},
		{Name: "good", Series: "up"},
	})
	want := `rules[1].name: "9" is no name of a figure
rules[1].series: column 4: the name of a label is expected, found the end
rules[1].divide_by: column 1: the name of a metric is expected, found "}"
rules[1].aggregate: "median" is none of sum, max, min, avg, count
rules[1].scale: is no finite number
rules[1].offset: is no finite number
rules[2].name: the figure good is made by rules[0] already`
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if _, err := metric.Compile("", make([]*picketv1.MetricRule, metric.MaxRules+1)); err == nil {
		t.Error("too many rules were accepted")
	}
}

// Hostile expositions cost bounded time and memory, whatever the rules.
func TestFiguresAreBounded(t *testing.T) {
	t.Parallel()
	m := compile(t, "", &picketv1.MetricRule{Name: "ratio", Series: "a", DivideBy: "b", Rate: true}, &picketv1.MetricRule{Name: "n", Series: "a", Aggregate: "count"})
	var many []metric.Series
	for i := range 20_000 {
		many = append(many, counter("a", 1, "x", fmt.Sprint(i)), counter("b", 1, "y", fmt.Sprint(i)))
	}
	var counters metric.Counters
	start := time.Now()
	for i := range 3 {
		figures := m.Figures(many, &counters, time.Duration(i)*time.Minute)
		if diff := cmp.Diff(map[string]float64{"n": 20_000}, figures.Values); diff != "" {
			t.Fatal(diff)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ fits, not []float64 }{
		metric.CPUPercent:     {[]float64{0, 99.9, 250}, []float64{-0.1, math.NaN(), math.Inf(1)}},
		metric.ActiveUsers:    {[]float64{0, 7, 1 << 53}, []float64{-1, 1.5, 1 << 60, math.NaN()}},
		metric.NetworkRxBytes: {[]float64{0, 1e15}, []float64{-1, 0.5}},
		metric.LLMCostUSD:     {[]float64{0, 0.000017, -2}, []float64{math.Inf(-1)}},
	} {
		unit, known := metric.WellKnown(name)
		if !known {
			t.Errorf("%s is not known", name)
		}
		for _, value := range test.fits {
			if !unit.Fits(value) {
				t.Errorf("%s cannot be %v", name, value)
			}
		}
		for _, value := range test.not {
			if unit.Fits(value) {
				t.Errorf("%s can be %v", name, value)
			}
		}
	}
	if _, known := metric.WellKnown("load"); known {
		t.Error("load is known")
	}
}
