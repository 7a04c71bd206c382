package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const currentJSON = `{"cpu_percent": 12.5, "memory_percent": 40.25, "network_rx_bytes": 123456789012, "llm_cost_usd": 0.000017,
	"load": 0.7, "host": "a", "gpu": {"use": 1}}`

func TestCollectsJSON(t *testing.T) {
	t.Parallel()
	var asked http.Header
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Clone()
		body("application/json; charset=utf-8", currentJSON)(w, r)
	})
	s := alone(t, defaults)
	result, batch := collect(t, compile(t, s, scheduled(&picketv1.MetricsSpec{
		Url: server.URL + "/api/v1/metrics/current", Headers: []*picketv1.Header{{Name: "X-Scope", Value: "fleet"}},
	})))
	if result.GetStatus() != picketv1.Status_STATUS_HEALTHY || result.GetHttpStatus() != 200 || result.GetLatencyUs() <= 0 || result.GetKind() != "metrics" {
		t.Errorf("%v", result)
	}
	want := map[string]float64{
		"cpu_percent": 12.5, "memory_percent": 40.25, "network_rx_bytes": 123456789012, "llm_cost_usd": 0.000017, "load": 0.7,
	}
	if diff := cmp.Diff(want, batch.GetValues()); diff != "" {
		t.Error(diff)
	}
	if batch.GetExtra() != `{"host":"a","gpu":{"use":1}}` {
		t.Error(batch.GetExtra())
	}
	for name, want := range map[string]string{
		"X-Scope": "fleet", "User-Agent": "picket/test", "Accept-Encoding": "gzip",
		"Accept": "application/json,text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
	} {
		if got := asked.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// What could be read counts, and what could not is said by its name.
func TestCollectsAroundABadFigure(t *testing.T) {
	t.Parallel()
	server := serve(t, body("application/json", `{"cpu_percent": "12.5", "active_users": 3}`))
	result, batch := collect(t, compile(t, alone(t, defaults), scheduled(&picketv1.MetricsSpec{Url: server.URL})))
	if result.GetStatus() != picketv1.Status_STATUS_DEGRADED || result.GetReason() != "bad_metrics" || result.GetMessage() != `cpu_percent is "12.5", expected a number` {
		t.Errorf("%v", result)
	}
	if diff := cmp.Diff(map[string]float64{"active_users": 3}, batch.GetValues()); diff != "" {
		t.Error(diff)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	code := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"cpu_percent": 1}`, code) }
	}
	exposition := body("text/plain; version=0.0.4", "requests_total{code=\"500\"} 7\nusers 1.5\n")
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		spec   *picketv1.MetricsSpec
		want   string // status, reason: message
	}{
		"401": {code(401), &picketv1.MetricsSpec{}, "degraded http_401: HTTP 401 Unauthorized"},
		"503": {code(503), &picketv1.MetricsSpec{}, "degraded http_503: HTTP 503 Service Unavailable"},
		"101": {
			func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					panic(err)
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
				_, _ = io.Copy(io.Discard, conn) // until the collector hangs up
				conn.Close()
			},
			&picketv1.MetricsSpec{}, "degraded http_101: HTTP 101 Switching Protocols",
		},
		"302": {
			func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
			&picketv1.MetricsSpec{}, "degraded http_302: HTTP 302 Found",
		},
		"204":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, &picketv1.MetricsSpec{}, "degraded no_figures: HTTP 204 No Content"},
		"html":  {body("text/html", "<!doctype html><p>hello"), &picketv1.MetricsSpec{}, "degraded bad_metrics: the answer is unreadable: line 1: it does not begin with the name of a metric"},
		"empty": {body("application/json", ""), &picketv1.MetricsSpec{}, "degraded bad_metrics: the answer is unreadable: it is no JSON object"},
		"json of nothing": {
			body("application/json", "{}"), &picketv1.MetricsSpec{Format: "json"}, "degraded no_figures: the answer holds no figure",
		},
		"cut json":                {body("application/json", `{"cpu_percent": 1`), &picketv1.MetricsSpec{}, "degraded bad_metrics: the answer is unreadable: it is no JSON from byte 17 on"},
		"json that names no type": {body("text/plain; charset=utf-8", currentJSON), &picketv1.MetricsSpec{}, "healthy : "},
		"unknown to all mappings": {exposition, &picketv1.MetricsSpec{}, "degraded no_figures: no mapping knows what the answer shows: name a mapping or rules"},
		"unknown to its mapping":  {exposition, &picketv1.MetricsSpec{Mapping: "node_exporter"}, "degraded no_figures: no rule made a figure of the answer"},
		"first of a rate": {
			exposition, &picketv1.MetricsSpec{Rules: []*picketv1.MetricRule{{Name: "errors", Series: "requests_total", Rate: true}}}, "healthy : ",
		},
		"a figure that it cannot be": {
			exposition, &picketv1.MetricsSpec{Rules: []*picketv1.MetricRule{{Name: "active_users", Series: "users"}}},
			"degraded bad_metrics: the rules make active_users 1.5, which it cannot be",
		},
		"too many series": {
			body("text/plain; version=0.0.4", strings.Repeat("users 1\n", 101)),
			&picketv1.MetricsSpec{Rules: []*picketv1.MetricRule{{Name: "u", Series: "users"}}},
			"degraded too_many_series: too many series: more than 100 are needed",
		},
		"too large":        {body("application/json", `{"a":"`+strings.Repeat("x", 300_000)+`"}`), &picketv1.MetricsSpec{}, "degraded too_large: the answer is longer than 200000 bytes"},
		"openmetrics, cut": {body("application/openmetrics-text; version=1.0.0", "users 1\n"), &picketv1.MetricsSpec{}, "degraded bad_metrics: the answer is unreadable: it ends without # EOF"},
		"brotli": {
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "br")
				body("application/json", currentJSON)(w, r)
			},
			&picketv1.MetricsSpec{}, `degraded protocol: malformed answer: content encoding "br" was not asked for`,
		},
		"no gzip": {
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				body("application/json", currentJSON)(w, r)
			},
			&picketv1.MetricsSpec{}, `degraded protocol: malformed answer: gzip: invalid header`,
		},
		"half an answer": {
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "1000")
				body("application/json", `{"a": 1`)(w, r)
			},
			&picketv1.MetricsSpec{}, "degraded closed: connection closed before the answer was complete",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := alone(t, func(c *Config) { c.BodyLimit, c.SeriesLimit = 200_000, 100 })
			test.spec.Url = serve(t, test.handle).URL
			result, _ := collect(t, compile(t, s, scheduled(test.spec)))
			got := fmt.Sprintf("%s %s: %s", health.Word(result.GetStatus()), result.GetReason(), result.GetMessage())
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if !allRoom(s) {
				t.Error("room for long answers was not given back")
			}
		})
	}
}

func TestServersThatAreAway(t *testing.T) {
	t.Parallel()
	s := alone(t, defaults)
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	result, _ := collect(t, compile(t, s, scheduled(&picketv1.MetricsSpec{Url: "http://" + refused.Addr().String()})))
	if result.GetStatus() != picketv1.Status_STATUS_DEGRADED || result.GetReason() != "refused" {
		t.Errorf("%v", result)
	}

	hanging := make(chan struct{})
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"cpu_percent"`))
		_ = http.NewResponseController(w).Flush()
		<-hanging
	})
	t.Cleanup(func() { close(hanging) })
	runner := compile(t, s, scheduled(&picketv1.MetricsSpec{Url: server.URL}))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if result := runner.Run(ctx).Result; result.GetStatus() != picketv1.Status_STATUS_DEGRADED || result.GetReason() != "timeout" {
		t.Errorf("%v", result)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if result := runner.Run(ctx).Result; result.GetStatus() != picketv1.Status_STATUS_UNKNOWN || result.GetReason() != "cancelled" {
		t.Errorf("%v", result)
	}
}

func zipped(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGzip(t *testing.T) {
	t.Parallel()
	long := []byte(`{"cpu_percent": 1, "pad": "` + strings.Repeat("x", 60_000) + `", "white": 1` + strings.Repeat(" ", 60_000) + `}`)
	bomb := zipped(t, append([]byte(`{"a": 1`), bytes.Repeat([]byte(" "), 64<<20)...))
	answer := zipped(t, long)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/bomb":
			_, _ = w.Write(bomb) // given up underway
		case "/cut":
			_, _ = w.Write(answer[:len(answer)/2])
		default:
			_, _ = w.Write(answer)
		}
	})
	s := alone(t, func(c *Config) { c.BodyLimit = 1 << 20 })
	for path, want := range map[string]string{"/": "healthy ", "/bomb": "degraded too_large", "/cut": "degraded closed"} {
		for range 3 { // readers are used again, after a fault too
			result, batch := collect(t, compile(t, s, scheduled(&picketv1.MetricsSpec{Url: server.URL + path})))
			if got := health.Word(result.GetStatus()) + " " + result.GetReason(); got != want {
				t.Errorf("%s: %s %s, want %s", path, got, result.GetMessage(), want)
			}
			if path == "/" && (batch.GetValues()["cpu_percent"] != 1 || batch.GetValues()["white"] != 1) {
				t.Errorf("%v", batch.GetValues())
			}
		}
	}
	if !allRoom(s) {
		t.Error("room for long answers was not given back")
	}
}

// Many long answers at a time wait for room, and who gets none in time says that the fault is ours.
func TestLongAnswersWaitForRoom(t *testing.T) {
	t.Parallel()
	server := serve(t, body("application/json", `{"a": 1`+strings.Repeat(" ", 900_000)+`}`))
	s := alone(t, func(c *Config) { c.BodyLimit, c.BodyMemory = 1<<20, 1<<20 })
	runner := compile(t, s, scheduled(&picketv1.MetricsSpec{Url: server.URL}))
	if !s.fetcher.long.TryAcquire(1) {
		t.Fatal("no room")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if result := runner.Run(ctx).Result; result.GetStatus() != picketv1.Status_STATUS_UNKNOWN || result.GetReason() != "own_fault" {
		t.Errorf("%v", result)
	}
	s.fetcher.long.Release(1)
	if result, _ := collect(t, runner); result.GetStatus() != picketv1.Status_STATUS_HEALTHY {
		t.Errorf("%v", result)
	}
}

// allRoom takes all that there is for long answers, if nobody has any.
func allRoom(s *Service) bool {
	medium := max(mediumBody, s.cfg.BodyMemory/4)
	return s.fetcher.medium.TryAcquire(int64(medium)) && s.fetcher.long.TryAcquire(int64(max(s.cfg.BodyLimit, s.cfg.BodyMemory-s.cfg.BodyMemory/4)))
}

// Servers whose answers never end take the room for very long ones, and none from those whose answers are as long as
// exporters' usually are.
func TestEndlessAnswersKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := alone(t, defaults)
	hostile, over := context.WithTimeout(t.Context(), time.Minute)
	const servers = 100 // more than there is room for
	reading := make(chan struct{}, servers)
	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 2*mediumBody)) // the client is gone when it fails
		w.(http.Flusher).Flush()
		reading <- struct{}{}
		<-r.Context().Done()
	})
	var asking sync.WaitGroup
	for range servers {
		runner := compile(t, s, scheduled(&picketv1.MetricsSpec{Url: endless.URL}))
		asking.Go(func() { runner.Run(hostile) })
	}
	for range servers {
		<-reading
	}
	usual := serve(t, body("application/json", `{"cpu_percent": 1`+strings.Repeat(" ", 200_000)+`}`))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	result := compile(t, s, scheduled(&picketv1.MetricsSpec{Url: usual.URL})).Run(ctx).Result
	over()
	asking.Wait()
	if result.GetStatus() != picketv1.Status_STATUS_HEALTHY {
		t.Errorf("%v", result)
	}
	if !allRoom(s) || !s.fetcher.waiting.TryAcquire(16) {
		t.Error("room was not given back")
	}
}

// A real server of Prometheus' own client: it answers in the plain dialect where it may choose, and in OpenMetrics it
// says the same.
func TestCollectsExpositions(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total"}, []string{"code"})
	registry.MustRegister(requests)
	requests.WithLabelValues("200").Add(90)
	requests.WithLabelValues("500").(prometheus.ExemplarAdder).AddWithExemplar(10, prometheus.Labels{"trace_id": "x"})
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, EnableOpenMetricsTextCreatedSamples: true})
	var media atomic.Value
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/open" {
			r.Header.Set("Accept", "application/openmetrics-text")
		}
		handler.ServeHTTP(w, r)
		media.Store(w.Header().Get("Content-Type") + " " + w.Header().Get("Content-Encoding"))
	})
	spec := func(path string) *picketv1.MetricsSpec {
		return &picketv1.MetricsSpec{Url: server.URL + path, Rules: []*picketv1.MetricRule{
			{Name: "requests", Series: "requests_total"},
			{Name: "errors", Series: `requests_total{code=~"5.."}`},
			{Name: "error_ratio", Series: `requests_total{code=~"5.."}`, DivideBy: `requests_total`, Rate: true},
		}}
	}
	for path, wantMedia := range map[string]string{
		"/plain": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores gzip",
		"/open":  "application/openmetrics-text; version=0.0.1; charset=utf-8; escaping=underscores gzip",
	} {
		result, batch := collect(t, compile(t, alone(t, defaults), scheduled(spec(path))))
		if result.GetStatus() != picketv1.Status_STATUS_HEALTHY {
			t.Errorf("%s: %v", path, result)
		}
		if diff := cmp.Diff(map[string]float64{"requests": 100, "errors": 10}, batch.GetValues()); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		if media.Load() != wantMedia {
			t.Errorf("%s: answered as %s, want %s", path, media.Load(), wantMedia)
		}
	}
}

func sealed(t *testing.T, s *Service, token, previous string, until time.Time) *picketv1.Credential {
	t.Helper()
	field := catalog.SealedField{Org: "default", Server: "app", Field: "api_token"}
	c := &picketv1.Credential{Sealed: s.secrets.Keyring.Seal(field, token)}
	if previous != "" {
		c.Previous, c.PreviousUntil = s.secrets.Keyring.Seal(field, previous), timestamppb.New(until)
	}
	return c
}

func TestPresentsTheServersToken(t *testing.T) {
	t.Parallel()
	var asked []string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Authorization"))
		if r.Header.Get("Authorization") != "Bearer old" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		body("application/json", currentJSON)(w, r)
	})
	keyring, err := catalog.NewKeyring(bytes.Repeat([]byte{7}, catalog.SealKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	s := alone(t, defaults)
	s.secrets.Keyring = keyring
	check := scheduled(&picketv1.MetricsSpec{Url: server.URL, ServerToken: true})
	for name, test := range map[string]struct {
		credential *picketv1.Credential
		reason     string
		asked      []string
	}{
		"the old one":            {sealed(t, s, "old", "", time.Time{}), "", []string{"Bearer old"}},
		"the new one is refused": {sealed(t, s, "new", "old", time.Now().Add(time.Hour)), "", []string{"Bearer new", "Bearer old"}},
		"the old one has ended":  {sealed(t, s, "new", "old", time.Now().Add(-time.Second)), "http_401", []string{"Bearer new"}},
		"none is wanted":         {nil, "http_401", []string{""}},
		"another key's":          {&picketv1.Credential{Sealed: "v1:00000000:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA"}, "credential", nil},
	} {
		asked = nil
		check.Credential = test.credential
		result, _ := collect(t, compile(t, s, check))
		if result.GetReason() != test.reason {
			t.Errorf("%s: %v", name, result)
		}
		if diff := cmp.Diff(test.asked, asked); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if test.reason == "credential" && result.GetStatus() != picketv1.Status_STATUS_UNKNOWN {
			t.Errorf("%s: a fault of ours is %v", name, result)
		}
	}
}

func TestTLSOptions(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(body("application/json", currentJSON))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	s := alone(t, defaults)
	for name, test := range map[string]struct {
		options *picketv1.TLSOptions
		want    string
	}{
		"none":     {nil, "degraded certificate_invalid"},
		"ca":       {&picketv1.TLSOptions{CaFile: ca}, "healthy "},
		"insecure": {&picketv1.TLSOptions{InsecureSkipVerify: true}, "healthy "},
		"name":     {&picketv1.TLSOptions{CaFile: ca, ServerName: "other.test"}, "degraded certificate_invalid"},
	} {
		result, _ := collect(t, compile(t, s, scheduled(&picketv1.MetricsSpec{Url: server.URL, Tls: test.options})))
		if got := health.Word(result.GetStatus()) + " " + result.GetReason(); got != test.want {
			t.Errorf("%s: %s %s, want %s", name, got, result.GetMessage(), test.want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	s := alone(t, defaults)
	for name, spec := range map[string]*picketv1.MetricsSpec{
		"no spec":      nil,
		"no host":      {Url: "http:///metrics"},
		"a password":   {Url: "http://a:b@c/metrics"},
		"bad rule":     {Url: "http://a", Rules: []*picketv1.MetricRule{{Name: "a", Series: "{"}}},
		"no mapping":   {Url: "http://a", Mapping: "none"},
		"no secret":    {Url: "http://a", Headers: []*picketv1.Header{{Name: "X", Value: "secret:env:PICKET_SECRET_NOT_THERE"}}},
		"no authority": {Url: "https://a", Tls: &picketv1.TLSOptions{CaFile: "/none"}},
	} {
		check := scheduled(spec)
		if spec == nil {
			check.Check.Spec = nil
		}
		if _, err := s.build(check); err == nil || strings.Contains(err.Error(), "a:b") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
