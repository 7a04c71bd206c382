package fleetsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// MaxServers is how many addresses there are from 127.1.0.1 on, without the broadcast address.
const MaxServers = 0x7fffffff - 0x7f010001

// Options say what fleet [Start] plays. Shares are of all servers, add up to 1 at most, and are spread evenly over the
// fleet; the rest is healthy.
type Options struct {
	Servers int
	Port    int // every server's; 0 takes a free one
	Format  Format

	Degraded, Critical, Hanging, Resetting, Flipping float64
	FlipEvery                                        time.Duration // default 2 minutes

	// Keep is how many arrivals are remembered for each server, the newest; default 64.
	Keep int

	// Tokens are the bearer tokens that servers take, one of them with each request; none: they want no token.
	Tokens []string
	// MetricsInterval is that of a check of the figures of each server in the picket.yaml that is written; 0: there is none.
	MetricsInterval time.Duration
}

func (o *Options) complete() error {
	if o.Servers < 1 || o.Servers > MaxServers {
		return fmt.Errorf("number of servers %d is not in 1 to %d", o.Servers, MaxServers)
	}
	sum := 0.0
	for _, share := range []float64{o.Degraded, o.Critical, o.Hanging, o.Resetting, o.Flipping} {
		if share < 0 {
			return fmt.Errorf("negative share %v", share)
		}
		sum += share
	}
	if sum > 1+1e-9 {
		return fmt.Errorf("shares add up to %v", sum)
	}
	if o.FlipEvery == 0 {
		o.FlipEvery = 2 * time.Minute
	}
	if o.FlipEvery < 0 {
		return fmt.Errorf("negative time between flips %v", o.FlipEvery)
	}
	if o.Keep == 0 {
		o.Keep = 64
	}
	if o.MetricsInterval < 0 {
		return fmt.Errorf("negative interval of metrics %v", o.MetricsInterval)
	}
	if o.Keep < 0 {
		return fmt.Errorf("negative number of arrivals to keep %d", o.Keep)
	}
	return o.Format.valid()
}

// Fleet is a running fleet. It is safe for concurrent use.
type Fleet struct {
	opts    Options
	port    int
	started time.Time
	cpu     time.Duration // of the process, at the start
	servers []server
	seen    arrivals
	weapons weapons

	listeners []net.Listener
	byPort    map[int]int // server by port, where all share 127.0.0.1
	wg        sync.WaitGroup

	accepted, malformed, refused atomic.Uint64
	tokens                       atomic.Pointer[[][]byte] // headers that are taken

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Start starts the fleet; it runs until [Fleet.Stop].
func Start(ctx context.Context, opts Options) (*Fleet, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("start fleet: %w", err)
	}
	f := &Fleet{
		opts: opts, started: time.Now(), cpu: processCPU(),
		servers: make([]server, opts.Servers), conns: map[net.Conn]struct{}{}, weapons: newWeapons(),
	}
	for i := range f.servers {
		f.servers[i].behaviour.Store(int32(opts.behaviour(i)))
	}
	f.SetTokens(opts.Tokens...)
	if err := f.listen(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start fleet: %w", err), f.closeListeners())
	}
	for _, listener := range f.listeners {
		f.wg.Go(func() { f.accept(listener) })
	}
	return f, nil
}

// behaviour spreads the shares: the multiples of the golden ratio, without their whole parts, fill the unit interval
// evenly, so that any stretch of servers has about its part of each kind.
func (o *Options) behaviour(i int) Behaviour {
	const golden = 0.6180339887498949
	at := float64(i) * golden
	at -= float64(int(at))
	for _, part := range []struct {
		share float64
		Behaviour
	}{
		{o.Degraded, Degraded},
		{o.Critical, Critical},
		{o.Hanging, Hanging},
		{o.Resetting, Resetting},
		{o.Flipping, Flipping},
	} {
		if at < part.share {
			return part.Behaviour
		}
		at -= part.share
	}
	return Healthy
}

// Len is the number of servers.
func (f *Fleet) Len() int { return len(f.servers) }

// Name is the name of server i, which is counted from 0: sim-000000.
func (f *Fleet) Name(i int) string { return fmt.Sprintf("sim-%06d", i) }

// URL is the health endpoint of server i; https when that is how it behaves.
func (f *Fleet) URL(i int) string { return f.scheme(i) + f.Addr(i) + "/health" }

func (f *Fleet) scheme(i int) string {
	if f.Behaviour(i).overTLS() {
		return "https://"
	}
	return "http://"
}

// Addr is the address of server i, host:port.
func (f *Fleet) Addr(i int) string {
	if f.byPort != nil {
		return f.listeners[i].Addr().String()
	}
	return netip.AddrPortFrom(address(i), uint16(f.port)).String()
}

// Set changes how server i behaves, from its next request on.
func (f *Fleet) Set(i int, behaviour Behaviour) { f.servers[i].behaviour.Store(int32(behaviour)) }

// Behaviour is how server i behaves.
func (f *Fleet) Behaviour(i int) Behaviour { return Behaviour(f.servers[i].behaviour.Load()) }

// Stop ends the fleet and all its connections, and returns when nothing of it runs any more.
func (f *Fleet) Stop() error {
	err := f.closeListeners()
	f.mu.Lock()
	f.closed = true
	for conn := range f.conns {
		conn.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
	return err
}

func (f *Fleet) closeListeners() error {
	var errs []error
	for _, listener := range f.listeners {
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (f *Fleet) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of files, for one: clients of connections that exist go on, and close some.
			time.Sleep(5 * time.Millisecond) //nolint:forbidigo // as net/http's server does, there is nothing to wait for
			continue
		}
		f.accepted.Add(1)
		i, ok := f.index(conn)
		if !ok || !f.track(conn) {
			conn.Close()
			continue
		}
		f.wg.Go(func() {
			defer f.drop(conn)
			f.serve(conn, i)
		})
	}
}

func (f *Fleet) track(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.conns[conn] = struct{}{}
	}
	return !f.closed
}

func (f *Fleet) drop(conn net.Conn) {
	conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, conn)
}
