package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestHTTPSendsWhatTheSpecSays(t *testing.T) {
	t.Parallel()
	got := make(chan string, 2)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- fmt.Sprintf("%s %s %s ua=%s key=%v len=%d body=%s", r.Method, r.Host, r.RequestURI, r.UserAgent(), r.Header["X-Key"], r.ContentLength, body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"status":"ok","counters":{"n":7},"redis":{"status":"ok"}}`)
	})
	p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{
		Url: server.URL + "/health?a=b", Method: "post", Body: "ping",
		Headers: []*picketv1.Header{{Name: "host", Value: "checkout.example"}, {Name: "x-key", Value: "1"}, {Name: "x-key", Value: "2"}},
	})
	for range 2 { // the body is sent each time
		r := within(t, p, patient)
		wantResult(t, r, "healthy", "")
		if r.GetHttpStatus() != 200 || r.GetCounters()["n"] != 7 || len(r.GetComponents()) != 1 || r.GetConnectionReused() {
			t.Errorf("got %v", r)
		}
		if got, want := <-got, "POST checkout.example /health?a=b ua=picket/1.2.3 key=[1 2] len=4 body=ping"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestHTTPConnections(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		spec   *picketv1.HTTPSpec
		pool   PoolOptions
		dials  int  // for four looks
		reused bool // the fourth
	}{
		{"kept", &picketv1.HTTPSpec{}, PoolOptions{}, 1, true},
		{"kept, redirects followed", &picketv1.HTTPSpec{FollowRedirects: true}, PoolOptions{}, 1, true},
		{"fresh", &picketv1.HTTPSpec{Connection: "fresh"}, PoolOptions{}, 4, false},
		{"not repeatable", &picketv1.HTTPSpec{Method: "POST"}, PoolOptions{}, 4, false},
		{"too old", &picketv1.HTTPSpec{}, PoolOptions{MaxConnectionAge: time.Nanosecond}, 2, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, tt.pool)
			var dialled sync.Map
			server := serve(t, func(_ http.ResponseWriter, r *http.Request) { dialled.Store(r.RemoteAddr, true) })
			tt.spec.Url = server.URL
			p := compileHTTP(t, pool, tt.spec)
			var last *picketv1.ProbeResult
			for range 4 {
				last = within(t, p, patient)
				wantResult(t, last, "healthy", "")
			}
			dials := 0
			dialled.Range(func(any, any) bool { dials++; return true })
			if dials != tt.dials || last.GetConnectionReused() != tt.reused {
				t.Errorf("%d connections, last reused: %v; want %d, %v", dials, last.GetConnectionReused(), tt.dials, tt.reused)
			}
		})
	}
}

func TestKeptConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	pool := newPool(t, PoolOptions{MaxConnections: 2})
	var probers []Prober
	for range 5 {
		server := serve(t, func(http.ResponseWriter, *http.Request) {})
		probers = append(probers, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: server.URL}))
	}
	for round := range 3 {
		reused := 0
		for _, p := range probers {
			r := within(t, p, patient)
			wantResult(t, r, "healthy", "")
			if r.GetConnectionReused() {
				reused++
			}
		}
		// The first two keep theirs; the others do not take them away.
		if want := min(round, 1) * 2; reused != want {
			t.Errorf("round %d: %d reused, want %d", round, reused, want)
		}
	}
	eventually(t, "two connections are open", func() bool { return pool.Open() == 2 })
}

func TestStaleConnectionIsNoOutage(t *testing.T) {
	t.Parallel()
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{Url: server.URL})
	for range 20 {
		wantResult(t, within(t, p, patient), "healthy", "")
		server.CloseClientConnections() // as a restart of the target does
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	var otherKey atomic.Value
	var hops atomic.Int64
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		otherKey.Store(fmt.Sprintf("%v %q", r.Header["X-Key"], r.Referer()))
	})
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/loop":
			hops.Add(1)
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/once":
			http.Redirect(w, r, "/there", http.StatusMovedPermanently)
		case "/away":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/ftp":
			http.Redirect(w, r, "ftp://127.0.0.1/x", http.StatusFound)
		case "/there":
			if r.Header.Get("X-Key") == "" {
				w.WriteHeader(http.StatusForbidden)
			}
		}
	})
	pool := newPool(t, PoolOptions{})
	look := func(path string, follow bool) *picketv1.ProbeResult {
		return within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{
			Url: server.URL + path, FollowRedirects: follow, Headers: []*picketv1.Header{{Name: "x-key", Value: "secret"}},
		}), patient)
	}
	wantResult(t, look("/once", false), "degraded", "http_301")
	wantResult(t, look("/once", true), "healthy", "")
	wantResult(t, look("/ftp", true), "unreachable", "protocol")
	loop := look("/loop", true)
	wantResult(t, loop, "unreachable", "too_many_redirects")
	if loop.GetHttpStatus() != 302 || hops.Load() != maxRedirects+1 {
		t.Errorf("after %d requests: %v", hops.Load(), loop)
	}
	wantResult(t, look("/away", true), "healthy", "")
	if got := otherKey.Load(); got != `[] ""` {
		t.Errorf("another host was given the declared header: %v", got)
	}
}

func TestHTTPFailures(t *testing.T) {
	t.Parallel()
	raw := func(answer string) func(peer) {
		return func(c peer) {
			c.hear()
			c.say(answer)
			c.hangUp()
		}
	}
	// hold answers and then keeps the connection open until the peer closes it.
	hold := func(answer string) func(peer) {
		return func(c peer) {
			c.hear()
			c.say(answer)
			c.linger()
		}
	}
	tests := []struct {
		name    string
		serve   func(peer)
		timeout time.Duration
		status  string
		reason  string
		message string
		code    int32
	}{
		{"silence", hold(""), impatient, "unreachable", "timeout", "timed out waiting for an answer", 0},
		{"slow headers", drip("HTTP/1.1 200 OK\r\nX: "), impatient, "unreachable", "timeout", "timed out waiting for an answer", 0},
		{"slow body", drip("HTTP/1.1 200 OK\r\n\r\n"), impatient, "unreachable", "timeout", "timed out reading the answer", 200},
		{"hangs up at once", func(c peer) {
			c.hear()
			c.hangUp()
		}, patient, "unreachable", "closed", "", 0},
		{"hangs up in the body", raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), patient, "unreachable", "closed", "", 200},
		{"reset in the body", func(c peer) {
			c.hear()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
			c.reset()
		}, patient, "unreachable", "reset", "", -1},
		{"not HTTP", raw("SSH-2.0-OpenSSH_9.6\r\n"), patient, "unreachable", "protocol", "", 0},
		{"broken chunks", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), patient, "unreachable", "protocol", "", 200},
		{"switches protocols unasked", hold("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), patient, "degraded", "http_101", "", 101},
		{"endless header", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), patient, "unreachable", "protocol", "", 0},
		{"speaks TLS", raw("\x15\x03\x01\x00\x02\x02\x46"), patient, "unreachable", "protocol", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address := listen(t, tt.serve)
			for _, connection := range []string{"keep-alive", "fresh"} {
				p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{Url: "http://" + address, Connection: connection})
				r := within(t, p, tt.timeout)
				if tt.code < 0 { // the reset may overtake the headers
					if r.GetReason() == "reset" {
						tt.code = r.GetHttpStatus()
					}
				}
				wantResult(t, r, tt.status, tt.reason)
				if r.GetHttpStatus() != tt.code {
					t.Errorf("code %d, want %d", r.GetHttpStatus(), tt.code)
				}
				if tt.message != "" && r.GetMessage() != tt.message {
					t.Errorf("message %q, want %q", r.GetMessage(), tt.message)
				}
			}
		})
	}
}

// drip reads, sends start and then a byte now and then, for as long as anybody reads.
func drip(start string) func(peer) {
	return func(c peer) {
		defer c.Close()
		c.hear() // an answer before the question is another fault
		if _, err := io.WriteString(c, start); err != nil {
			return
		}
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for range ticker.C {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	}
}

func TestRefusedAndCancelled(t *testing.T) {
	t.Parallel()
	pool := newPool(t, PoolOptions{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	wantResult(t, within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: "http://" + address}), patient), "unreachable", "refused")

	// A black hole: the handshake with a full accept queue never ends.
	p := compileHTTP(t, pool, &picketv1.HTTPSpec{Url: "http://" + listen(t, func(c peer) { c.linger() })})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan *picketv1.ProbeResult)
	go func() { result <- p.Probe(ctx) }()
	eventually(t, "a connection is open", func() bool { return pool.Open() == 1 })
	cancel()
	wantResult(t, <-result, "unknown", "cancelled")
	eventually(t, "no connection is open", func() bool { return pool.Open() == 0 })
}

func TestDNS(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // takes queries, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	lookups := make(chan context.Context, 100)
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		lookups <- ctx
		return dialDNS(ctx, "udp", silent.LocalAddr().String())
	}}
	pool := newPool(t, PoolOptions{Resolver: resolver})
	r := within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: "http://checkout.example/"}), impatient)
	wantResult(t, r, "unreachable", "dns_timeout")
	// The lookup ends with the look, and not when the resolver gives up after 5 s.
	select {
	case <-(<-lookups).Done():
	case <-time.After(2 * time.Second):
		t.Error("the lookup goes on although nobody waits for it")
	}
	r = within(t, compileTCP(t, pool, &picketv1.TCPSpec{Address: "billing.example:80"}), impatient)
	wantResult(t, r, "unreachable", "dns_timeout")
	// Names that cannot be are refused without asking anybody.
	r = within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: "http://a..b/"}), patient)
	wantResult(t, r, "unreachable", "dns")
}

func TestNewNamesTheField(t *testing.T) {
	t.Parallel()
	pool := newPool(t, PoolOptions{})
	httpCheck := func(spec *picketv1.HTTPSpec) *picketv1.Check {
		return &picketv1.Check{Kind: "http", Spec: &picketv1.Check_Http{Http: spec}}
	}
	tcpCheck := func(spec *picketv1.TCPSpec) *picketv1.Check {
		return &picketv1.Check{Kind: "tcp", Spec: &picketv1.Check_Tcp{Tcp: spec}}
	}
	for want, check := range map[string]*picketv1.Check{
		`unknown kind "icmp", known are http, tcp`: {Kind: "icmp"},
		"http: is missing":                         {Kind: "http"},
		"tcp: is missing":                          {Kind: "tcp"},
		"url: neither http nor https":              httpCheck(&picketv1.HTTPSpec{Url: "ftp://x"}),
		"url: without a host":                      httpCheck(&picketv1.HTTPSpec{Url: "http://:80/"}),
		"url: with user information":               httpCheck(&picketv1.HTTPSpec{Url: "http://a:hush@x/"}),
		"url: cannot be parsed":                    httpCheck(&picketv1.HTTPSpec{Url: "http://a:hush@x:y/"}),
		"method: ":                                 httpCheck(&picketv1.HTTPSpec{Url: "http://x", Method: "GE T"}),
		"headers: not a header: a b":               httpCheck(&picketv1.HTTPSpec{Url: "http://x", Headers: []*picketv1.Header{{Name: "a b"}}}),
		"headers: not a header: a":                 httpCheck(&picketv1.HTTPSpec{Url: "http://x", Headers: []*picketv1.Header{{Name: "a", Value: "x\r\ny: z"}}}),
		"connection: neither":                      httpCheck(&picketv1.HTTPSpec{Url: "http://x", Connection: "close"}),
		"expect_body: ":                            httpCheck(&picketv1.HTTPSpec{Url: "http://x", ExpectBody: "("}),
		"tls.ca_file: ":                            httpCheck(&picketv1.HTTPSpec{Url: "http://x", Tls: &picketv1.TLSOptions{CaFile: "/nowhere"}}),
		"tls.cert_file: cert_file and":             httpCheck(&picketv1.HTTPSpec{Url: "http://x", Tls: &picketv1.TLSOptions{CertFile: "/nowhere"}}),
		"tls.cert_file: open /nowhere":             tcpCheck(&picketv1.TCPSpec{Address: "x:1", UseTls: true, Tls: &picketv1.TLSOptions{CertFile: "/nowhere", KeyFile: "/nowhere"}}),
		"address: not host:port":                   tcpCheck(&picketv1.TCPSpec{Address: "x"}),
		"address: port is not between":             tcpCheck(&picketv1.TCPSpec{Address: "x:http"}),
		"address: port is not between ":            tcpCheck(&picketv1.TCPSpec{Address: "x:0"}),
		"expect: ":                                 tcpCheck(&picketv1.TCPSpec{Address: "x:1", Expect: "("}),
	} {
		_, err := New(check, Options{Pool: pool})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("shows a secret: %v", err)
		}
	}
	if _, err := New(httpCheck(&picketv1.HTTPSpec{Url: "http://x"}), Options{}); err == nil {
		t.Error("no pool: want an error")
	}
}

func TestAssertionsReachTheVerdict(t *testing.T) {
	t.Parallel()
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	pool := newPool(t, PoolOptions{})
	wantResult(t, within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: server.URL, ExpectStatus: []string{"418"}, ExpectBody: "stout$"}), patient), "healthy", "")
	wantResult(t, within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: server.URL, ExpectStatus: []string{"418"}, ExpectBody: "tall"}), patient), "critical", health.ReasonAssertBody)
}

// The oneof of the wire contract and the table of kinds say the same, but for
// what the collector runs.
func TestEveryKindOfTheContractCanBeProbed(t *testing.T) {
	t.Parallel()
	var declared []string
	fields := (&picketv1.Check{}).ProtoReflect().Descriptor().Oneofs().ByName("spec").Fields()
	for i := range fields.Len() {
		if kind := string(fields.Get(i).Name()); kind != "metrics" {
			declared = append(declared, kind)
		}
	}
	slices.Sort(declared)
	if !slices.Equal(declared, Kinds()) {
		t.Errorf("the contract has %q, the table %q", declared, Kinds())
	}
}
