package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	clusterDir = "cluster"
	initPrefix = "init-"
	logFile    = "postgres.log"

	// maxSocketPath is the room for a unix socket's path, without its closing zero: 107 bytes on Linux, 103 on macOS and
	// the BSDs. PostgreSQL adds ".lock" to it for a plain file only.
	maxSocketPath = 103

	// tempSocketPrefix begins the names of socket directories outside a data directory whose path is too long for one.
	tempSocketPrefix = "picket-postgres-"

	pollInterval = 10 * time.Millisecond
)

// setup is a server on its way up: what has been found and taken so far.
type setup struct {
	PostgresOptions
	account   account
	major     int
	cluster   string
	socketDir string
	temporary bool // the socket directory goes when the server does
	lock      *DirLock
	lines     *boundedLog
}

// prepare takes the directory and leaves a whole cluster in it that nobody serves. On error nothing stays taken.
func (s *setup) prepare(ctx context.Context) (err error) {
	if s.DataDir == "" {
		return errors.New("no data directory given")
	}
	if s.DataDir, err = filepath.Abs(s.DataDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if s.BinDir == "" {
		if s.BinDir, err = FindPostgres(ctx); err != nil {
			return err
		}
	}
	if s.major, err = postgresMajor(ctx, s.BinDir); err != nil {
		return err
	}
	if s.account, err = findAccount(s.User); err != nil {
		return err
	}
	if err := s.makeDataDir(); err != nil {
		return err
	}
	if s.lock, err = LockDir(s.DataDir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if err := s.account.canReach(s.DataDir); err != nil {
		return err
	}
	if err := s.account.canReach(s.BinDir); err != nil {
		return err
	}
	if s.lines, err = openBoundedLog(filepath.Join(s.DataDir, logFile)); err != nil {
		return err
	}
	s.cluster = filepath.Join(s.DataDir, clusterDir)
	if err := s.stopOrphan(ctx); err != nil {
		return err
	}
	if err := s.ensureCluster(ctx); err != nil {
		return err
	}
	return s.makeSocketDir()
}

// release gives back what prepare took.
func (s *setup) release() error {
	var errs []error
	if s.temporary {
		errs = append(errs, os.RemoveAll(s.socketDir))
	}
	if s.lines != nil {
		errs = append(errs, s.lines.close())
	}
	return errors.Join(append(errs, s.lock.Unlock())...)
}

// makeDataDir makes the directory. It stays with the process' user even when the server runs as another, who then only
// may walk through it to the parts that are its own: it must not be able to replace the lock or the cluster.
func (s *setup) makeDataDir() error {
	mode := fs.FileMode(0o700)
	if s.account.switched {
		mode = 0o711
	}
	if err := os.MkdirAll(s.DataDir, mode); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Chmod(s.DataDir, mode); err != nil { // the umask, or an older directory
		return fmt.Errorf("make data directory: %w", err)
	}
	return nil
}

// ensureCluster makes the cluster if there is none and refuses one that these binaries cannot serve. A new one is made
// under another name and renamed when it is whole, so that a half-made one is never taken for a cluster, nor a cluster
// for a half-made one.
func (s *setup) ensureCluster(ctx context.Context) error {
	half, err := filepath.Glob(filepath.Join(s.DataDir, initPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for unfinished clusters: %w", err)
	}
	for _, dir := range half {
		// An initdb that outlived its parent may still write there. It ends soon; what it leaves goes next time.
		if err := os.RemoveAll(dir); err != nil {
			s.Log.Debug("unfinished cluster stays for now", "dir", dir, "err", err)
		}
	}
	version, err := os.ReadFile(filepath.Join(s.cluster, "PG_VERSION"))
	switch {
	case err == nil:
		major, err := strconv.Atoi(strings.TrimSpace(string(version)))
		if err != nil {
			return fmt.Errorf("read version of %s: %w", s.cluster, err)
		}
		if major != s.major {
			return fmt.Errorf("the data in %s is of PostgreSQL %d and %s has PostgreSQL %d: point %s at version %d, or move the data over with pg_dumpall",
				s.DataDir, major, s.BinDir, s.major, PostgresBinVariable, major)
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read version: %w", err)
	}
	if err := os.Remove(s.cluster); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is no database cluster and not empty: remove it or use another data directory", s.cluster)
	}
	return s.initCluster(ctx)
}

func (s *setup) initCluster(ctx context.Context) error {
	started := time.Now()
	dir, err := os.MkdirTemp(s.DataDir, initPrefix)
	if err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	if err := s.account.own(dir); err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	arguments := []string{
		"--pgdata=" + dir, "--username=" + superuser, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions",
	}
	if s.Disposable {
		arguments = append(arguments, "--no-sync")
	}
	if err := s.run(ctx, dir, "", "initdb", arguments...); err != nil {
		return err
	}
	// Single-user mode needs no client and no socket. The name is quoted; a cluster is made once.
	statement := `CREATE DATABASE "` + strings.ReplaceAll(s.Database, `"`, `""`) + `"` + "\n"
	single := []string{"--single", "-D", dir, "-c", "exit_on_error=on", "postgres"}
	if s.Disposable {
		single = append([]string{"--single", "-F"}, single[1:]...)
	}
	if s.Database != "postgres" {
		if err := s.run(ctx, dir, statement, "postgres", single...); err != nil {
			return err
		}
	}
	if err := os.Rename(dir, s.cluster); err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	if !s.Disposable {
		if err := syncDir(s.DataDir); err != nil {
			return fmt.Errorf("make cluster: %w", err)
		}
	}
	s.Log.Info("made a database cluster", "dir", s.cluster, "postgres_major", s.major, "duration", time.Since(started))
	return nil
}

// run runs one of PostgreSQL's programs to its end, as the server's user.
func (s *setup) run(ctx context.Context, dir, input, program string, arguments ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.BinDir, program), arguments...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = dir, environment(), s.account.attributes()
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = killAfter
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		s.lines.add([]byte(line))
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", program, context.Cause(ctx))
	}
	return fmt.Errorf("run %s: %w", program, withTail(err, s.lines))
}

// makeSocketDir makes the directory of the socket, open to the server's user (and root) only: who can connect is
// superuser. It is in the data directory unless the path would be too long for a socket.
func (s *setup) makeSocketDir() error {
	dir := filepath.Join(s.DataDir, "run")
	if len(dir)+len("/.s.PGSQL."+port) > maxSocketPath {
		var err error
		if dir, err = os.MkdirTemp("/tmp", tempSocketPrefix); err != nil {
			return fmt.Errorf("make socket directory: %w", err)
		}
		s.temporary = true
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	s.socketDir = dir
	if err := s.account.own(dir); err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
