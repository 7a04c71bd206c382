package health

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestCountersAreBounded(t *testing.T) {
	t.Parallel()
	e := compile(t, &picketv1.HTTPSpec{})
	o := e.HTTP(answer(200, "application/json",
		`{"counters":{"a b/ü":1.5,"":7,"s":"x","b":true,"o":{"n":1},"l":[1],"huge":1e999,"neg":-2e3,"a b/ü":9}}`))
	if diff := cmp.Diff(map[string]float64{"a_b___": 1.5, "neg": -2000}, o.Counters); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	var many strings.Builder
	for i := range 500 {
		fmt.Fprintf(&many, `"%s%d":%d,`, strings.Repeat("n", i), i, i)
	}
	o = e.HTTP(answer(200, "application/json", `{"counters":{`+many.String()+`"z":0}}`))
	if len(o.Counters) != MaxCounters || o.Status != healthy {
		t.Errorf("got %d counters, %s", len(o.Counters), Word(o.Status))
	}
}

func TestComponentsAreBoundedWorstFirst(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range 50 {
		fmt.Fprintf(&many, `"c%d":{"status":"up"},`, i)
	}
	o := compile(t, &picketv1.HTTPSpec{}).HTTP(answer(200, "application/json",
		`{"components":{`+many.String()+`"warns":{"status":"warn"},"db":{"status":"down"}},"redis":{"status":"ok"}}`))
	if got, want := components(o), "db=critical warns=degraded redis=healthy c0=healthy c1=healthy c2=healthy c3=healthy c4=healthy"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func FuzzHTTP(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(200, "application/json", body, false)
	}
	f.Add(503, "text/plain", []byte(`{"checks":[{"name":"\ud800","status":"\u0000"}],"counters":{"\"":1}}`), true)
	plain := compile(f, &picketv1.HTTPSpec{})
	strict := compile(f, &picketv1.HTTPSpec{ExpectJson: []*picketv1.JSONPathAssertion{{Path: "$..status", Equals: `"ok"`}}, ExpectBody: "ok"})
	f.Fuzz(func(t *testing.T, code int, contentType string, body []byte, truncated bool) {
		r := answer(code, contentType, string(body))
		r.Truncated = truncated
		for _, e := range []*Expectations{plain, strict} {
			o := e.HTTP(r)
			if o.Status < healthy || o.Status > critical {
				t.Errorf("an answer is %s", Word(o.Status))
			}
			if (o.Status == healthy) != (o.Reason == "") || (o.Status == healthy) != (o.Message == "") {
				t.Errorf("%s with reason %q, message %q", Word(o.Status), o.Reason, o.Message)
			}
			if len(o.Message) > 2*maxMessage || !utf8.ValidString(o.Message) {
				t.Errorf("message %q", o.Message)
			}
			if len(o.Components) > MaxComponents || len(o.Counters) > MaxCounters {
				t.Errorf("%d components, %d counters", len(o.Components), len(o.Counters))
			}
			for i, c := range o.Components {
				if c.GetName() == "" || !utf8.ValidString(c.GetName()) || i > 0 && Worse(c.GetStatus(), o.Components[i-1].GetStatus()) {
					t.Errorf("component %d: %v", i, c)
				}
				if len(e.status) == 0 && Worse(c.GetStatus(), o.Status) {
					t.Errorf("component %v is worse than the whole, %s", c, Word(o.Status))
				}
			}
			for name, value := range o.Counters {
				if name == "" || len(name) > maxName || !utf8.ValidString(name) || math.IsNaN(value) || math.IsInf(value, 0) {
					t.Errorf("counter %q = %v", name, value)
				}
			}
		}
		// What encoding/json reads, we read, and the other way round, but for depth
		// and invalid numbers of surrogates, on which the two differ by design.
		_, err := plain.scanners.scan(body)
		if std := json.Valid(body); std && err != nil && checkDepth(body) == nil {
			t.Errorf("valid JSON refused: %v", err)
		}
	})
}

var hotBody = []byte(`{"status":"ok","host":"srv-004217.eu-west.example.net","service":"checkout","version":"2.14.3","counters":{"requests":18234411,"errors":12,"queue_depth":3,"connections":118},"last_write_at":"2026-11-21T18:22:25.123456Z"}`)

func BenchmarkHTTP(b *testing.B) {
	e := compile(b, &picketv1.HTTPSpec{})
	r := answer(200, "application/json", string(hotBody))
	b.ReportAllocs()
	for b.Loop() {
		if o := e.HTTP(r); o.Status != healthy || len(o.Counters) != 4 {
			b.Fatal(o)
		}
	}
}

// BenchmarkEncodingJSON is the yardstick: the same body into a struct.
func BenchmarkEncodingJSON(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var v struct {
			Status   string             `json:"status"`
			Counters map[string]float64 `json:"counters"`
		}
		if err := json.Unmarshal(hotBody, &v); err != nil || len(v.Counters) != 4 {
			b.Fatal(err)
		}
	}
}
