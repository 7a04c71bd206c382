package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// retryFor is how long a start is repeated while processes of a killed server still hold its shared memory.
const retryFor = 15 * time.Second

// start runs the server and waits until it accepts connections.
func (s *setup) start(ctx context.Context) (*Postgres, error) {
	deadline := time.Now().Add(retryFor)
	for {
		p, err := s.startOnce(ctx)
		if err == nil {
			return p, nil
		}
		// The server says so when its predecessor was killed and the predecessor's children have not noticed yet.
		lingering := strings.Contains(s.lines.lastLines(), "pre-existing shared memory block")
		if !lingering || ctx.Err() != nil || time.Now().After(deadline) {
			return nil, err
		}
		s.lines.forget()
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (s *setup) startOnce(ctx context.Context) (*Postgres, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	//nolint:noctx // the server outlives ctx, which bounds its start; Stop ends it
	cmd := exec.Command(filepath.Join(s.BinDir, "postgres"), s.arguments()...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = s.cluster, environment(), s.account.attributes()
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("run postgres: %w", err)
	}
	p := &Postgres{
		socketDir: s.socketDir, log: s.Log, lines: s.lines, cmd: cmd, done: make(chan struct{}),
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.lines.drain(read)
	}()
	go p.watch(read, drained)

	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	slow := time.NewTimer(5 * time.Second)
	defer slow.Stop()
	for {
		select {
		case <-p.done:
			return nil, p.err
		case <-ctx.Done():
			// It is not to be waited for: recovery begins anew at the next start.
			expired, cancel := context.WithCancel(context.WithoutCancel(ctx))
			cancel()
			return nil, errors.Join(withTail(context.Cause(ctx), s.lines), p.Stop(expired))
		case <-slow.C:
			s.Log.Info("postgres is starting, perhaps recovering from a crash", "dir", s.DataDir)
		case <-ticker.C:
			file, err := readPIDFile(s.cluster)
			if err != nil || file.pid != cmd.Process.Pid || file.status != "ready" {
				continue
			}
			if !p.handOver(s.release) {
				<-p.done
				return nil, p.err
			}
			s.Log.Debug("postgres is ready", "pid", p.PID(), "socket", p.Socket())
			return p, nil
		}
	}
}

// pidFile is what a running server writes into its cluster (postmaster.pid; miscadmin.h and pidfile.h in PostgreSQL's
// source give the lines).
type pidFile struct {
	pid       int
	socketDir string // line 5
	status    string // line 8: starting, stopping, ready, standby
}

func readPIDFile(cluster string) (pidFile, error) {
	text, err := os.ReadFile(filepath.Join(cluster, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	lines := strings.Split(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return pidFile{}, fmt.Errorf("read postmaster.pid: %w", err)
	}
	file := pidFile{pid: pid}
	if len(lines) > 4 {
		file.socketDir = strings.TrimSpace(lines[4])
	}
	if len(lines) > 7 {
		file.status = strings.TrimSpace(lines[7])
	}
	return file, nil
}

// stopOrphan stops a server that outlived its parent. We hold the directory's lock, so whoever serves the cluster now
// belongs to a process that is gone.
func (s *setup) stopOrphan(ctx context.Context) error {
	file, err := readPIDFile(s.cluster)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		// Empty or cut off, as a full disk or a power loss leave it: the server would refuse to start beside it for ever.
		// What it guards against, a server of this cluster, still shows in the shared memory, which is found by the
		// cluster's inode.
		s.Log.Warn("removing an unreadable pid file", "dir", s.cluster, "err", err)
		return os.Remove(filepath.Join(s.cluster, "postmaster.pid"))
	}
	defer removeTemporarySocketDir(file.socketDir)
	if !servesCluster(ctx, file.pid, s.cluster) {
		if !alive(file.pid) {
			return nil // the server sees that for itself
		}
		// The number belongs to somebody else by now, which is the rule in containers, where every start counts from 1. The
		// server would take that process for a server of its cluster.
		s.Log.Info("removing a stale pid file", "dir", s.cluster, "pid", file.pid)
		return os.Remove(filepath.Join(s.cluster, "postmaster.pid"))
	}
	s.Log.Info("stopping the postgres of an earlier process that was killed", "pid", file.pid, "dir", s.DataDir)
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, immediateAfter}, {syscall.SIGQUIT, killAfter}, {syscall.SIGKILL, killAfter}} {
		if err := syscall.Kill(file.pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop the earlier postgres, process %d: %w", file.pid, err)
		}
		gone, err := s.waitGone(ctx, file.pid, step.wait)
		if err != nil || gone {
			return err
		}
	}
	return fmt.Errorf("the earlier postgres, process %d, does not end", file.pid)
}

func (s *setup) waitGone(ctx context.Context, pid int, wait time.Duration) (bool, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for servesCluster(ctx, pid, s.cluster) {
		select {
		case <-ticker.C:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, fmt.Errorf("stop the earlier postgres, process %d: %w", pid, context.Cause(ctx))
		}
	}
	return true, nil
}

// servesCluster reports whether the process is alive and a server of this cluster. The number alone proves nothing:
// after a reboot it may be anybody's.
func servesCluster(ctx context.Context, pid int, cluster string) bool {
	if runtime.GOOS != "linux" {
		out, err := exec.CommandContext(ctx, "ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
		return err == nil && strings.Contains(string(out), " -D "+cluster+" ")
	}
	// The server's working directory is its cluster. A zombie has none, which suits: it holds nothing any more.
	proc := "/proc/" + strconv.Itoa(pid)
	theirs, err := os.Stat(filepath.Join(proc, "cwd"))
	if errors.Is(err, fs.ErrPermission) {
		// Root in a container may not look at another user's process; its command line is open to all.
		line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		return err == nil && strings.Contains(string(line), "\x00-D\x00"+cluster+"\x00")
	}
	if err != nil {
		return false
	}
	ours, err := os.Stat(cluster)
	return err == nil && os.SameFile(theirs, ours)
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// removeTemporarySocketDir removes the socket directory that a killed process left in /tmp; others are left alone.
func removeTemporarySocketDir(dir string) {
	if filepath.Dir(dir) == "/tmp" && strings.HasPrefix(filepath.Base(dir), tempSocketPrefix) {
		_ = os.RemoveAll(dir) // litter only
	}
}

// Discard stops whatever server a killed process left on the data directory and removes the directory. It refuses, with
// an *[InUseError], when a live process holds it, and leaves a directory alone that no server was started on.
func Discard(ctx context.Context, dataDir string) error {
	if _, err := os.Stat(filepath.Join(dataDir, lockFile)); err != nil {
		return fmt.Errorf("discard data directory: %w", err)
	}
	lock, err := LockDir(dataDir)
	if err != nil {
		return err
	}
	s := &setup{
		PostgresOptions: PostgresOptions{DataDir: dataDir, Log: slog.New(slog.DiscardHandler)},
		cluster:         filepath.Join(dataDir, clusterDir),
	}
	err = s.stopOrphan(ctx)
	if err == nil {
		err = os.RemoveAll(dataDir)
	}
	return errors.Join(err, lock.Unlock())
}
