package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// ErrTooManyRedirects is what a prober's redirect policy returns when a chain of
// redirects does not end.
var ErrTooManyRedirects = errors.New("too many redirects")

// ErrOwnFault marks an error whose cause is ourselves where its own type does not
// tell, such as a client certificate that cannot be read.
var ErrOwnFault = errors.New("own fault")

// FromError says what an error of connecting, sending or receiving means:
// unreachable when the cause is the target or the way to it, unknown when it is
// ourselves (no file descriptor, no permission, cancelled). An error that is
// none of those known is unreachable with ReasonError. A nil error is healthy.
func FromError(err error) Outcome {
	if err == nil {
		return Outcome{Status: picketv1.Status_STATUS_HEALTHY}
	}
	if reason, message := ownFault(err); reason != "" {
		return Outcome{Status: picketv1.Status_STATUS_UNKNOWN, Reason: reason, Message: message}
	}
	reason, message := targetFault(err)
	return Outcome{Status: picketv1.Status_STATUS_UNREACHABLE, Reason: reason, Message: clean(message, maxMessage)}
}

// ownFault returns an empty reason when the fault is not ours.
func ownFault(err error) (reason, message string) {
	// The resolver keeps only the text of what went wrong on its sockets.
	if dns, ok := errors.AsType[*net.DNSError](err); ok && strings.HasSuffix(dns.Err, syscall.EMFILE.Error()) {
		return ReasonOpenFiles, "no file descriptor left"
	}
	switch {
	case errors.Is(err, ErrOwnFault):
		return ReasonOwnFault, clean(bare(err), maxMessage)
	case errors.Is(err, context.Canceled):
		return ReasonCancelled, "cancelled before there was an answer"
	case isErrno(err, syscall.EMFILE, syscall.ENFILE):
		return ReasonOpenFiles, "no file descriptor left"
	case isErrno(err, syscall.ENOBUFS, syscall.ENOMEM):
		return ReasonResources, "no memory for another connection"
	case isErrno(err, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE):
		return ReasonResources, "no local port left"
	case isErrno(err, syscall.EACCES, syscall.EPERM):
		return ReasonNoPermission, "not permitted to connect"
	}
	if _, ok := errors.AsType[x509.SystemRootsError](err); ok {
		return ReasonOwnFault, "the system's certificate authorities cannot be read"
	}
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return ReasonInvalidTarget, "the address cannot be dialled"
	}
	return "", ""
}

func targetFault(err error) (reason, message string) {
	if reason, message = certificateFault(err); reason != "" {
		return reason, message
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return ReasonDNSTimeout, "looking up " + dns.Name + " timed out"
		}
		return ReasonDNS, "looking up " + dns.Name + ": " + dns.Err
	}
	switch {
	case errors.Is(err, ErrTooManyRedirects):
		return ReasonTooManyRedirects, "redirects do not end"
	case isErrno(err, syscall.ECONNREFUSED):
		return ReasonRefused, "connection refused"
	case isErrno(err, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED):
		return ReasonReset, "connection reset"
	case isErrno(err, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN):
		return ReasonNoRoute, "no route to the host"
	case isTimeout(err):
		return ReasonTimeout, "timed out"
	case isTLS(err):
		return ReasonTLS, bare(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		strings.Contains(err.Error(), "server closed idle connection"):
		return ReasonClosed, "connection closed before the answer was complete"
	case strings.Contains(err.Error(), "readLoopPeekFailLocked: %!w(<nil>)"): // net/http's own words
		return ReasonProtocol, "answered before it was asked"
	case isProtocol(err):
		return ReasonProtocol, bare(err)
	default:
		return ReasonError, bare(err)
	}
}

// certificateFault returns an empty reason when no certificate was refused.
func certificateFault(err error) (reason, message string) {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		// The same code stands for "not yet valid"; only the detail tells.
		if invalid.Reason == x509.Expired && !strings.Contains(invalid.Detail, "is before") {
			message = "certificate has expired"
			if invalid.Cert != nil {
				message = "certificate expired on " + invalid.Cert.NotAfter.UTC().Format("2006-01-02 15:04 MST")
			}
			return ReasonCertificateExpired, message
		}
		return ReasonCertificateInvalid, invalid.Error()
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return ReasonCertificateInvalid, "certificate is not for " + host.Host
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return ReasonCertificateInvalid, "certificate is signed by an unknown authority"
	}
	if verify, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return ReasonCertificateInvalid, verify.Err.Error()
	}
	return "", ""
}

func isErrno(err error, codes ...syscall.Errno) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains(codes, errno)
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// isTLS reports a failed handshake. Most of crypto/tls' errors are plain texts
// that start with "tls: ", so that beside the types the text is looked at.
func isTLS(err error) bool {
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	return errors.Is(err, http.ErrSchemeMismatch) || strings.Contains(err.Error(), "tls: ")
}

// isProtocol reports an answer that is not HTTP, or more of it than is taken.
// net/http has types for a part of these only.
func isProtocol(err error) bool {
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		return true
	}
	text := err.Error()
	for _, sign := range []string{
		"malformed", "invalid byte in chunk", "chunked", "bad Content-Length", "header", "unsupported protocol scheme",
		"unsupported transfer encoding", "Location", "HTTP/1", "HTTP/2", "1xx",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// bare returns the text of err without the URL that net/http puts in front of
// it: a query may hold a secret.
func bare(err error) string {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return err.Error()
}
