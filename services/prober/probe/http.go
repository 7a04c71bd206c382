package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// maxRedirects bounds a chain of redirects.
const maxRedirects = 10

// httpProber runs checks of the kind http.
type httpProber struct {
	request *http.Request // without context and body: copied for each look
	// previous is the same with the token before, nil when there is none.
	previous *http.Request
	bearer   credential.Bearer
	body     []byte
	// secrets are the declared headers, kept from hosts the check does not name.
	secrets   []string
	expect    *health.Expectations
	pool      *Pool
	set       *transports
	bodyLimit int
	keepAlive bool
	follow    bool

	kept   atomic.Bool  // the last look left a connection that may be used again
	dialed atomic.Int64 // Unix nanoseconds of the last look that made a connection
}

func newHTTP(check *picketv1.Check, opt Options) (Prober, error) {
	spec := check.GetHttp()
	if spec == nil {
		return nil, fieldError("http", errors.New("is missing"))
	}
	expect, err := health.Compile(spec)
	if err != nil {
		return nil, err
	}
	request, err := newRequest(spec, opt.Version)
	if err != nil {
		return nil, err
	}
	set, err := opt.Pool.transports(spec.GetTls())
	if err != nil {
		return nil, err
	}
	p := &httpProber{
		request: request, expect: expect, pool: opt.Pool, set: set,
		bodyLimit: opt.BodyLimit, follow: spec.GetFollowRedirects(),
	}
	for _, h := range spec.GetHeaders() {
		p.secrets = append(p.secrets, http.CanonicalHeaderKey(h.GetName()))
	}
	if spec.GetServerToken() && opt.Bearer.Token != "" {
		if err := p.present(opt.Bearer); err != nil {
			return nil, err
		}
	}
	if spec.GetBody() != "" {
		p.body = []byte(spec.GetBody())
	}
	switch spec.GetConnection() {
	case "", "keep-alive":
		// A kept connection may just be closing when a request goes out on it.
		// net/http then sends the request again, but only if nothing is changed by
		// doing so; others would be reported as closed for no fault of the target.
		p.keepAlive = slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, request.Method)
	case "fresh":
	default:
		return nil, fieldError("connection", errors.New("neither keep-alive nor fresh"))
	}
	return p, nil
}

func newRequest(spec *picketv1.HTTPSpec, version string) (*http.Request, error) {
	target, err := url.Parse(spec.GetUrl())
	switch {
	case err != nil:
		return nil, fieldError("url", errors.New("cannot be parsed"))
	case target.Scheme != "http" && target.Scheme != "https":
		return nil, fieldError("url", errors.New("neither http nor https"))
	case target.Hostname() == "":
		return nil, fieldError("url", errors.New("without a host"))
	case target.User != nil:
		return nil, fieldError("url", errors.New("with user information; use a header"))
	}
	method := strings.ToUpper(spec.GetMethod())
	request, err := http.NewRequest(method, spec.GetUrl(), nil) //nolint:noctx // the context comes with each look
	if err != nil {
		return nil, fieldError("method", err)
	}
	request.Header.Set("User-Agent", "picket/"+version)
	for _, h := range spec.GetHeaders() {
		if !isToken(h.GetName()) || strings.ContainsAny(h.GetValue(), "\r\n\x00") {
			return nil, fieldError("headers", errors.New("not a header: "+h.GetName()))
		}
		if strings.EqualFold(h.GetName(), "Host") {
			request.Host = h.GetValue()
			continue
		}
		if http.CanonicalHeaderKey(h.GetName()) == "User-Agent" {
			request.Header.Del("User-Agent")
		}
		request.Header.Add(h.GetName(), h.GetValue())
	}
	request.ContentLength = int64(len(spec.GetBody()))
	return request, nil
}

// isToken reports a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func (p *httpProber) Probe(ctx context.Context) *picketv1.ProbeResult {
	l := newLook(ctx)
	start := time.Now()
	response, err := p.send(l, p.request, start) //nolint:contextcheck // l is the context
	if err == nil && p.bearer.Again(response.StatusCode, start) {
		p.discard(response)
		response, err = p.send(l, p.previous, start) //nolint:contextcheck // l is the context
	}
	if err != nil {
		p.kept.Store(false)
		r := result("http", start, time.Since(start), failed(ctx, err, l.at()))
		l.describe(r)
		if response != nil { // the last redirect of too many
			r.HttpStatus = int32(response.StatusCode)
		}
		return r
	}
	l.sawCertificate(response.TLS) // that of the last hop, whichever was dialled last
	l.reached(reading)
	buffer := p.pool.buffer()
	defer p.pool.release(buffer)
	body, truncated, long, err := p.read(ctx, response.Body, (*buffer)[:0])
	latency := time.Since(start)
	response.Body.Close() // read to its end or given up; either way nothing is left to learn
	*buffer = body
	if truncated || err != nil || response.Close {
		p.kept.Store(false)
	}
	zipped := err == nil && len(body) > 0 && compressed(response.Header)
	if zipped && !long { // a short one can be expanded to a long one
		err = p.pool.room(ctx)
		long = err == nil
	}
	if long {
		defer func() { <-p.pool.long }()
	}
	var o health.Outcome
	if err != nil {
		o = failed(ctx, err, l.at())
	} else {
		if zipped {
			body, truncated = p.expand(body, truncated)
		}
		o = p.expect.HTTP(health.Response{
			Code: response.StatusCode, Header: response.Header, Body: body, Truncated: truncated,
			Latency: latency, CertificateNotAfter: l.certificateNotAfter(), ReceivedAt: start.Add(latency),
		})
	}
	r := result("http", start, latency, o)
	r.HttpStatus = int32(response.StatusCode)
	l.describe(r)
	return r
}

// send sends the request on a connection kept by an earlier look if there may be
// one. A check that has a connection keeps it; when the pool is full those
// without use fresh ones, so that connections are not taken from each other in
// turn.
func (p *httpProber) send(l *look, template *http.Request, now time.Time) (*http.Response, error) {
	request := template.WithContext(l.traced())
	if p.body != nil {
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.body)), nil }
		request.Body, _ = request.GetBody() // cannot fail
	}
	transport := p.set.fresh
	had := p.kept.Load()
	if p.keepAlive && (had || p.pool.hasRoom()) {
		transport = p.set.kept
		// Too old: used once more and then closed.
		request.Close = had && now.UnixNano()-p.dialed.Load() >= int64(p.pool.maxAge)
	}
	var response *http.Response
	var err error
	if p.follow {
		client := http.Client{Transport: transport, CheckRedirect: p.checkRedirect}
		response, err = client.Do(request)
	} else {
		response, err = transport.RoundTrip(request)
	}
	if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
		// The connection would be ours now, without the look's deadline. Nobody asked for it.
		response.Body.Close()
		response.Body, response.Close = http.NoBody, true
	}
	if !l.reused {
		p.dialed.Store(now.UnixNano())
	}
	if keeps := transport == p.set.kept && !request.Close; keeps != had {
		p.kept.Store(keeps)
	}
	return response, err
}

// checkRedirect bounds the chain, and keeps declared headers, which may be
// secrets, from other hosts and from the open wire.
func (p *httpProber) checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return health.ErrTooManyRedirects
	}
	next.Header.Del("Referer") // its query may hold a secret too
	first := via[0].URL
	if next.URL.Host != first.Host || first.Scheme == "https" && next.URL.Scheme != "https" {
		for _, name := range p.secrets {
			next.Header.Del(name)
		}
	}
	return nil
}

// describe adds what was learned underway.
func (l *look) describe(r *picketv1.ProbeResult) {
	r.ConnectionReused = l.reused
	if notAfter := l.certificateNotAfter(); !notAfter.IsZero() {
		r.CertificateNotAfter = timestamppb.New(notAfter)
	}
}
