package metric_test

import (
	"strings"
	"testing"

	"github.com/picketd/picket/internal/metric"
)

func series(name string, value float64, labels ...string) metric.Series {
	s := metric.Series{Name: name, Value: value}
	for i := 0; i < len(labels); i += 2 {
		s.Labels = append(s.Labels, metric.Label{Name: labels[i], Value: labels[i+1]})
	}
	return s
}

func TestSelectorMatches(t *testing.T) {
	t.Parallel()
	cpu := series("node_cpu_seconds_total", 1, "cpu", "0", "mode", "idle", "note", "a\"b\nc")
	for selector, want := range map[string]bool{
		`node_cpu_seconds_total`:                          true,
		` node_cpu_seconds_total { } `:                    true,
		`node_cpu_seconds_total{mode="idle"}`:             true,
		`node_cpu_seconds_total{mode='idle',cpu="0",}`:    true,
		`node_cpu_seconds_total{mode="user"}`:             false,
		`node_cpu_seconds_total{mode!="user", cpu!="1"}`:  true,
		`node_cpu_seconds_total{mode!="idle"}`:            false,
		`node_cpu_seconds_total{mode=~"i.*|user"}`:        true,
		`node_cpu_seconds_total{mode=~"dl"}`:              false,
		`node_cpu_seconds_total{mode=~"id"}`:              false,
		`node_cpu_seconds_total{mode!~"u.*"}`:             true,
		`node_cpu_seconds_total{mode!~"i.*"}`:             false,
		`node_cpu_seconds_total{absent=""}`:               true,
		`node_cpu_seconds_total{absent!=""}`:              false,
		`node_cpu_seconds_total{absent=~".*"}`:            true,
		`node_cpu_seconds_total{note="a\"b\nc"}`:          true,
		"node_cpu_seconds_total{note=~`a.b.c`}":           true,
		"node_cpu_seconds_total{cpu=~`\\d+`}":             true,
		`node_cpu_seconds_total{mode="idle",mode="user"}`: false,
		`node_cpu_seconds`:                                false,
	} {
		parsed, err := metric.ParseSelector(selector)
		if err != nil {
			t.Errorf("%s: %v", selector, err)
			continue
		}
		if got := parsed.Matches(&cpu); got != want {
			t.Errorf("%s: %t, want %t", selector, got, want)
		}
	}
}

func TestSelectorFaults(t *testing.T) {
	t.Parallel()
	for selector, want := range map[string]string{
		``:                        `column 1: the name of a metric is expected, found the end`,
		`{a="b"}`:                 `column 1: the name of a metric is expected, found "{a=\"b\"}"`,
		`1up`:                     `column 1: the name of a metric is expected, found "1up"`,
		`up{`:                     `column 4: the name of a label is expected, found the end`,
		`up{a`:                    `column 5: one of = != =~ !~ is expected, found the end`,
		`up{a=b}`:                 `column 6: a text in quotes is expected, found "b}"`,
		`up{a="b`:                 `column 6: an end of the quotes is expected, found "\"b"`,
		`up{a="b\q"}`:             `column 8: a text in quotes is expected, found "\\q\"}"`,
		`up{a="b" c="d"}`:         `column 10: a comma or } is expected, found "c=\"d\"}"`,
		`up{a="b"} 1`:             `column 11: nothing more is expected, found "1"`,
		`up{a=~"("}`:              `column 7: a regular expression is expected, found "\"(\"}"`,
		`up or down`:              `column 4: nothing more is expected, found "or down"`,
		strings.Repeat("a", 2000): `is longer than 1024 bytes`,
		"up{" + strings.Repeat(`a="",`, 17) + "}": `column 84: no more than 16 labels are expected, found "a=\"\",}"`,
	} {
		if _, err := metric.ParseSelector(selector); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", selector, err, want)
		}
	}
}

func FuzzSelector(f *testing.F) {
	f.Add(`node_cpu_seconds_total{mode=~"idle|user",cpu!="1"}`, "idle")
	f.Add("a{b=`c`}", "\xff")
	f.Add(`a{b="\x41\u00e9"}`, "A")
	f.Fuzz(func(t *testing.T, text, value string) {
		selector, err := metric.ParseSelector(text)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without a word")
			}
			return
		}
		with := series(selector.Name, 1, "b", value)
		selector.Matches(&with)
		other := series(selector.Name+"x", 1)
		if selector.Matches(&other) {
			t.Fatal("selected a series of another name")
		}
	})
}
