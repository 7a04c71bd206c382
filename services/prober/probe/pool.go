package probe

import (
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/picketd/picket/internal/credential"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// PoolOptions bound the connections of a process.
type PoolOptions struct {
	// MaxConnections is how many connections there may be before further looks use
	// a fresh one each and close it again; connections kept by earlier looks stay
	// theirs. A quarter of the open-file limit is a good value. Default 1024.
	MaxConnections int
	// MaxConnectionAge is when a kept connection is replaced, so that a changed
	// address or certificate is seen. Default 10 minutes.
	MaxConnectionAge time.Duration
	// LongAnswers is how many answers beyond 64 KiB, or compressed ones, may be in memory at a time; further ones wait.
	// Default 64.
	LongAnswers int
	// Resolver looks names up. Default: Go's own, because the C library's blocks a
	// thread for each name that hangs.
	Resolver *net.Resolver
}

// idleTimeout closes connections of checks that are gone or probed rarely; most
// servers close them earlier.
const idleTimeout = 90 * time.Second

// Pool makes connections and keeps those that may be used again. All probers of
// a process share one. It is safe for concurrent use.
type Pool struct {
	maxConnections int64
	maxAge         time.Duration
	dialer         net.Dialer
	open           atomic.Int64

	buffers sync.Pool     // of *[]byte
	long    chan struct{} // one for each long answer in memory

	mu   sync.Mutex
	sets map[credential.TLSIdentity]weak.Pointer[transports]
}

// transports are those of one set of TLS options. net/http hands out idle
// connections also to requests that close them, so that fresh ones need a
// transport of their own.
type transports struct {
	kept  *http.Transport
	fresh *http.Transport
}

// NewPool returns an empty pool.
func NewPool(opt PoolOptions) *Pool {
	if opt.MaxConnections <= 0 {
		opt.MaxConnections = 1024
	}
	if opt.MaxConnectionAge <= 0 {
		opt.MaxConnectionAge = 10 * time.Minute
	}
	if opt.LongAnswers <= 0 {
		opt.LongAnswers = 64
	}
	if opt.Resolver == nil {
		opt.Resolver = &net.Resolver{PreferGo: true, Dial: dialDNS}
	}
	return &Pool{
		maxConnections: int64(opt.MaxConnections),
		maxAge:         opt.MaxConnectionAge,
		// The bound of dials whose look has no deadline.
		dialer: net.Dialer{Timeout: 30 * time.Second, Resolver: opt.Resolver},
		long:   make(chan struct{}, opt.LongAnswers),
		sets:   make(map[credential.TLSIdentity]weak.Pointer[transports]),
	}
}

// Open is how many connections are open now, idle ones included.
func (p *Pool) Open() int { return int(p.open.Load()) }

// Close closes idle connections. Looks underway end as they would; the pool can
// still be used.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, set := range p.sets {
		if t := set.Value(); t != nil {
			t.kept.CloseIdleConnections()
			t.fresh.CloseIdleConnections()
		}
	}
}

// transports returns the set for TLS options. The pool holds it weakly: when no
// prober needs it any more it goes, so that a catalog that changes for months
// leaves nothing behind.
func (p *Pool) transports(opt *picketv1.TLSOptions) (*transports, error) {
	config, key, err := credential.TLS(opt)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.sets[key].Value(); t != nil {
		return t, nil
	}
	dial := tlsDialer{pool: p, config: config}
	kept := &http.Transport{
		// The target itself is to be probed, not a proxy of ours: Proxy stays nil.
		// HTTP/2 stays off: it would put all checks of a host on one connection, so
		// that a lost segment of one answer delays all the others.
		DialContext:            p.dialContext,
		DialTLSContext:         dial.dialContext,
		DisableCompression:     true, // what comes compressed unasked is expanded within the limit
		MaxIdleConnsPerHost:    1 << 30,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		// Health answers are small, and these are held per connection.
		ReadBufferSize:  2 << 10,
		WriteBufferSize: 1 << 10,
	}
	fresh := kept.Clone()
	fresh.DisableKeepAlives = true
	t := &transports{kept: kept, fresh: fresh}
	p.sets[key] = weak.Make(t)
	runtime.AddCleanup(t, func(kept *http.Transport) {
		kept.CloseIdleConnections()
		p.forget(key)
	}, kept)
	return t, nil
}

func (p *Pool) forget(key credential.TLSIdentity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set, ok := p.sets[key]; ok && set.Value() == nil {
		delete(p.sets, key)
	}
}

// hasRoom reports whether one more connection may be kept.
func (p *Pool) hasRoom() bool { return p.open.Load() < p.maxConnections }

// countedConn takes itself off the pool's count when it is closed.
type countedConn struct {
	net.Conn
	open   *atomic.Int64
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}
