package catalog

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Bounds of a specification.
const (
	maxURL     = 2048
	maxPayload = 64 << 10
	maxHeaders = 64
)

// httpToken is the token of RFC 9110, 5.6.2: methods and names of headers.
var httpToken = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,255}$")

// notInHeader reports the characters that RFC 9110, 5.5, keeps out of a header's value.
func notInHeader(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func validateHTTP(f *Faults, path string, spec *picketv1.HTTPSpec) {
	if message := urlFault(spec.Url); message != "" {
		f.add(joinPath(path, "url"), "%s", message)
	}
	if spec.Method != "" && !httpToken.MatchString(spec.Method) {
		f.add(joinPath(path, "method"), "%q is no HTTP method", spec.Method)
	}
	validateHeaders(f, path, spec.Headers)
	validatePayload(f, joinPath(path, "body"), spec.Body)
	switch spec.Connection {
	case "", "keep-alive", "fresh":
	default:
		f.add(joinPath(path, "connection"), "%q is neither keep-alive nor fresh", spec.Connection)
	}
	validateTLS(f, joinPath(path, "tls"), spec.Tls)
	if len(spec.ExpectStatus) > MaxList || len(spec.ExpectJson) > MaxList || len(spec.ExpectHeaders) > MaxList {
		f.add(path, "has more than %d expectations of one kind", MaxList)
		return
	}
	_, err := health.Compile(spec)
	addExpectationFaults(f, path, err)
}

func validateHeaders(f *Faults, path string, headers []*picketv1.Header) {
	if len(headers) > maxHeaders {
		f.add(joinPath(path, "headers"), "has %d headers, more than %d", len(headers), maxHeaders)
	}
	for _, h := range headers {
		at := joinPath(path, "headers."+h.GetName())
		switch {
		case !httpToken.MatchString(h.GetName()):
			f.add(joinPath(path, "headers"), "%q is no name of a header", h.GetName())
		case IsSecretRef(h.GetValue()):
			if message := secretRefFault(h.GetValue()); message != "" {
				f.add(at, "%s", message)
			}
		case len(h.GetValue()) > maxPayload || !utf8.ValidString(h.GetValue()) || strings.ContainsFunc(h.GetValue(), notInHeader):
			// The value is not shown: it may be a secret.
			f.add(at, "the value holds a character that no header can hold")
		}
	}
}

func validateTCP(f *Faults, path string, spec *picketv1.TCPSpec) {
	if message := addressFault(spec.Address); message != "" {
		f.add(joinPath(path, "address"), "%s", message)
	}
	validatePayload(f, joinPath(path, "send"), spec.Send)
	validateTLS(f, joinPath(path, "tls"), spec.Tls)
	_, err := health.CompileTCP(spec)
	addExpectationFaults(f, path, err)
}

// urlFault says what is wrong with the URL of a check; empty: nothing. It never shows a URL that holds a password.
func urlFault(raw string) string {
	if raw == "" {
		return "must not be empty"
	}
	if len(raw) > maxURL {
		return fmt.Sprintf("is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's message repeats the URL, and with it a password.
		return "is no URL"
	}
	switch {
	case u.User != nil:
		return "must not hold a user or password: use headers with a secret: reference"
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("scheme %q is neither http nor https", u.Scheme)
	case u.Hostname() == "":
		return "has no host"
	case u.Fragment != "":
		return "must not hold a fragment"
	case !utf8.ValidString(raw):
		return "is not valid UTF-8"
	}
	if port := u.Port(); port != "" {
		return portFault(port)
	}
	return ""
}

func addressFault(address string) string {
	if address == "" {
		return "must not be empty"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || !utf8.ValidString(address) || strings.ContainsAny(host, " /@\x00") {
		return fmt.Sprintf("%q is not of the form host:port", address)
	}
	return portFault(port)
}

func portFault(port string) string {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Sprintf("port %q is not between 1 and 65535", port)
	}
	return ""
}

func validatePayload(f *Faults, path, payload string) {
	switch {
	case len(payload) > maxPayload:
		f.add(path, "is longer than %d bytes", maxPayload)
	case !utf8.ValidString(payload):
		f.add(path, "is not valid UTF-8")
	case strings.ContainsRune(payload, 0):
		f.add(path, "holds a NUL character")
	}
}

// addExpectationFaults adds what package health found in a specification; its names of fields are our keys, but for the
// unit behind durations.
func addExpectationFaults(f *Faults, path string, err error) {
	if err == nil {
		return
	}
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for _, fault := range faults {
		if field, ok := errors.AsType[*health.FieldError](fault); ok {
			f.add(joinPath(path, strings.TrimSuffix(field.Field, "_ms")), "%s", field.Err)
		} else {
			f.add(path, "%s", fault)
		}
	}
}

func validateTLS(f *Faults, path string, o *picketv1.TLSOptions) {
	if o == nil {
		return
	}
	for _, file := range []struct{ key, path string }{
		{"ca_file", o.CaFile}, {"cert_file", o.CertFile}, {"key_file", o.KeyFile},
	} {
		if file.path != "" && (!filepath.IsAbs(file.path) || len(file.path) > maxURL || strings.ContainsRune(file.path, 0)) {
			f.add(joinPath(path, file.key), "%q is no absolute path", file.path)
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		f.add(path, "cert_file and key_file go together")
	}
	if message := textFault(o.ServerName, false); message != "" {
		f.add(joinPath(path, "server_name"), "%s", message)
	}
}
