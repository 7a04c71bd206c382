package probe

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// stage is how far a look has come.
type stage int32

const (
	connecting stage = iota
	resolving
	handshaking
	waiting // connected, for the first byte of an answer
	reading
)

func (s stage) String() string {
	switch s {
	case resolving:
		return "looking up the name"
	case connecting:
		return "connecting"
	case handshaking:
		return "in the TLS handshake"
	case waiting:
		return "waiting for an answer"
	default:
		return "reading the answer"
	}
}

// look is the context of one look and what is learned underway. It is a context
// because net/http carries a request's values, but neither deadline nor
// cancellation, to the goroutine that dials for it.
type look struct {
	context.Context
	trace httptrace.ClientTrace

	// Written by a dialling goroutine, which may outlive the look.
	stage    atomic.Int32
	notAfter atomic.Int64 // Unix seconds of the certificate's end, 0: none seen

	// Written by the looking goroutine.
	conn   net.Conn
	reused bool
}

type lookKey struct{}

func newLook(ctx context.Context) *look { return &look{Context: ctx} }

// traced returns the context for a request, which tells l which connection it
// was given.
func (l *look) traced() context.Context {
	l.trace.GotConn = l.gotConn
	return httptrace.WithClientTrace(l, &l.trace)
}

// Value makes the look itself known to the dialler.
func (l *look) Value(key any) any {
	if key == (lookKey{}) {
		return l
	}
	return l.Context.Value(key)
}

func (l *look) gotConn(info httptrace.GotConnInfo) {
	l.conn, l.reused = info.Conn, info.Reused
	l.reached(waiting)
}

func (l *look) reached(s stage) { l.stage.Store(int32(s)) }

func (l *look) at() stage { return stage(l.stage.Load()) }

func (l *look) sawCertificate(state *tls.ConnectionState) {
	if state != nil && len(state.PeerCertificates) > 0 {
		l.notAfter.Store(state.PeerCertificates[0].NotAfter.Unix())
	}
}

// certificateNotAfter is zero when no certificate was seen. A reused connection
// has shown its own when it was made.
func (l *look) certificateNotAfter() time.Time {
	if l.notAfter.Load() == 0 {
		if conn, ok := l.conn.(*tls.Conn); ok {
			state := conn.ConnectionState()
			l.sawCertificate(&state)
		}
	}
	if unix := l.notAfter.Load(); unix != 0 {
		return time.Unix(unix, 0).UTC()
	}
	return time.Time{}
}
