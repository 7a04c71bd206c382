package probe

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"os"
	"time"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
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

// tlsKey is what makes two sets of TLS options the same, contents of the
// authorities' file included.
type tlsKey struct {
	insecure          bool
	serverName, ca    string
	certFile, keyFile string
	caSum             [sha256.Size]byte
}

// tlsConfig reads TLS options; nil is all defaults.
func tlsConfig(opt *picketv1.TLSOptions) (*tls.Config, tlsKey, error) {
	key := tlsKey{
		insecure: opt.GetInsecureSkipVerify(), serverName: opt.GetServerName(),
		ca: opt.GetCaFile(), certFile: opt.GetCertFile(), keyFile: opt.GetKeyFile(),
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         key.serverName,
		InsecureSkipVerify: key.insecure, //nolint:gosec // the user's declared wish for this check
	}
	if key.ca != "" {
		pem, err := os.ReadFile(key.ca)
		if err != nil {
			return nil, key, fieldError("tls.ca_file", err)
		}
		key.caSum = sha256.Sum256(pem)
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, key, fieldError("tls.ca_file", errors.New("holds no certificate"))
		}
	}
	if (key.certFile == "") != (key.keyFile == "") {
		return nil, key, fieldError("tls.cert_file", errors.New("cert_file and key_file go together"))
	}
	if key.certFile != "" {
		if _, err := tls.LoadX509KeyPair(key.certFile, key.keyFile); err != nil {
			return nil, key, fieldError("tls.cert_file", err)
		}
		// Read for every handshake: client certificates are renewed in place, and
		// handshakes are rare where connections are kept.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(key.certFile, key.keyFile)
			if err != nil {
				return nil, fmt.Errorf("%w: client certificate: %w", health.ErrOwnFault, err)
			}
			return &pair, nil
		}
	}
	return config, key, nil
}
