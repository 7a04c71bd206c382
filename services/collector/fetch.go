package collector

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"weak"

	"golang.org/x/sync/semaphore"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// smallBody is what an answer may take without asking for room: most are smaller. Up to mediumBody there is room of its
	// own, a quarter of the memory, so that a few servers that never end cannot keep the usual exporters waiting.
	smallBody  = 64 << 10
	mediumBody = 512 << 10
	// mostDiscarded is what is read of an answer that is not looked at, so that its connection can be used again.
	mostDiscarded = 64 << 10
	// dialTimeout bounds a connection that a request has given up on.
	dialTimeout = 30 * time.Second
	// idleTimeout is longer than the usual interval, so that a connection is used again.
	idleTimeout = 90 * time.Second
)

// errNoRoom says that too many long answers are read at a time.
var errNoRoom = fmt.Errorf("%w: no room for another long answer", health.ErrOwnFault)

// errTooLarge says that an answer goes on beyond what is read.
var errTooLarge = errors.New("answer too large")

// fetcher makes requests. All collections of a process share one; it is safe for concurrent use.
type fetcher struct {
	shared    *http.Transport
	bodyLimit int
	// medium is the memory for answers beyond smallBody, long that for those beyond mediumBody.
	medium, long *semaphore.Weighted
	// waiting are the places of those who wait for long room.
	waiting *semaphore.Weighted

	userAgent string

	unzippers sync.Pool // of *gzip.Reader

	mu sync.Mutex
	// own are the transports of checks with TLS options. They are held weakly: when a check is gone its idle connections
	// end by themselves, and nothing else of it is left.
	own map[weak.Pointer[http.Transport]]struct{}
	// sweepAt is how many there may be before those that are gone are taken out.
	sweepAt int
}

func newFetcher(bodyLimit, bodyMemory, maxIdle int, version string) *fetcher {
	return &fetcher{
		shared: newTransport(maxIdle), bodyLimit: bodyLimit,
		medium:    semaphore.NewWeighted(int64(max(mediumBody, bodyMemory/4))),
		long:      semaphore.NewWeighted(int64(max(bodyLimit, bodyMemory-bodyMemory/4))),
		waiting:   semaphore.NewWeighted(max(1, int64(bodyMemory/4/mediumBody/4))),
		userAgent: "picket/" + version,
		own:       map[weak.Pointer[http.Transport]]struct{}{}, sweepAt: 64,
	}
}

func newTransport(maxIdle int) *http.Transport {
	return &http.Transport{
		// The server itself is to be asked, not a proxy of ours: Proxy stays nil. HTTP/2 stays off: it would put all checks
		// of a host on one connection. Go's own resolver, because the C library's blocks a thread for each name that hangs.
		DialContext:            (&net.Dialer{Timeout: dialTimeout, Resolver: &net.Resolver{PreferGo: true}}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true, // asked for and undone here, within the limit
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         8 << 10,
	}
}

// transport returns the shared transport, or one of its own for a check that has TLS options.
func (f *fetcher) transport(opt *picketv1.TLSOptions) (*http.Transport, error) {
	if opt == nil {
		return f.shared, nil
	}
	config, _, err := credential.TLS(opt)
	if err != nil {
		return nil, err
	}
	own := newTransport(1)
	own.TLSClientConfig = config
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own[weak.Make(own)] = struct{}{}
	if len(f.own) > f.sweepAt {
		maps.DeleteFunc(f.own, func(p weak.Pointer[http.Transport], _ struct{}) bool { return p.Value() == nil })
		f.sweepAt = 2*len(f.own) + 64
	}
	return own, nil
}

// close closes idle connections.
func (f *fetcher) close() {
	f.shared.CloseIdleConnections()
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.own {
		if t := p.Value(); t != nil {
			t.CloseIdleConnections()
		}
	}
}

// target is where one server shows its figures, and what it wants presented.
type target struct {
	request   *http.Request // without a context: copied for each collection
	bearer    credential.Bearer
	transport *http.Transport
}

func (f *fetcher) target(spec *picketv1.MetricsSpec, headers http.Header, bearer credential.Bearer) (*target, error) {
	u, err := url.Parse(spec.GetUrl())
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, &health.FieldError{Field: "url", Err: errors.New("is no address of the form http://host/path")}
	}
	request, err := http.NewRequest(http.MethodGet, spec.GetUrl(), nil) //nolint:noctx // the context comes with each collection
	if err != nil {
		return nil, &health.FieldError{Field: "url", Err: errors.New("cannot be asked")}
	}
	request.Header = http.Header{
		"User-Agent": {f.userAgent}, "Accept": {accept(spec.GetFormat())}, "Accept-Encoding": {"gzip"},
	}
	for name, values := range headers {
		if strings.EqualFold(name, "Host") {
			request.Host = values[0]
			continue
		}
		request.Header[name] = values
	}
	if bearer.Token != "" && request.Header.Get("Authorization") != "" {
		return nil, &health.FieldError{Field: "server_token", Err: errors.New("beside an Authorization header")}
	}
	transport, err := f.transport(spec.GetTls())
	if err != nil {
		return nil, err
	}
	return &target{request: request, bearer: bearer, transport: transport}, nil
}

// accept asks for what is read best: a server that has several dialects answers in the plain one.
func accept(format string) string {
	const text = "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.5"
	switch format {
	case catalog.MetricsJSON:
		return "application/json,*/*;q=0.1"
	case catalog.MetricsPrometheus:
		return text + ",*/*;q=0.1"
	default:
		return "application/json," + text + ",*/*;q=0.1"
	}
}

// answer is what a server said.
type answer struct {
	code  int
	media string // without parameters, lower case
	// declared says that the media type names a version of an exposition.
	declared bool
	body     []byte
	size     int // as it came, maybe compressed
}

// fetch asks once, and once more with the token before where the new one was refused. The body is read for 2xx alone;
// release gives its room back, and is never nil. The error is errTooLarge or one of the network's.
func (f *fetcher) fetch(ctx context.Context, t *target) (a answer, release func(), err error) {
	release = func() {}
	response, err := t.send(ctx, t.bearer.Token)
	if err != nil {
		return a, release, err
	}
	if t.bearer.Again(response.StatusCode, time.Now()) {
		discard(response)
		if response, err = t.send(ctx, t.bearer.Previous); err != nil {
			return a, release, err
		}
	}
	a.code = response.StatusCode
	if a.code < 200 || a.code > 299 {
		discard(response)
		return a, release, nil
	}
	defer response.Body.Close()
	// What cannot be parsed is no media type, and the body itself will tell.
	media, parameters, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	a.media, a.declared = media, parameters["version"] != ""
	counted := &countingReader{r: response.Body}
	a.body, release, err = f.read(ctx, counted, response.Header.Get("Content-Encoding"))
	a.size = counted.n
	return a, release, err
}

func (t *target) send(ctx context.Context, token string) (*http.Response, error) {
	request := t.request.WithContext(ctx)
	if token != "" {
		request.Header = request.Header.Clone()
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := t.transport.RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
		// The connection would be ours now, without the collection's deadline. Nobody asked for it.
		response.Body.Close()
		response.Body = http.NoBody
	}
	return response, err
}

// discard lets go of an answer.
func discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, mostDiscarded) // what fails here fails again
	response.Body.Close()
}

// read reads an answer up to the limit, expanded. A long one waits for room first, so that many at a time take no more
// memory than there is for them.
func (f *fetcher) read(ctx context.Context, r io.Reader, encoding string) (body []byte, release func(), err error) {
	release = func() {}
	switch strings.ToLower(encoding) {
	case "", "identity":
	case "gzip", "x-gzip":
		unzip, err := f.unzipper(r)
		if err != nil {
			return nil, release, err
		}
		defer f.unzippers.Put(unzip)
		r = unzip
	default:
		return nil, release, fmt.Errorf("malformed answer: content encoding %.40q was not asked for", encoding)
	}
	body, err = appendAll(nil, r, min(smallBody, f.bodyLimit))
	if !errors.Is(err, errTooLarge) || f.bodyLimit <= smallBody {
		return body, release, err
	}
	medium := int64(min(mediumBody, f.bodyLimit))
	if f.medium.Acquire(ctx, medium) != nil {
		return nil, release, errNoRoom
	}
	release = func() { f.medium.Release(medium) }
	body, err = appendAll(body, r, int(medium))
	if !errors.Is(err, errTooLarge) || f.bodyLimit <= mediumBody {
		return body, release, err
	}
	if err := f.acquireLong(ctx); err != nil {
		return nil, release, err
	}
	release()
	body, err = appendAll(body, r, f.bodyLimit)
	return body, func() { f.long.Release(int64(f.bodyLimit)) }, err
}

// acquireLong waits for room for an answer beyond mediumBody. Who waits has room of the others, so only a few may.
func (f *fetcher) acquireLong(ctx context.Context) error {
	if f.long.TryAcquire(int64(f.bodyLimit)) {
		return nil
	}
	if !f.waiting.TryAcquire(1) {
		return errNoRoom
	}
	defer f.waiting.Release(1)
	if f.long.Acquire(ctx, int64(f.bodyLimit)) != nil {
		return errNoRoom
	}
	return nil
}

func (f *fetcher) unzipper(r io.Reader) (*gzip.Reader, error) {
	unzip, ok := f.unzippers.Get().(*gzip.Reader)
	if !ok {
		unzip = new(gzip.Reader)
	}
	if err := unzip.Reset(r); err != nil {
		return nil, badZip(err)
	}
	return unzip, nil
}

// badZip marks what is no gzip as an answer that is malformed; an answer that ends early, or a connection that does, is
// what it is.
func badZip(err error) error {
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) {
		return fmt.Errorf("malformed answer: %w", err)
	}
	return err
}

// appendAll appends what is left of r to body, up to limit bytes in all, and errTooLarge when there was more; the byte
// that told is in the body then.
func appendAll(body []byte, r io.Reader, limit int) ([]byte, error) {
	for {
		if len(body) > limit {
			return body, errTooLarge
		}
		if len(body) == cap(body) {
			body = append(body, make([]byte, max(512, min(cap(body), limit+1-len(body))))...)[:len(body)]
		}
		n, err := r.Read(body[len(body):min(cap(body), limit+1)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			if len(body) > limit {
				return body, errTooLarge
			}
			return body, nil
		}
		if err != nil {
			return body, badZip(err)
		}
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}
