package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"time"
)

// dialContext connects within the deadline of the look that ctx belongs to.
func (p *Pool) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	l, ok := ctx.Value(lookKey{}).(*look)
	if !ok {
		return nil, errors.New("dial outside of a look")
	}
	l.reached(connecting)
	ctx = httptrace.WithClientTrace(l.Context, &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { l.reached(resolving) },
		DNSDone: func(done httptrace.DNSDoneInfo) {
			if done.Err == nil {
				l.reached(connecting)
			}
		},
	})
	conn, err := p.dialer.DialContext(ctx, network, address) //nolint:contextcheck // the look's context, see look
	if err != nil {
		return nil, err
	}
	p.open.Add(1)
	return &countedConn{Conn: conn, open: &p.open}, nil
}

// dialDNS connects the resolver to a name server so that a lookup nobody waits
// for any more ends at once: net's own would hold its sockets until their five
// seconds are over, which name servers that hang make thousands of.
func dialDNS(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // wakes the read; on a closed socket there is none
	})
	return conn, nil
}

// tlsDialer connects and shakes hands itself, because net/http drops what a
// server showed when the handshake fails.
type tlsDialer struct {
	pool   *Pool
	config *tls.Config
}

func (d tlsDialer) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.pool.dialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := ctx.Value(lookKey{}).(*look) // or the dial had failed
	l.reached(handshaking)
	config := d.config
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		config = config.Clone()
		config.ServerName = host
	}
	secure := tls.Client(conn, config)
	err = secure.HandshakeContext(l.Context) //nolint:contextcheck // the look's context, see look
	state := secure.ConnectionState()
	l.sawCertificate(&state)
	if err == nil {
		return secure, nil
	}
	if refused, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		l.sawCertificate(&tls.ConnectionState{PeerCertificates: refused.UnverifiedCertificates})
	}
	conn.Close() // the handshake's error is the one to tell
	return nil, handshakeError{err}
}

// handshakeError marks an error of a TLS handshake, whose own texts do not all
// say so.
type handshakeError struct{ err error }

func (e handshakeError) Error() string { return "tls: handshake: " + e.err.Error() }
func (e handshakeError) Unwrap() error { return e.err }
