package embeddedtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/picketd/picket/internal/embedded"
)

const (
	// A short path: the sockets below it have 103 bytes. Not t.TempDir, which is long, and closed to the user that runs
	// PostgreSQL for root.
	clusterParent = "/tmp"
	clusterPrefix = "pkt-"

	startTimeout = 2 * time.Minute // initdb takes one second alone and five when everybody starts at once
	stopTimeout  = 30 * time.Second
)

// shared is the server of this test process.
var shared cluster

type cluster struct {
	once     sync.Once
	dir      string
	postgres *embedded.Postgres
	err      error

	mu      sync.Mutex
	closers []func(ctx context.Context) error
}

// atStop registers what is to be undone before the process ends.
func (c *cluster) atStop(f func(ctx context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closers = append(c.closers, f)
}

// start starts the server at the first call.
func (c *cluster) start() (*embedded.Postgres, error) {
	c.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		sweep(ctx, clusterParent, sweepAge)
		c.postgres, c.err = c.run(ctx)
	})
	return c.postgres, c.err
}

func (c *cluster) run(ctx context.Context) (*embedded.Postgres, error) {
	dir, err := os.MkdirTemp(clusterParent, clusterPrefix)
	if err != nil {
		return nil, fmt.Errorf("make cluster directory: %w", err)
	}
	c.dir = dir
	return embedded.StartPostgres(ctx, embedded.PostgresOptions{
		DataDir:    dir,
		Database:   "postgres", // the one that is always there: each test has its own anyway
		Disposable: true,
		Settings:   map[string]string{"max_connections": "300", "max_wal_size": "256MB", "autovacuum_naptime": "10min"},
	})
}

// stop stops the server, if one was started, and removes its files. It is called once no test runs any more.
func (c *cluster) stop() error {
	c.once.Do(func() { c.err = errors.New("tests are over") })
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	if c.postgres == nil {
		// Somebody else's server must be left as it was; the private one goes as a whole.
		for _, closer := range c.closers {
			errs = append(errs, closer(ctx))
		}
	} else {
		errs = append(errs, c.postgres.Stop(ctx))
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// sweepAge is the age at which a directory without a holder counts as left behind: the maker of a younger one may be
// about to lock it.
const sweepAge = time.Minute

// sweep stops the servers and removes the files of test processes that were killed. The lock of the directory tells: the
// kernel dropped it with its process.
func sweep(ctx context.Context, parent string, age time.Duration) {
	dirs, err := filepath.Glob(filepath.Join(parent, clusterPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < age {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
			continue // anybody can make such a name in /tmp
		}
		// Somebody else's litter, or a holder that lives: not ours to touch. Nothing a test could do about the rest.
		_ = embedded.Discard(ctx, dir)
	}
}
