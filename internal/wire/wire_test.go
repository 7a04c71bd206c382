package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func at(ms int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(ms)) }

func result() *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Status:     picketv1.Status_STATUS_CRITICAL,
		Server:     "checkout",
		Check:      "health",
		LatencyUs:  12345,
		Reason:     "http_503",
		Message:    `answered 503, "database" is down`,
		HttpStatus: 503,

		ScheduledAt: at(1_795_000_000_120),
		StartedAt:   at(1_795_000_000_130),
		Location:    "local",
		Org:         "default",
		Kind:        "http",
		CheckId:     "3f6c1f0e-6c1a-4a3e-9d52-0f6a2f1d9b11",
		Revision:    math.MaxInt64,
		Instance:    "host-4711",
		Components:  []*picketv1.Component{{Name: "database", Status: picketv1.Status_STATUS_CRITICAL}},
		Counters:    map[string]float64{"requests": 10, "errors": 0.25},
	}
}

// healthy is what nearly every result looks like.
func healthy() *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Status: picketv1.Status_STATUS_HEALTHY, Server: "checkout", Check: "health", LatencyUs: 412, HttpStatus: 200,
		ScheduledAt: at(1_795_000_000_120), StartedAt: at(1_795_000_000_130), Location: "local", Org: "default", Kind: "http",
		CheckId: "3f6c1f0e-6c1a-4a3e-9d52-0f6a2f1d9b11", Revision: 1, Instance: "host-4711", ConnectionReused: true,
	}
}

func messages() map[string]proto.Message {
	return map[string]proto.Message{
		"probe_result": result(),
		"probe_result_missed": &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_UNKNOWN, Server: "checkout", Check: "health", Reason: "missed",
			ScheduledAt: at(1_795_000_000_000), MissedUntil: at(1_795_000_060_000), Location: "local", Org: "default",
			Kind: "http", CheckId: "3f6c1f0e-6c1a-4a3e-9d52-0f6a2f1d9b11",
		},
		"alert_event": &picketv1.AlertEvent{
			Transition: "opened", Severity: "critical", Server: "checkout", Check: "health", Kind: "unreachable",
			Summary: "checkout is unreachable: connection refused", State: "open", At: at(1_795_000_300_000), Org: "default",
			Fingerprint: "system-health:checkout", AlertId: "a", EventId: "e",
			Evidence: []*picketv1.Evidence{{Status: picketv1.Status_STATUS_UNREACHABLE, ScheduledAt: at(1_795_000_000_000), Location: "local", Reason: "refused"}},
		},
		"dead_letter": &picketv1.DeadLetter{
			Reason: "unreadable", Error: "broken\nline", Stream: "PICKET_EVENTS", Consumer: "writer", Sequence: math.MaxUint64,
			Headers: map[string]string{"b": "2", "a": "1"}, Payload: []byte{0, 1, 0xff},
		},
		"catalog_change": &picketv1.CatalogChange{
			Change: "added",
			Server: &picketv1.Server{Name: "checkout", Lifecycle: "active", Org: "default", Tags: []string{"shop", "eu"}, Checks: []*picketv1.Check{{
				Name: "health", Kind: "http", Serial: 7, Spec: &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: "http://10.0.0.5/health"}},
				Schedules: []*picketv1.Schedule{{Revision: 1, IntervalMs: 30_000, EffectiveAt: at(1_795_000_000_000)}},
			}}},
		},
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, message := range messages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := wire.AppendJSON(nil, message)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
				t.Errorf("JSON changed (-want +got):\n%s", diff)
			}
			if bytes.ContainsRune(got, '\n') {
				t.Error("more than one line")
			}
			if len(got) > 1024 {
				t.Errorf("%d bytes, promised at most 1024", len(got))
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, message := range messages() {
		for _, encoding := range []wire.Encoding{wire.JSON, wire.Protobuf} {
			t.Run(name+"/"+string(encoding), func(t *testing.T) {
				t.Parallel()
				data, err := encoding.Append(nil, message)
				if err != nil {
					t.Fatal(err)
				}
				got := message.ProtoReflect().New().Interface()
				if err := wire.Decode(encoding.ContentType(), data, got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(message, got, protocmp.Transform()); diff != "" {
					t.Errorf("changed on the way (-sent +got):\n%s", diff)
				}
			})
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ contentType, data string }{
		"empty":               {"", ""},
		"not an object":       {"", `[]`},
		"cut":                 {"", `{"server":"a"`},
		"something behind":    {"", `{} {}`},
		"duplicate name":      {"", `{"server":"a","server":"b"}`},
		"number for string":   {"", `{"server":1}`},
		"string for number":   {"", `{"latency_us":"12"}`},
		"fraction":            {"", `{"latency_us":1.5}`},
		"too large":           {"", `{"http_status":2147483648}`},
		"unknown status":      {"", `{"status":"sleepy"}`},
		"time without zone":   {"", `{"scheduled_at":"2026-11-21T10:00:00"}`},
		"invalid UTF-8":       {"", "{\"server\":\"\xff\"}"},
		"other content type":  {"text/plain", `{}`},
		"broken protobuf":     {wire.ContentTypeProtobuf, "\x0a\xff"},
		"deeply nested":       {"", `{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`},
		"JSON under protobuf": {wire.ContentTypeProtobuf, `{"server":"a"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := wire.Decode(test.contentType, []byte(test.data), &picketv1.ProbeResult{})
			if !errors.Is(err, wire.ErrUnreadable) {
				t.Errorf("got %v, want wire.ErrUnreadable", err)
			}
		})
	}
}

func TestDecodeAcceptsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	got := &picketv1.ProbeResult{}
	data := `{"from_the_future":{"a":[1,{"b":null}]},"server":"a","message":null,"status":"healthy"}`
	if err := wire.Decode("application/json; charset=utf-8", []byte(data), got); err != nil {
		t.Fatal(err)
	}
	want := &picketv1.ProbeResult{Server: "a", Status: picketv1.Status_STATUS_HEALTHY}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownProtobufFieldsSurvive(t *testing.T) {
	t.Parallel()
	future := []byte{0xf8, 0x07, 0x01} // field 127, varint 1
	got := &picketv1.ProbeResult{}
	if err := wire.Decode(wire.ContentTypeProtobuf, future, got); err != nil {
		t.Fatal(err)
	}
	again, err := wire.Protobuf.Append(nil, got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, future) {
		t.Errorf("got % x, want % x", again, future)
	}
}

func TestInvalidStringIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := wire.AppendJSON(nil, &picketv1.ProbeResult{Server: "\xff"}); err == nil {
		t.Error("a string that is not UTF-8 was written")
	}
}

func TestDecodeSaysTheSameInOtherWords(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]*picketv1.ProbeResult{
		`{"\u0073erver":"a\n\u00e9\ud83d\ude00"}`:   {Server: "a\né😀"},
		`{"status":"HEALTHY"}`:                      {Status: picketv1.Status_STATUS_HEALTHY},
		`{"status":77}`:                             {Status: 77},
		`{"status":-1}`:                             {Status: -1},
		`{"latency_us":-9223372036854775808}`:       {LatencyUs: math.MinInt64},
		`{"http_status":-1,"on_demand":true}`:       {HttpStatus: -1, OnDemand: true},
		`{"counters":{"a":-Infinity}}`:              nil,
		`{"counters":{"a":null}}`:                   nil,
		`{"counters":{"a":"-Infinity","b":-0.5}}`:   {Counters: map[string]float64{"a": math.Inf(-1), "b": -0.5}},
		`{"counters":{"a":1,"a":2}}`:                nil,
		`{"components":[null]}`:                     nil,
		`{"components":[{},{"name":"b"}]}`:          {Components: []*picketv1.Component{{}, {Name: "b"}}},
		`{"scheduled_at":"1969-12-31T23:59:59.5Z"}`: {ScheduledAt: &timestamppb.Timestamp{Seconds: -1, Nanos: 500_000_000}},
		`{"components":[{"name":"` + strings.Repeat("x", 20_000) + `"}]}`: {
			Components: []*picketv1.Component{{Name: strings.Repeat("x", 20_000)}},
		},
	} {
		got := &picketv1.ProbeResult{Server: "left over"}
		err := wire.UnmarshalJSON([]byte(data), got)
		if want == nil {
			if !errors.Is(err, wire.ErrUnreadable) {
				t.Errorf("%s: got %v, want wire.ErrUnreadable", data, err)
			}
			want = &picketv1.ProbeResult{} // reset all the same
		} else if err != nil {
			t.Errorf("%.80s: %v", data, err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%.80s:\n%s", data, diff)
		}
	}
}

// TestAllocations: the message, its times and its strings are all that reading
// costs. Each result is written once and read by every consumer.
func TestAllocations(t *testing.T) {
	for name, test := range map[string]struct {
		message     *picketv1.ProbeResult
		write, read float64
	}{
		// Reading: the message, 7 strings, 2 times.
		"healthy": {healthy(), 0, 10},
		// Reading: the message, 9 strings, 2 times, 3 for a component, 9 for two counters.
		"typical": {result(), 9, 27},
	} {
		buf, err := wire.AppendJSON(nil, test.message)
		if err != nil {
			t.Fatal(err)
		}
		data := slices.Clone(buf)
		if got := testing.AllocsPerRun(200, func() { buf, _ = wire.AppendJSON(buf[:0], test.message) }); got > test.write {
			t.Errorf("writing the %s result allocates %v times, want at most %v", name, got, test.write)
		}
		if raceDetector() {
			continue // it empties pools at random
		}
		if got := testing.AllocsPerRun(200, func() { _ = wire.UnmarshalJSON(data, &picketv1.ProbeResult{}) }); got > test.read {
			t.Errorf("reading the %s result allocates %v times, want at most %v", name, got, test.read)
		}
	}
}

// raceDetector reports whether this program was built with it.
func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// FuzzAgainstProtojson holds the JSON form against protojson: whatever message
// the bytes make, both say the same facts, and it reads back as it was.
func FuzzAgainstProtojson(f *testing.F) {
	for _, message := range messages() {
		if data, err := proto.Marshal(message); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message := &picketv1.ProbeResult{}
		if proto.Unmarshal(data, message) != nil {
			t.Skip()
		}
		message.ProtoReflect().SetUnknown(nil)
		reference, err := protojson.MarshalOptions{UseProtoNames: true, UseEnumNumbers: true}.Marshal(message)
		if err != nil {
			t.Skip() // protojson refuses times outside of its range
		}
		ours, err := wire.AppendJSON(nil, message)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(ours) {
			t.Fatalf("not JSON: %s", ours)
		}
		got, want := &picketv1.ProbeResult{}, &picketv1.ProbeResult{}
		if err := wire.UnmarshalJSON(ours, got); err != nil {
			t.Fatalf("own form not read: %v\n%s", err, ours)
		}
		if err := protojson.Unmarshal(reference, want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cutToMillis(want), cutToMillis(got), protocmp.Transform()); diff != "" {
			t.Fatalf("other facts than protojson (-protojson +ours):\n%s", diff)
		}
	})
}

// cutToMillis drops what the JSON form does not carry of times, and empty times
// and elements that both forms spell differently.
func cutToMillis(r *picketv1.ProbeResult) *picketv1.ProbeResult {
	for _, ts := range []**timestamppb.Timestamp{&r.ScheduledAt, &r.StartedAt, &r.MissedUntil, &r.CertificateNotAfter} {
		if *ts != nil {
			*ts = timestamppb.New((*ts).AsTime().Truncate(time.Millisecond))
		}
	}
	return r
}

// FuzzDecode feeds hostile bytes: an error or a message, never a panic.
func FuzzDecode(f *testing.F) {
	for _, message := range messages() {
		data, err := wire.AppendJSON(nil, message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message := &picketv1.ProbeResult{}
		if err := wire.UnmarshalJSON(data, message); err != nil {
			if !errors.Is(err, wire.ErrUnreadable) {
				t.Fatalf("error %v does not wrap ErrUnreadable", err)
			}
			return
		}
		if _, err := wire.AppendJSON(nil, message); err != nil {
			t.Fatalf("read but not written: %v", err)
		}
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	for name, message := range map[string]*picketv1.ProbeResult{"healthy": healthy(), "typical": result()} {
		b.Run(name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = wire.AppendJSON(buf[:0], message)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkUnmarshalJSON(b *testing.B) {
	for name, message := range map[string]*picketv1.ProbeResult{"healthy": healthy(), "typical": result()} {
		b.Run(name, func(b *testing.B) {
			data, err := wire.AppendJSON(nil, message)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := wire.UnmarshalJSON(data, &picketv1.ProbeResult{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkProtojson is the library that does the same, for comparison.
func BenchmarkProtojson(b *testing.B) {
	message := result()
	data, err := protojson.Marshal(message)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := protojson.Marshal(message); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := protojson.Unmarshal(data, &picketv1.ProbeResult{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
