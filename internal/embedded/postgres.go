package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// DefaultDatabase is the database a new cluster has when the options name none.
	DefaultDatabase = "picket"

	superuser = "postgres"
	port      = "5432" // only a part of the socket's name: there is no TCP

	immediateAfter = 30 * time.Second // a fast stop that takes longer becomes an immediate one
	killAfter      = 5 * time.Second  // and that a kill
)

// PostgresOptions says how [StartPostgres] runs the server.
type PostgresOptions struct {
	// BinDir holds initdb and postgres; empty means what [FindPostgres] finds.
	BinDir string
	// DataDir is this server's own directory; required, created when missing. It holds the lock, the log and the
	// database cluster. Its parents must be open to the user the server runs as.
	DataDir string
	// Database is made together with a new cluster; empty means [DefaultDatabase]. It has no effect on an old one.
	Database string
	// User is whom a root process runs the server as; empty means postgres, or nobody when there is no such user.
	// Other processes run it as themselves.
	User string
	// Settings go before and over the defaults for a small machine, by their PostgreSQL names.
	Settings map[string]string
	// Disposable gives durability up for speed, for tests: nothing is synced to disk.
	Disposable bool
	// Log takes what happens to the server, not what it writes; nil discards it.
	Log *slog.Logger
}

// Postgres is a running private PostgreSQL server. It is safe for concurrent use.
type Postgres struct {
	socketDir string
	log       *slog.Logger
	lines     *boundedLog
	cmd       *exec.Cmd
	done      chan struct{}
	err       error // set before done is closed

	mu       sync.Mutex
	stopping bool // the end is asked for
	ended    bool
	release  func() error // gives the directory back at the end; nil until the server is ready
}

// StartPostgres starts the server on its directory, making a database cluster there first when there is none, and
// returns when it accepts connections. After a crash that includes recovery; ctx bounds it all, and ending ctx later
// changes nothing.
//
// It takes the directory as it is found: a server of a killed parent is stopped, a half-made cluster is made again, a
// cluster of another PostgreSQL version is refused and left alone. A directory that another live process holds is an
// *[InUseError]; when the server itself fails, the error ends with the last lines of its log.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Database == "" {
		opts.Database = DefaultDatabase
	}
	s := &setup{PostgresOptions: opts}
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	p, err := s.start(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start postgres: %w", err), s.release())
	}
	return p, nil
}

// URL is the connection string of a database of this server, as pgx and libpq read it.
func (p *Postgres) URL(database string) string {
	query := url.Values{"host": {p.socketDir}, "port": {port}, "user": {superuser}}
	// libpq and pgx both want the socket's directory as a parameter: a path cannot be an authority.
	return (&url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: query.Encode()}).String()
}

// Socket is the path of the server's unix socket.
func (p *Postgres) Socket() string { return filepath.Join(p.socketDir, ".s.PGSQL."+port) }

// PID is the process id of the server, which leads its process group.
func (p *Postgres) PID() int { return p.cmd.Process.Pid }

// BinDir is the directory of the server's programs, among them psql where it is installed.
func (p *Postgres) BinDir() string { return filepath.Dir(p.cmd.Path) }

// Done is closed when the server has ended, by [Postgres.Stop] or by itself.
func (p *Postgres) Done() <-chan struct{} { return p.done }

// Err is nil while the server runs and after it was stopped; when it ended by itself it says how, with the last lines of
// the log.
func (p *Postgres) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop ends the server: open transactions are rolled back, everything committed is written. When ctx ends first, or
// after 30 seconds, it ends at once, to be recovered at the next start. It returns when the server is gone and the
// directory free, and may be called again.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	steps := []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, immediateAfter}, {syscall.SIGQUIT, killAfter}, {syscall.SIGKILL, killAfter}}
	for i, step := range steps {
		select {
		case <-p.done:
			return nil
		default:
		}
		if i > 0 {
			p.log.Warn("postgres does not stop", "pid", p.PID(), "signal", step.signal.String())
		}
		// An error means that the process has ended: the channel will say so.
		_ = p.cmd.Process.Signal(step.signal)
		timer := time.NewTimer(step.wait)
		cancelled := ctx.Done()
		if i > 0 {
			cancelled = nil
		}
		select {
		case <-p.done:
		case <-timer.C:
		case <-cancelled:
		}
		timer.Stop()
	}
	select {
	case <-p.done:
		return nil
	default:
		return fmt.Errorf("stop postgres: process %d does not end", p.PID())
	}
}

// watch reaps the server, gives the directory back if it was handed over, and closes done.
func (p *Postgres) watch(output *os.File, drained <-chan struct{}) {
	state := p.cmd.Wait()
	// Its children end by themselves when it dies; one that does not must not keep us from saying that it died.
	_ = output.SetReadDeadline(time.Now().Add(killAfter))
	<-drained
	output.Close()
	p.mu.Lock()
	stopping, release := p.stopping, p.release
	p.ended = true
	p.mu.Unlock()
	if !stopping {
		p.err = fmt.Errorf("postgres ended: %w", withTail(exitError(state), p.lines))
	}
	if release != nil {
		if err := release(); err != nil {
			p.log.Warn("postgres left something behind", "err", err)
		}
	}
	close(p.done)
}

// handOver makes the server, once it is ready, the one who gives the directory back. It reports false when the server
// has ended meanwhile.
func (p *Postgres) handOver(release func() error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.release = release
	return true
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func withTail(err error, lines *boundedLog) error {
	if tail := lines.lastLines(); tail != "" {
		return fmt.Errorf("%w; its last lines:\n%s", err, tail)
	}
	return err
}

// arguments are the server's settings, as flags: nothing in the cluster has to be edited, and an old cluster follows a
// new program.
func (s *setup) arguments() []string {
	settings := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": s.socketDir,
		"unix_socket_permissions": "0700",
		"port":                    port,
		"max_connections":         "100",
		"shared_buffers":          "128MB",
		"synchronous_commit":      "on",
		"full_page_writes":        "on",
		"fsync":                   "on",
		"max_wal_size":            "1GB",
		"min_wal_size":            "80MB",
		"checkpoint_timeout":      "10min",
		"wal_compression":         "on",
		"jit":                     "off", // many small statements: compiling them costs more than running them
		"logging_collector":       "off", // the log is ours, and bounded
		"log_destination":         "stderr",
		"log_line_prefix":         "%m [%p] ",
		"log_checkpoints":         "off",
		"cluster_name":            "picket",
	}
	if s.Disposable {
		maps.Copy(settings, map[string]string{
			"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "64MB",
		})
	}
	maps.Copy(settings, s.Settings)
	arguments := []string{"-D", s.cluster}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		arguments = append(arguments, "-c", name+"="+settings[name])
	}
	return arguments
}

// environment is ours without what would steer PostgreSQL's programs, and in a language whose messages can be read
// back.
func environment() []string {
	environment := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "LC_") || strings.HasPrefix(entry, "LANG")
	})
	return append(environment, "LC_ALL=C")
}
