package scrape_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/metric"
	"github.com/picketd/picket/services/collector/scrape"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	got, err := scrape.JSON([]byte(`{
		"cpu_percent": 12.5, "memory_percent": 40, "disk_percent": 0, "network_rx_bytes": 9007199254740992,
		"network_tx_bytes": 7e3, "active_services": 12, "failed_services": 0, "total_services": 13, "llm_requests": 99,
		"llm_cost_usd": 0.000017, "active_users": null, "total_users": 5,
		"load.1m": 0.7, "negative": -3, "a name with spaces": 1, "host": "a\"b", "on": true, "off": null,
		"gpu": [{"name": "A", "use": 0.5}], "nested": {"deep": {"n": 1e3 }}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := scrape.Reading{
		Values: map[string]float64{
			"cpu_percent": 12.5, "memory_percent": 40, "disk_percent": 0, "network_rx_bytes": 1 << 53, "network_tx_bytes": 7000,
			"active_services": 12, "failed_services": 0, "total_services": 13, "llm_requests": 99, "llm_cost_usd": 0.000017,
			"total_users": 5, "load.1m": 0.7, "negative": -3,
		},
		Extra: []byte(`{"a name with spaces":1,"host":"a\"b","on":true,"off":null,"gpu":[{"name":"A","use":0.5}],"nested":{"deep":{"n":1e3}}}`),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A well-known name of another type is said by its name, and takes nothing from the others.
func TestJSONFaults(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40)
	for body, want := range map[string]string{
		`{"cpu_percent": "12", "x": 1}`:                           `cpu_percent is "12", expected a number`,
		`{"cpu_percent": true, "x": 1}`:                           `cpu_percent is true, expected a number`,
		`{"cpu_percent": {"user": 1}, "x": 1}`:                    `cpu_percent is {"user": 1}, expected a number`,
		`{"cpu_percent": -1, "x": 1}`:                             `cpu_percent is -1, expected a number that is not negative`,
		`{"cpu_percent": 1e999, "x": 1}`:                          `cpu_percent is 1e999, expected a number`,
		`{"active_users": 1.5, "x": 1}`:                           `active_users is 1.5, expected a whole number that is not negative`,
		`{"network_rx_bytes": -5, "x": 1}`:                        `network_rx_bytes is -5, expected a whole number that is not negative`,
		`{"total_users": 18446744073709551615, "x": 1}`:           `total_users is 18446744073709551615, expected a whole number that is not negative`,
		`{"llm_cost_usd": "free", "x": 1}`:                        `llm_cost_usd is "free", expected a number`,
		`{"note": "a\u0000b", "x": 1}`:                            `"note" holds a NUL character`,
		`{"a\u0000": true, "x": 1}`:                               `"a\x00" holds a NUL character`,
		`{"list": [{"a": 1e400}], "x": 1}`:                        `"list" holds a number that is too large`,
		`{"deep": ` + deep + `, "x": 1}`:                          `"deep" is nested more than 31 deep`,
		`{"text": "` + strings.Repeat("x", 70_000) + `", "x": 1}`: `"text" is left out: what is no figure takes more than 65536 bytes`,
	} {
		got, err := scrape.JSON([]byte(body))
		if err != nil {
			t.Errorf("%.60s: %v", body, err)
			continue
		}
		if diff := cmp.Diff(scrape.Reading{Values: map[string]float64{"x": 1}, Faults: []string{want}}, got); diff != "" {
			t.Errorf("%.60s: %s", body, diff)
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``:                                    `unreadable: it is no JSON object`,
		`[1]`:                                 `unreadable: it is no JSON object`,
		`null`:                                `unreadable: it is no JSON object`,
		`<html>`:                              `unreadable: it is no JSON object`,
		`{"a": 1`:                             `unreadable: it is no JSON from byte 7 on`,
		`{"a": }`:                             `unreadable: it is no JSON from byte 6 on`,
		`{"a": 1} {"b": 2}`:                   `unreadable: something follows the JSON object`,
		`{"a": 1, "a": 2}`:                    `unreadable: it is no JSON from byte 9 on`,
		"{\"a\": \"\xff\"}":                   `unreadable: it is no JSON from byte 7 on`,
		`{"a": "\ud800"}`:                     `unreadable: it is no JSON from byte 7 on`,
		`{"a":` + strings.Repeat("[", 20_000): `unreadable: it is no JSON from byte 10004 on`,
	} {
		_, err := scrape.JSON([]byte(body))
		if !errors.Is(err, scrape.ErrBody) || err.Error() != want {
			t.Errorf("%.40s: %v, want %s", body, err, want)
		}
	}
}

func TestJSONIsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"cpu_percent": 1`)
	for i := range 10_000 {
		fmt.Fprintf(&b, `,"figure_%d":%d,"word %d":"x"`, i, i, i)
	}
	b.WriteString(`}`)
	got, err := scrape.JSON([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Values) != scrape.MaxFigures || len(got.Extra) > scrape.MaxExtra || len(got.Faults) == 0 || len(got.Faults) > 8 {
		t.Errorf("%d figures, %d bytes of extra, %d faults", len(got.Values), len(got.Extra), len(got.Faults))
	}
	if !json.Valid(got.Extra) {
		t.Error("the extra is no JSON")
	}
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"cpu_percent": 1, "extra": {"a": [1, null]}, "host": "x"}`))
	f.Add([]byte(`{"a\u0000b": "\u0000", "cpu_percent": "x", "b": 1e999}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := scrape.JSON(body)
		if err != nil {
			if !errors.Is(err, scrape.ErrBody) {
				t.Fatal(err)
			}
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatalf("read what is no JSON: %v", err)
		}
		for name, value := range got.Values {
			var number float64
			if err := json.Unmarshal(all[name], &number); err != nil || number != value {
				t.Fatalf("%q is %v, read %v (%v)", name, all[name], value, err)
			}
			if unit, known := metric.WellKnown(name); known && !unit.Fits(value) || !metric.IsName(name) {
				t.Fatalf("%q cannot be %v", name, value)
			}
		}
		if len(got.Extra) > 0 {
			var extra map[string]json.RawMessage
			if err := json.Unmarshal(got.Extra, &extra); err != nil {
				t.Fatalf("extra %s: %v", got.Extra, err)
			}
			if len(extra)+len(got.Values) > len(all) {
				t.Fatal("more than there was")
			}
		}
	})
}
