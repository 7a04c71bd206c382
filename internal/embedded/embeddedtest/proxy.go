package embeddedtest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Proxy is a wire between clients and a server that a test can break. It is safe for concurrent use.
type Proxy struct {
	listener        net.Listener
	network, target string
	ctx             context.Context // ends with the proxy
	wg              sync.WaitGroup

	mu      sync.Mutex
	thawed  chan struct{} // closed while data flows
	conns   map[net.Conn]struct{}
	inspect Inspector
	closed  bool
}

// Side is who sends.
type Side int

// The two sides of a connection.
const (
	Client Side = iota
	Server
)

// Inspector is shown data before it goes on, in pieces as they come from the wire: whole where a message is shorter than
// 32 KiB and sent at once, which nothing guarantees. It returns how much of it goes on. When that is not all, the
// connection is cut behind it, at both ends. It is called concurrently for different connections.
type Inspector func(from Side, data []byte) (pass int)

// FaultProxy listens on a free port of 127.0.0.1 and hands connections on to the target, "host:port" or
// "unix:/path/of/a/socket". It ends with the test.
func FaultProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	p := &Proxy{
		listener: listener, ctx: ctx, network: "tcp", target: target,
		thawed: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	if path, unix := strings.CutPrefix(target, "unix:"); unix {
		p.network, p.target = "unix", path
	}
	close(p.thawed)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is the proxy's address, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut closes every connection at both ends, as when a server dies. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// Inspect has all data shown to inspect from now on, also that of connections that are there; nil ends it.
func (p *Proxy) Inspect(inspect Inspector) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inspect = inspect
}

// passes is how much of a piece may go on.
func (p *Proxy) passes(from Side, data []byte) int {
	p.mu.Lock()
	inspect := p.inspect
	p.mu.Unlock()
	if inspect == nil {
		return len(data)
	}
	return min(inspect(from, data), len(data))
}

// Freeze stops the data of all connections, and of new ones, which are still accepted: a server that hangs. Nothing that
// was sent is lost.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.thawed:
		p.thawed = make(chan struct{})
	default:
	}
}

// Thaw lets the data flow again.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.thaw()
}

func (p *Proxy) thaw() {
	select {
	case <-p.thawed:
	default:
		close(p.thawed)
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.listener.Close()
	for conn := range p.conns {
		conn.Close()
	}
	p.thaw()
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.track(client) {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// track remembers a connection so that Cut finds it. It closes it and reports false when the proxy has ended.
func (p *Proxy) track(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *Proxy) drop(conn net.Conn) {
	conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// flowing waits until data may flow.
func (p *Proxy) flowing() {
	for {
		p.mu.Lock()
		thawed := p.thawed
		p.mu.Unlock()
		<-thawed
		p.mu.Lock()
		same := thawed == p.thawed
		p.mu.Unlock()
		if same {
			return
		}
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	p.flowing()
	server, err := new(net.Dialer).DialContext(p.ctx, p.network, p.target)
	if err != nil {
		return
	}
	if !p.track(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(Client, server, client) })
	both.Go(func() { p.copy(Server, client, server) })
	both.Wait()
}

// copy moves data until either side ends, then ends the other side's reading too. A half-closed connection counts as
// ended: no protocol behind this proxy uses them.
func (p *Proxy) copy(from Side, dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
		if n > 0 {
			p.flowing()
			pass := p.passes(from, buffer[:n])
			if _, err := dst.Write(buffer[:pass]); err != nil || pass < n {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				p.flowing() // a frozen server's end is not seen either
			}
			return
		}
	}
}
