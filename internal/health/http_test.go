package health

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	healthy     = picketv1.Status_STATUS_HEALTHY
	degraded    = picketv1.Status_STATUS_DEGRADED
	critical    = picketv1.Status_STATUS_CRITICAL
	unreachable = picketv1.Status_STATUS_UNREACHABLE
	unknown     = picketv1.Status_STATUS_UNKNOWN
)

func compile(t testing.TB, spec *picketv1.HTTPSpec) *Expectations {
	t.Helper()
	e, err := Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func answer(code int, contentType, body string) Response {
	return Response{Code: code, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)}
}

// components writes an outcome's components as "name=status …", in their order.
func components(o Outcome) string {
	var words []string
	for _, c := range o.Components {
		words = append(words, c.GetName()+"="+Word(c.GetStatus()))
	}
	return strings.Join(words, " ")
}

func TestBodiesOfKnownSystems(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file       string
		code       int
		status     picketv1.Status
		reason     string
		message    string
		components string
		counters   map[string]float64
	}{
		{"ingest", 200, healthy, "", "", "", map[string]float64{
			"messages_received": 182344, "messages_written": 182340, "messages_rejected": 4,
			"nats_telemetry_pending": 0, "nats_shadow_pending": 0, "nats_commands_pending": 2,
		}},
		{"evaluator", 200, healthy, "", "", "", map[string]float64{"rules_evaluated": 51200, "alerts_created": 12, "evaluation_errors": 0}},
		{"fleet_healthy", 200, healthy, "", "", "database=healthy redis=healthy services=healthy", nil},
		{"fleet_services_down", 200, degraded, "component", "services: false", "services=degraded database=healthy redis=healthy", nil},
		{"fleet_database_down", 200, critical, "component", "database: error", "database=critical services=degraded redis=healthy", nil},
		{
			"fleet_database_down", 503, critical, "http_503", "HTTP 503 Service Unavailable; database: error",
			"database=critical services=degraded redis=healthy", nil,
		},
		{"ietf_warn", 200, degraded, "component", "cpu:utilization: warn", "cpu:utilization=degraded database:responseTime=healthy uptime=healthy", nil},
		{"spring_down", 503, critical, "http_503", "HTTP 503 Service Unavailable; db: DOWN", "db=critical diskSpace=healthy ping=healthy", nil},
		{"microprofile_up", 200, healthy, "", "", "small-ranges=healthy db=healthy", nil},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(filepath.Join("testdata", tt.file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			o := compile(t, &picketv1.HTTPSpec{}).HTTP(answer(tt.code, "application/json", string(body)))
			if o.Status != tt.status || o.Reason != tt.reason || o.Message != tt.message {
				t.Errorf("got %s %q %q, want %s %q %q", Word(o.Status), o.Reason, o.Message, Word(tt.status), tt.reason, tt.message)
			}
			if got := components(o); got != tt.components {
				t.Errorf("components: got %q, want %q", got, tt.components)
			}
			if diff := cmp.Diff(tt.counters, o.Counters); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

// One row per rule of the package comment.
func TestMapping(t *testing.T) {
	t.Parallel()
	const js = "application/json"
	tests := []struct {
		rule        string
		code        int
		contentType string
		body        string
		status      picketv1.Status
		reason      string
	}{
		{"2xx without JSON", 200, "text/plain", "whatever", healthy, ""},
		{"any 2xx", 204, "", "", healthy, ""},
		{"5xx", 502, "text/html", "<html>", critical, "http_502"},
		{"4xx", 404, "text/plain", "", degraded, "http_404"},
		{"3xx not followed", 302, "", "", degraded, "http_302"},
		{"ok", 200, js, `{"status":"ok"}`, healthy, ""},
		{"any case", 200, js, `{"status":"Healthy"}`, healthy, ""},
		{"UP", 200, js, `{"status":"UP"}`, healthy, ""},
		{"pass", 200, "application/health+json", `{"status":"pass"}`, healthy, ""},
		{"true as word", 200, js, `{"status":"true"}`, healthy, ""},
		{"true", 200, js, `{"status":true}`, healthy, ""},
		{"false", 200, js, `{"status":false}`, critical, "reported_status"},
		{"healthy false", 200, js, `{"healthy":false}`, critical, "reported_status"},
		{"warn", 200, js, `{"status":"warn"}`, degraded, "reported_status"},
		{"degraded", 200, js, `{"status":"DEGRADED"}`, degraded, "reported_status"},
		{"fail", 200, js, `{"status":"fail"}`, critical, "reported_status"},
		{"down", 200, js, `{"status":"down"}`, critical, "reported_status"},
		{"out of service", 200, js, `{"status":"OUT_OF_SERVICE"}`, critical, "reported_status"},
		{"a word we do not know says nothing", 200, js, `{"status":"sunny"}`, healthy, ""},
		{"a number says nothing", 200, js, `{"status":200}`, healthy, ""},
		{"escaped word", 200, js, `{"status":"\u006fk"}`, healthy, ""},
		{"bare word", 200, js, `"DOWN"`, critical, "reported_status"},
		{"list", 200, js, `[{"status":"down"}]`, healthy, ""},
		{"the worst of two statuses", 200, js, `{"status":"down","status":"ok"}`, critical, "reported_status"},
		{"database not good", 200, js, `{"database":{"status":"connected"}}`, critical, "component"},
		{"database warns", 200, js, `{"database":{"status":"warn"}}`, critical, "component"},
		{"database unknown", 200, js, `{"database":{"status":"unknown"}}`, critical, "component"},
		{"database as word", 200, js, `{"database":"down"}`, critical, "component"},
		{"database as bool", 200, js, `{"database":true}`, healthy, ""},
		{"redis not good", 200, js, `{"status":"ok","redis":{"status":"error"}}`, critical, "component"},
		{"missing status means nothing", 200, js, `{"database":{"latency":3}}`, healthy, ""},
		{"null means nothing", 200, js, `{"database":null,"redis":{"status":null},"services":{"healthy":null}}`, healthy, ""},
		{"services not healthy", 200, js, `{"services":{"healthy":false}}`, degraded, "component"},
		{"a service of several", 200, js, `{"services":{"healthy":true,"llm":{"status":"down"}}}`, degraded, "component"},
		{"another component", 200, js, `{"cache":{"status":"fail"}}`, degraded, "component"},
		{"an object that merely has a status", 200, js, `{"deployment":{"status":"complete"}}`, healthy, ""},
		{"declared component, word not known", 200, js, `{"components":{"cache":{"status":"meh"}}}`, degraded, "component"},
		{"component unknown", 200, js, `{"components":{"cache":{"status":"UNKNOWN"}}}`, healthy, ""},
		{"check of a database warns", 200, js, `{"checks":{"database:rt":[{"status":"warn"}]}}`, degraded, "component"},
		{"check of a database fails", 200, js, `{"checks":{"database:rt":[{"status":"pass"},{"status":"fail"}]}}`, critical, "component"},
		{"named list", 200, js, `{"checks":[{"status":"DOWN","name":"queue"}]}`, degraded, "component"},
		{"status worse than components", 200, js, `{"status":"fail","checks":{"queue":[{"status":"warn"}]}}`, critical, "reported_status"},
		{"5xx stays the cause", 503, js, `{"status":"fail"}`, critical, "http_503"},
		{"body worse than the code", 404, js, `{"status":"down"}`, critical, "reported_status"},
		{"unreadable", 200, js, `{"status":`, degraded, "bad_body"},
		{"declared, but HTML", 200, "application/problem+json; charset=utf-8", `<html>`, degraded, "bad_body"},
		{"declared, but empty", 200, js, ``, degraded, "bad_body"},
		{"two documents", 200, js, `{} {}`, degraded, "bad_body"},
		{"too deep", 200, js, strings.Repeat("[", 100) + strings.Repeat("]", 100), degraded, "bad_body"},
		{"no body to read", 204, js, ``, healthy, ""},
		{"JSON under another type", 200, "text/plain", ` {"status":"down"}`, critical, "reported_status"},
		{"unreadable under another type", 200, "text/plain", `{status}`, healthy, ""},
		{"byte order mark", 200, js, "\ufeff{\"status\":\"ok\"}", healthy, ""},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			t.Parallel()
			o := compile(t, &picketv1.HTTPSpec{}).HTTP(answer(tt.code, tt.contentType, tt.body))
			if o.Status != tt.status || o.Reason != tt.reason {
				t.Errorf("got %s %q (%s), want %s %q", Word(o.Status), o.Reason, o.Message, Word(tt.status), tt.reason)
			}
			if (o.Status == healthy) != (o.Message == "") {
				t.Errorf("message %q of status %s", o.Message, Word(o.Status))
			}
		})
	}
}

func TestTruncatedBodyCountsAsFarAsRead(t *testing.T) {
	t.Parallel()
	r := answer(200, "application/json", `{"database":{"status":"down"},"log":["aaaa`)
	r.Truncated = true
	o := compile(t, &picketv1.HTTPSpec{}).HTTP(r)
	if o.Status != critical || o.Reason != ReasonComponent {
		t.Errorf("got %s %q", Word(o.Status), o.Reason)
	}
	r.Body = []byte(`{"log":["aaaa`)
	if o := compile(t, &picketv1.HTTPSpec{}).HTTP(r); o.Status != healthy {
		t.Errorf("got %s %q", Word(o.Status), o.Reason)
	}
}

func TestAssertions(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ok := Response{
		Code: 200, Header: http.Header{"Content-Type": {"application/json"}, "X-Build": {"a", "release-7"}},
		Body: []byte(`{"status":"ok","n":3,"items":[{"s":"a"},{"s":"b"}]}`), Latency: 80 * time.Millisecond,
		CertificateNotAfter: now.Add(10*24*time.Hour + time.Hour), ReceivedAt: now,
	}
	with := func(change func(*Response)) Response { r := ok; change(&r); return r }
	code := func(c int) Response { return with(func(r *Response) { r.Code = c }) }
	json := func(path, equals string) *picketv1.HTTPSpec {
		return &picketv1.HTTPSpec{ExpectJson: []*picketv1.JSONPathAssertion{{Path: path, Equals: equals}}}
	}
	tests := []struct {
		name    string
		spec    *picketv1.HTTPSpec
		r       Response
		status  picketv1.Status
		reason  string
		message string
	}{
		{"status", &picketv1.HTTPSpec{ExpectStatus: []string{"200"}}, ok, healthy, "", ""},
		{"status makes 404 good", &picketv1.HTTPSpec{ExpectStatus: []string{"401", "404"}}, code(404), healthy, "", ""},
		{"status makes 503 good", &picketv1.HTTPSpec{ExpectStatus: []string{"5xx"}}, code(503), healthy, "", ""},
		{"status range", &picketv1.HTTPSpec{ExpectStatus: []string{"200-204"}}, code(205), degraded, "assert_status", "HTTP 205, expected 200-204"},
		{"status 5xx", &picketv1.HTTPSpec{ExpectStatus: []string{"2xx", "404"}}, code(500), critical, "assert_status", "HTTP 500, expected 2xx or 404"},
		{
			"declared status silences the body's words", &picketv1.HTTPSpec{ExpectStatus: []string{"200"}},
			with(func(r *Response) { r.Body = []byte(`{"status":"down"}`) }), healthy, "", "",
		},
		{"header", &picketv1.HTTPSpec{ExpectHeaders: []*picketv1.HeaderAssertion{{Name: "x-build", Matches: "^release-"}}}, ok, healthy, "", ""},
		{
			"header differs", &picketv1.HTTPSpec{ExpectHeaders: []*picketv1.HeaderAssertion{{Name: "x-build", Matches: "^v"}}}, ok,
			critical, "assert_header", `header X-Build is "a", expected to match ^v`,
		},
		{
			"header missing", &picketv1.HTTPSpec{ExpectHeaders: []*picketv1.HeaderAssertion{{Name: "etag"}}}, ok,
			critical, "assert_header", "header Etag is not there",
		},
		{"body", &picketv1.HTTPSpec{ExpectBody: `"n":\d`}, ok, healthy, "", ""},
		{"body differs", &picketv1.HTTPSpec{ExpectBody: "ready"}, ok, critical, "assert_body", "the body does not match ready"},
		{"json", json("$.n", "3.0"), ok, healthy, "", ""},
		{"json exists", json("$.items[0].s", ""), ok, healthy, "", ""},
		{"json missing", json("$.gone", ""), ok, critical, "assert_json", "$.gone is not there"},
		{"json differs", json("$.status", `"up"`), ok, critical, "assert_json", `$.status is "ok", expected "up"`},
		{"json, every node", json("$.items[*].s", `"a"`), ok, critical, "assert_json", `$.items[*].s is "b", expected "a"`},
		{"json filter", json("$.items[?@.s == 'b'].s", `"b"`), ok, healthy, "", ""},
		{
			"json of no JSON", json("$.n", "3"), with(func(r *Response) { r.Body, r.Header = []byte("x"), nil }),
			critical, "assert_json", "the body is not JSON",
		},
		{
			"json too deep", json("$.n", "3"), with(func(r *Response) { r.Body, r.Header = []byte(strings.Repeat("[", 1000)), nil }),
			critical, "assert_json", "the body is nested too deeply",
		},
		{
			"json of a cut body", json("$.n", "3"), with(func(r *Response) { r.Body, r.Truncated = r.Body[:9], true }),
			critical, "assert_json", "the body is longer than the 9 bytes read",
		},
		{"latency", &picketv1.HTTPSpec{MaxLatencyMs: 80}, ok, healthy, "", ""},
		{"latency exceeded", &picketv1.HTTPSpec{MaxLatencyMs: 79}, ok, degraded, "latency", "took 80 ms, expected at most 79 ms"},
		{"certificate", &picketv1.HTTPSpec{MinCertificateDays: 10}, ok, healthy, "", ""},
		{
			"certificate ends", &picketv1.HTTPSpec{MinCertificateDays: 11}, ok,
			degraded, "certificate", "certificate ends in 10 days, expected at least 11",
		},
		{
			"no certificate", &picketv1.HTTPSpec{MinCertificateDays: 1}, with(func(r *Response) { r.CertificateNotAfter = time.Time{} }),
			degraded, "certificate", "no certificate was shown",
		},
		{"the worst is named", &picketv1.HTTPSpec{MaxLatencyMs: 1, ExpectBody: "x{9}"}, ok, critical, "assert_body", "the body does not match x{9}"},
		{
			"of equals the first is named", &picketv1.HTTPSpec{ExpectBody: "x{9}"},
			with(func(r *Response) { r.Body = []byte(`{"status":"down"}`) }), critical, "reported_status", `the body says "down"`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := compile(t, tt.spec).HTTP(tt.r)
			if o.Status != tt.status || o.Reason != tt.reason || o.Message != tt.message {
				t.Errorf("got %s %q %q, want %s %q %q", Word(o.Status), o.Reason, o.Message, Word(tt.status), tt.reason, tt.message)
			}
		})
	}
}

func TestHeadAnswerNeedsNoBody(t *testing.T) {
	t.Parallel()
	if o := compile(t, &picketv1.HTTPSpec{Method: "HEAD"}).HTTP(answer(200, "application/json", "")); o.Status != healthy {
		t.Errorf("got %s %q", Word(o.Status), o.Reason)
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	e, err := CompileTCP(&picketv1.TCPSpec{Expect: `^\+PONG`, MaxLatencyMs: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		answer  string
		latency time.Duration
		status  picketv1.Status
		reason  string
	}{
		{"+PONG\r\n", time.Millisecond, healthy, ""},
		{"-LOADING", time.Millisecond, critical, ReasonAssertAnswer},
		{"+PONG\r\n", time.Second, degraded, ReasonLatency},
	} {
		if o := e.TCP([]byte(tt.answer), tt.latency); o.Status != tt.status || o.Reason != tt.reason {
			t.Errorf("%q: got %s %q", tt.answer, Word(o.Status), o.Reason)
		}
	}
}
