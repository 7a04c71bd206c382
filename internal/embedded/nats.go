package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// DefaultNATSListen is where the NATS server listens unless told otherwise: NATS' own port, so that the nats command
// works without arguments, on loopback only, because the embedded server asks nobody for a password.
const DefaultNATSListen = "127.0.0.1:4222"

// ErrAddressInUse is matched by the [AddressInUseError] of [StartNATS].
var ErrAddressInUse = errors.New("address in use")

// AddressInUseError says that somebody else listens on an address that a server was to take.
type AddressInUseError struct{ Address string }

// Error names the address.
func (e *AddressInUseError) Error() string { return "address " + e.Address + " is in use" }

// Is makes errors.Is(err, ErrAddressInUse) hold.
func (e *AddressInUseError) Is(target error) bool { return target == ErrAddressInUse }

// NATSOptions says how [StartNATS] runs the server.
type NATSOptions struct {
	// StoreDir is JetStream's directory; required. It is created when missing.
	StoreDir string
	// Listen is the client address; empty means [DefaultNATSListen], port 0 a free port.
	Listen string
	// Log takes the server's warnings and errors, and its notices at debug level; nil discards them.
	Log *slog.Logger
}

// NATS is a NATS server with JetStream inside this process. It is safe for concurrent use.
type NATS struct {
	server *server.Server
	lock   *DirLock
	stop   sync.Once
}

// StartNATS starts the server and returns when it accepts clients and its streams are recovered, which takes as long as
// the stored streams are large: ctx bounds it. A taken address is an *[AddressInUseError], a store directory that
// belongs to another process an *[InUseError].
func StartNATS(ctx context.Context, opts NATSOptions) (*NATS, error) {
	host, port, err := splitListen(opts.Listen)
	if err != nil {
		return nil, err
	}
	if opts.StoreDir == "" {
		return nil, errors.New("start nats: no store directory given")
	}
	if err := os.MkdirAll(opts.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	if err := checkFree(ctx, host, port); err != nil {
		return nil, err
	}
	lock, err := LockDir(opts.StoreDir)
	if err != nil {
		return nil, err
	}
	srv, err := server.NewServer(&server.Options{
		ServerName:             "picket",
		Host:                   host,
		Port:                   port,
		JetStream:              true,
		StoreDir:               opts.StoreDir,
		DisableJetStreamBanner: true,
		// Signals are the program's: it stops its services before their server.
		NoSigs: true,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start nats: %w", err), lock.Unlock())
	}
	log := &natsLogger{log: opts.Log, fatal: make(chan string, 1)}
	if log.log == nil {
		log.log = slog.New(slog.DiscardHandler)
	}
	srv.SetLoggerV2(log, false, false, false)
	n := &NATS{server: srv, lock: lock}

	started := make(chan struct{})
	go func() {
		defer close(started)
		srv.Start()
	}()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case reason := <-log.fatal:
			err = fmt.Errorf("start nats: %s", reason)
		case <-ctx.Done():
			err = fmt.Errorf("start nats: %w", context.Cause(ctx))
		case <-ticker.C:
			if !srv.ReadyForConnections(time.Millisecond) {
				continue
			}
			return n, nil
		}
		<-started
		n.Stop()
		return nil, err
	}
}

// ClientURL is the address for clients, for example nats://127.0.0.1:4222.
func (n *NATS) ClientURL() string { return n.server.ClientURL() }

// Server is the running server, to be given to nats.InProcessServer: a connection without a socket.
func (n *NATS) Server() *server.Server { return n.server }

// Stop ends the server: clients are disconnected, streams flushed and closed. It may be called again and from anywhere;
// every call returns when the server has ended.
func (n *NATS) Stop() {
	n.stop.Do(func() {
		n.server.Shutdown()
		n.server.WaitForShutdown()
		// Only the process' own descriptor is closed here; nothing could be done about an error.
		_ = n.lock.Unlock()
	})
}

func splitListen(listen string) (host string, port int, err error) {
	if listen == "" {
		listen = DefaultNATSListen
	}
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("nats listen address: %w", err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("nats listen address %q: bad port", listen)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// checkFree finds a taken port before the server does, which would only write a fatal line for it.
func checkFree(ctx context.Context, host string, port int) error {
	if port == server.RANDOM_PORT {
		return nil
	}
	address := net.JoinHostPort(host, strconv.Itoa(port))
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return &AddressInUseError{Address: address}
	}
	if err != nil {
		return fmt.Errorf("start nats: %w", err)
	}
	if err := listener.Close(); err != nil {
		return fmt.Errorf("start nats: %w", err)
	}
	return nil
}

// natsLogger hands the server's lines on. Its notices (one per start, listener and account) are debug lines for us.
type natsLogger struct {
	log   *slog.Logger
	fatal chan string
}

var _ server.Logger = (*natsLogger)(nil)

func (l *natsLogger) write(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "nats server", "detail", fmt.Sprintf(format, args...))
	}
}

func (l *natsLogger) Noticef(format string, args ...any) { l.write(slog.LevelDebug, format, args) }
func (l *natsLogger) Warnf(format string, args ...any)   { l.write(slog.LevelWarn, format, args) }
func (l *natsLogger) Errorf(format string, args ...any)  { l.write(slog.LevelError, format, args) }
func (l *natsLogger) Debugf(format string, args ...any)  { l.write(slog.LevelDebug, format, args) }
func (l *natsLogger) Tracef(format string, args ...any)  { l.write(slog.LevelDebug, format, args) }

// Fatalf is the server saying that it cannot start. It does not end the process when it is embedded, it only returns.
func (l *natsLogger) Fatalf(format string, args ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, args...):
	default:
		l.write(slog.LevelError, format, args)
	}
}
