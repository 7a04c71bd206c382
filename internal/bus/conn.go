package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/wire"
)

var (
	// ErrDisconnected says that there is no connection to NATS now; it comes back by itself.
	ErrDisconnected = errors.New("nats is not connected")
	// ErrNoJetStream says that the server passes messages on and keeps none.
	ErrNoJetStream = errors.New("nats has no jetstream")
	// ErrUnavailable is what a handler wraps when the thing it stores into is away: the batch is kept, not judged.
	ErrUnavailable = errors.New("unavailable")
	// ErrInterrupted says that ordered reading must start again from the caller's cursor.
	ErrInterrupted = errors.New("reading was interrupted")
)

// What is known of the link.
const (
	linkUnknown int32 = iota
	linkUp
	linkDown
)

const (
	reconnectWait  = 250 * time.Millisecond
	requestTimeout = 5 * time.Second
	ackTimeout     = 10 * time.Second
	// writeTimeout ends a connection that takes no more bytes: the client holds its lock while it writes, and whoever asks it
	// anything meanwhile, deadline or not, waits as long.
	writeTimeout = 3 * time.Second
	// pingEvery and pingsUnanswered end one that brings no answers.
	pingEvery       = 3 * time.Second
	pingsUnanswered = 2
)

// Options says how to connect.
type Options struct {
	// URL of the server, or several separated by commas.
	URL string
	// Name of this client, shown by the server: service and instance.
	Name string
	// CredentialsFile holds a user's JWT and key; empty: none.
	CredentialsFile string
	// InboxPrefix is the first token of the subjects on which this client takes answers; empty: _INBOX. A server that
	// gives each service a user of its own lets each read its own answers only.
	InboxPrefix string
	// LeaveProvisioning says that another service makes streams and buckets: what is missing is ErrNotProvisioned.
	LeaveProvisioning bool
	// InProcess connects without a socket when not nil; URL is then not used.
	InProcess nats.InProcessConnProvider
	// Encoding of what is published. The zero value is JSON.
	Encoding wire.Encoding
	Log      *slog.Logger
}

// Conn is a connection to NATS with JetStream. It is safe for concurrent use.
// It reconnects for ever; what is asked of it meanwhile fails at once with
// ErrDisconnected, so that nothing waits in a buffer that nobody bounds.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	log      *slog.Logger
	name     string
	encoding wire.Encoding
	leave    bool         // making streams and buckets to another
	state    atomic.Int32 // one of the link states

	mu        sync.Mutex
	listeners map[int]func(connected bool)
	nextID    int
}

// Connect starts to connect and returns at once; the server may come later. The
// error is about options that can never work.
func Connect(opts Options) (*Conn, error) {
	c := &Conn{log: opts.Log, name: opts.Name, encoding: opts.Encoding, leave: opts.LeaveProvisioning, listeners: map[int]func(bool){}}
	options := []nats.Option{
		nats.Name(opts.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait/2, reconnectWait/2),
		// Results wait in the publisher, in order and bounded, not in the client.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsUnanswered),
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(),
		nats.Timeout(2 * time.Second),
		nats.ConnectHandler(func(*nats.Conn) { c.changed(true) }),
		nats.ReconnectHandler(func(*nats.Conn) { c.changed(true) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				c.log.Warn("connection to nats lost", "err", err)
			}
			c.changed(false)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			c.log.Warn("nats reports an error", "subject", subject, "err", err)
		}),
	}
	if opts.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(opts.InboxPrefix))
	}
	if opts.InProcess != nil {
		options = append(options, nats.InProcessServer(opts.InProcess))
	}
	if opts.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(opts.CredentialsFile))
	}
	nc, err := nats.Connect(opts.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to nats at %s: %w", opts.URL, err)
	}
	c.nc = nc
	if nc.IsConnected() {
		c.state.CompareAndSwap(linkUnknown, linkUp) // unless an event has said more already
	}
	c.js, err = jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(maxInFlight),
		jetstream.WithPublishAsyncTimeout(ackTimeout),
		jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	return c, nil
}

// Connected reports whether the server is there now. It never blocks: the client's own answer waits for a dial that is
// under way, seconds when the server is frozen, and loops that must not stall ask this.
func (c *Conn) Connected() bool { return c.state.Load() == linkUp }

// Ready returns nil when connected, ErrDisconnected with the last cause otherwise.
func (c *Conn) Ready() error {
	if c.Connected() {
		return nil
	}
	if err := c.nc.LastError(); err != nil {
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return ErrDisconnected
}

// Ping returns nil when the server answers before ctx ends, and keeps messages: one that has no JetStream is of no use. A
// server that is frozen is connected for a while and answers nothing.
func (c *Conn) Ping(ctx context.Context) error {
	if err := c.Ready(); err != nil {
		return err
	}
	if err := c.Flush(ctx); err != nil {
		return fmt.Errorf("%w: no answer: %w", ErrDisconnected, err)
	}
	if stores, _ := c.nc.ConnectedServerJetStream(); stores {
		return nil
	}
	// Another server of its cluster may have it.
	_, err := c.js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return ErrNoJetStream
	}
	if err != nil {
		return fmt.Errorf("ask nats for jetstream: %w", err)
	}
	return nil
}

// WaitConnected blocks until the server is there or ctx ends.
func (c *Conn) WaitConnected(ctx context.Context) error {
	up := make(chan struct{}, 1)
	remove := c.OnState(func(connected bool) {
		if connected {
			select {
			case up <- struct{}{}:
			default:
			}
		}
	})
	defer remove()
	if c.Connected() {
		return nil
	}
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		if err := c.Ready(); err != nil {
			return fmt.Errorf("wait for nats: %w: %w", ctx.Err(), err)
		}
		return fmt.Errorf("wait for nats: %w", ctx.Err())
	}
}

// OnState has f called, in order and never twice at once, whenever the
// connection comes or goes. The returned function ends that.
func (c *Conn) OnState(f func(connected bool)) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID++
	c.listeners[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, id)
	}
}

func (c *Conn) changed(connected bool) {
	if connected {
		c.state.Store(linkUp)
	} else {
		c.state.Store(linkDown)
	}
	c.mu.Lock()
	listeners := make([]func(bool), 0, len(c.listeners))
	for _, f := range c.listeners {
		listeners = append(listeners, f)
	}
	c.mu.Unlock()
	for _, f := range listeners {
		f(connected)
	}
}

// Encoding is how this connection writes payloads.
func (c *Conn) Encoding() wire.Encoding { return c.encoding }

// Close ends the connection at once. Publishers and consumers end before it.
func (c *Conn) Close() {
	c.nc.Close()
	c.state.Store(linkDown)
}

// Flush returns when the server has everything that was sent without an acknowledgement of its own.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("flush nats: %w", err)
	}
	return nil
}
