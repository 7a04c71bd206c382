package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestFromError(t *testing.T) {
	t.Parallel()
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	tests := []struct {
		name   string
		err    error
		status picketv1.Status
		reason string
	}{
		{"none", nil, healthy, ""},
		{"refused", dial(syscall.ECONNREFUSED), unreachable, "refused"},
		{"reset", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, unreachable, "reset"},
		{"broken pipe", dial(syscall.EPIPE), unreachable, "reset"},
		{"no route", dial(syscall.EHOSTUNREACH), unreachable, "no_route"},
		{"no network", dial(syscall.ENETUNREACH), unreachable, "no_route"},
		{"kernel gave up", dial(syscall.ETIMEDOUT), unreachable, "timeout"},
		{"deadline", fmt.Errorf("probe: %w", context.DeadlineExceeded), unreachable, "timeout"},
		{"i/o timeout", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, unreachable, "timeout"},
		{"no such host", &net.DNSError{Err: "no such host", Name: "x.invalid", IsNotFound: true}, unreachable, "dns"},
		{"dns server fails", &net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}, unreachable, "dns"},
		{"dns hangs", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "i/o timeout", Name: "x", IsTimeout: true}}, unreachable, "dns_timeout"},
		{"alert", &net.OpError{Op: "remote error", Err: tls.AlertError(40)}, unreachable, "tls"},
		{"no TLS spoken", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, unreachable, "tls"},
		{"plain http", http.ErrSchemeMismatch, unreachable, "tls"},
		{"tls text", errors.New("tls: server selected unsupported protocol version 301"), unreachable, "tls"},
		{"expired", verification(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 1 is after 0"}), unreachable, "certificate_expired"},
		{"not yet", verification(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 0 is before 1"}), unreachable, "certificate_invalid"},
		{"name", verification(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "a"}), unreachable, "certificate_invalid"},
		{"authority", verification(x509.UnknownAuthorityError{}), unreachable, "certificate_invalid"},
		{"other verification", verification(errors.New("odd")), unreachable, "certificate_invalid"},
		{"hung up", io.EOF, unreachable, "closed"},
		{"hung up in the middle", io.ErrUnexpectedEOF, unreachable, "closed"},
		{"redirects", &url.Error{Op: "Get", URL: "http://x", Err: ErrTooManyRedirects}, unreachable, "too_many_redirects"},
		{"malformed", errors.New(`net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0"`), unreachable, "protocol"},
		{"malformed header", textproto.ProtocolError("malformed MIME header line: x"), unreachable, "protocol"},
		{"endless header", errors.New("net/http: server response headers exceeded 65536 bytes; aborted"), unreachable, "protocol"},
		{"speaks first", errors.New("readLoopPeekFailLocked: %!w(<nil>)"), unreachable, "protocol"},
		{"odd redirect", errors.New(`unsupported protocol scheme "ftp"`), unreachable, "protocol"},
		{"anything", errors.New("gremlins"), unreachable, "error"},
		{"shutdown", fmt.Errorf("probe: %w", context.Canceled), unknown, "cancelled"},
		{"shutdown while looking up", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "operation was canceled", UnwrapErr: context.Canceled}}, unknown, "cancelled"},
		{"open files", dial(syscall.EMFILE), unknown, "open_files"},
		{"open files of the system", dial(syscall.ENFILE), unknown, "open_files"},
		{"open files in the resolver", &net.DNSError{Err: "dial udp 10.0.0.1:53: socket: too many open files", Name: "x"}, unknown, "open_files"},
		{"local ports", dial(syscall.EADDRNOTAVAIL), unknown, "resources"},
		{"memory", dial(syscall.ENOBUFS), unknown, "resources"},
		{"marked as ours", fmt.Errorf("%w: client certificate: %w", ErrOwnFault, os.ErrNotExist), unknown, "own_fault"},
		{"no authorities", verification(x509.SystemRootsError{}), unknown, "own_fault"},
		{"permission", dial(syscall.EPERM), unknown, "no_permission"},
		{"address", &net.OpError{Op: "dial", Err: &net.AddrError{Err: "invalid port", Addr: "a:b"}}, unknown, "invalid_target"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := FromError(tt.err)
			if o.Status != tt.status || o.Reason != tt.reason {
				t.Errorf("got %s %q (%s), want %s %q", Word(o.Status), o.Reason, o.Message, Word(tt.status), tt.reason)
			}
			if (o.Message == "") != (tt.err == nil) {
				t.Errorf("message %q", o.Message)
			}
		})
	}
}

func TestMessageShowsNoQuery(t *testing.T) {
	t.Parallel()
	o := FromError(&url.Error{Op: "Get", URL: "http://x/?token=hush", Err: errors.New("gremlins\x1b[31m\n" + strings.Repeat("é", 300))})
	if strings.Contains(o.Message, "hush") || strings.ContainsAny(o.Message, "\x1b\n") || len(o.Message) > maxMessage {
		t.Errorf("got %q", o.Message)
	}
}

func verification(err error) error { return &tls.CertificateVerificationError{Err: err} }
