package probe

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newPool returns a pool whose connections are closed with the test.
func newPool(t testing.TB, opt PoolOptions) *Pool {
	pool := NewPool(opt)
	t.Cleanup(pool.Close)
	return pool
}

func compileHTTP(t testing.TB, pool *Pool, spec *picketv1.HTTPSpec) Prober {
	t.Helper()
	p, err := New(&picketv1.Check{Name: "health", Kind: "http", Spec: &picketv1.Check_Http{Http: spec}}, Options{Pool: pool, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compileTCP(t testing.TB, pool *Pool, spec *picketv1.TCPSpec) Prober {
	t.Helper()
	p, err := New(&picketv1.Check{Name: "port", Kind: "tcp", Spec: &picketv1.Check_Tcp{Tcp: spec}}, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// within probes with a deadline that a test which must not wait never reaches.
func within(t testing.TB, p Prober, d time.Duration) *picketv1.ProbeResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return p.Probe(ctx)
}

const (
	patient   = 20 * time.Second
	impatient = 150 * time.Millisecond // for targets that never answer
)

func wantResult(t testing.TB, r *picketv1.ProbeResult, status, reason string) {
	t.Helper()
	if got := health.Word(r.GetStatus()); got != status || r.GetReason() != reason {
		t.Errorf("got %s %q (%s), want %s %q", got, r.GetReason(), r.GetMessage(), status, reason)
	}
	if r.GetStartedAt() == nil || r.GetKind() == "" || r.GetLatencyUs() <= 0 {
		t.Errorf("incomplete: %v", r)
	}
}

// serve answers with handler; it counts no connection of a keep-alive client as
// a reason to wait at the end.
func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// peer is a raw connection of a test's server. What fails on it fails because the
// prober has gone, which is no fault of the test.
type peer struct{ net.Conn }

func (p peer) say(text string) { _, _ = io.WriteString(p, text) }

// hear waits for the first bytes that the prober sends.
func (p peer) hear() { _, _ = io.ReadFull(p, make([]byte, 16)) }

// linger says nothing and closes when the prober has closed.
func (p peer) linger() {
	_, _ = io.Copy(io.Discard, p)
	p.Close()
}

// hangUp closes as an orderly server does: no reset overtakes what was said.
func (p peer) hangUp() {
	_ = p.Conn.(*net.TCPConn).CloseWrite()
	p.linger()
}

func (p peer) reset() {
	_ = p.Conn.(*net.TCPConn).SetLinger(0)
	p.Close()
}

// listen accepts raw connections and hands each to serve, which owns it.
func listen(t testing.TB, serve func(peer)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(peer{conn})
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// eventually waits until the condition holds; what it waits for has no signal of
// its own.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(patient)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("it never holds that %s", what)
		}
	}
}
