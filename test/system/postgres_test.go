package system_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// postgres is the database of a deployment, which can be broken as databases
// break. What is mended twice, or was not broken, stays as it is.
type postgres struct {
	t *testing.T
	// dir is its data directory.
	dir string
	// proxy is the wire that the services reach it by; nil when they reach it without one.
	proxy *embeddedtest.Proxy

	mu      sync.Mutex
	options embedded.PostgresOptions
	server  *embedded.Postgres // nil when picket up keeps it: then it comes back by itself
	kept    bool
	stopped []int // by SIGSTOP
}

// startPostgres starts a server that no other test shares, behind a wire that can be broken.
func startPostgres(t *testing.T, dir string) *postgres {
	t.Helper()
	return startPostgresWith(t, embedded.PostgresOptions{DataDir: dir})
}

// startPostgresWith is startPostgres with a directory and settings.
func startPostgresWith(t *testing.T, options embedded.PostgresOptions) *postgres {
	t.Helper()
	// What is committed outlives the death of a process also without the disk's word for it.
	settings := map[string]string{"fsync": "off", "max_connections": "200"}
	maps.Copy(settings, options.Settings)
	options.Log, options.Settings = slog.New(slog.DiscardHandler), settings
	p := &postgres{t: t, dir: options.DataDir, options: options}
	p.start()
	t.Cleanup(func() {
		if err := p.server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p.proxy = embeddedtest.FaultProxy(t, "unix:"+p.server.Socket())
	return p
}

// url is for whoever looks on, also while the wire of the services is broken.
func (p *postgres) url() string {
	return "postgres:///picket?port=5432&user=postgres&host=" + url.QueryEscape(filepath.Join(p.dir, "run"))
}

// serviceURL is for the services of many processes.
func (p *postgres) serviceURL() string {
	return "postgres://postgres@" + p.proxy.Addr() + "/picket?sslmode=disable"
}

// stop stops the server as its operator would: open transactions are rolled back, everybody is sent away.
func (p *postgres) stop() { p.end(syscall.SIGINT) }

// kill ends all of the server's processes as the kernel ends them when memory runs out.
func (p *postgres) kill() { p.end(syscall.SIGKILL) }

func (p *postgres) end(signal syscall.Signal) {
	p.t.Helper()
	postmaster, ok := p.postmaster()
	if !ok {
		return // it is down already
	}
	children := p.children(postmaster)
	p.signal(postmaster, signal)
	if signal == syscall.SIGKILL {
		for _, child := range children {
			p.signal(child, signal)
		}
	}
	if p.kept {
		eventually(p.t, "the old server is gone", func() error {
			if now, ok := p.postmaster(); ok && now == postmaster {
				return fmt.Errorf("process %d serves still", postmaster)
			}
			return nil
		})
		return
	}
	<-p.server.Done()
}

// start starts the server when it is down, and waits until it answers. That of `picket up` is started by that, when it
// runs: it may be down as well, and about to be started.
func (p *postgres) start() {
	p.t.Helper()
	if p.kept {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		select {
		case <-p.server.Done():
		default:
			return
		}
	}
	// Its life is the test's: a context of the test's would say the same.
	server, err := embedded.StartPostgres(context.Background(), p.options)
	if err != nil {
		p.t.Fatal(err)
	}
	p.server = server
}

func (p *postgres) awaitAnswer() {
	p.t.Helper()
	eventually(p.t, "the database answers", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, p.url())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// freeze stops all of the server's processes where they are: it accepts, and never answers.
func (p *postgres) freeze() {
	p.t.Helper()
	p.t.Cleanup(p.thaw) // nothing can be stopped that is frozen
	p.mu.Lock()
	defer p.mu.Unlock()
	postmaster, ok := p.postmaster()
	if !ok {
		p.t.Error("there is no database to freeze")
		return
	}
	p.stopped = append(p.stopped, postmaster)
	p.signal(postmaster, syscall.SIGSTOP)
	// Twice: what the postmaster was about to start when it was stopped.
	for range 2 {
		for _, child := range p.children(postmaster) {
			if !slices.Contains(p.stopped, child) {
				p.stopped = append(p.stopped, child)
				p.signal(child, syscall.SIGSTOP)
			}
		}
	}
}

// thaw lets them go on.
func (p *postgres) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pid := range slices.Backward(p.stopped) {
		p.signal(pid, syscall.SIGCONT)
	}
	p.stopped = nil
}

// cut ends all connections of the services.
func (p *postgres) cut() {
	p.t.Helper()
	if p.proxy != nil {
		p.proxy.Cut()
		return
	}
	p.execute(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'picket' AND pid <> pg_backend_pid()`)
}

// stall keeps everything that is sent to or by the server, and accepts connections: a wire that leads nowhere. It needs the proxy.
func (p *postgres) stall() { p.proxy.Freeze() }

// flow lets it arrive.
func (p *postgres) flow() { p.proxy.Thaw() }

// crashBackend kills one process that works for a service: the server takes all others down and recovers, as after a crash.
func (p *postgres) crashBackend() {
	p.t.Helper()
	conn := p.connect()
	defer conn.Close(context.Background())
	var pid int
	err := conn.QueryRow(context.Background(), `SELECT pid FROM pg_stat_activity
		WHERE application_name = 'picket' AND backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1`).Scan(&pid)
	if err != nil {
		p.t.Errorf("find a backend to kill: %v", err)
		return
	}
	p.signal(pid, syscall.SIGKILL)
}

func (p *postgres) connect() *pgx.Conn {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.url())
	if err != nil {
		p.t.Fatal(err)
	}
	return conn
}

func (p *postgres) execute(statements ...string) {
	p.t.Helper()
	conn := p.connect()
	defer conn.Close(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			p.t.Errorf("%s: %v", statement, err)
		}
	}
}

func (p *postgres) signal(pid int, signal syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("signal %s to process %d of the database: %v", signal, pid, err)
	}
}

// postmaster is the first of the server's processes, from the file that the server keeps for that.
func (p *postgres) postmaster() (pid int, running bool) {
	text, err := os.ReadFile(filepath.Join(p.dir, "cluster", "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(first))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0, false
	}
	return pid, true
}

// children are the processes that one has started, from /proc.
func (p *postgres) children(parent int) []int {
	p.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		p.t.Fatal(err)
	}
	var children []int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …; the name may hold anything (proc(5)).
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			children = append(children, pid)
		}
	}
	return children
}

// processesAreSeen reports whether the processes of a server can be found here.
func processesAreSeen(deployment) bool { return runtime.GOOS == "linux" }

// behindProxy reports whether services reach the database by a wire that can be broken.
func behindProxy(d deployment) bool { return d.database().proxy != nil }
