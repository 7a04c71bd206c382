package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/embedded"
)

// dataDir is a directory that the unprivileged user can walk to, unlike t.TempDir. Should the test be killed, the next
// one that uses embeddedtest sweeps it.
func dataDir(t *testing.T) string {
	t.Helper()
	//nolint:usetesting // PostgreSQL runs as another user, who cannot enter t.TempDir
	dir, err := os.MkdirTemp("/tmp", "pkt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// prepared is a cluster made once for the tests that are not about making one, which takes a second of both cores.
var prepared preparedCluster

type preparedCluster struct {
	once sync.Once
	dir  string
	err  error
}

func (p *preparedCluster) make() (err error) {
	if p.dir, err = os.MkdirTemp("/tmp", "pkt-"); err != nil {
		return err
	}
	postgres, err := embedded.StartPostgres(context.Background(), embedded.PostgresOptions{DataDir: p.dir, Disposable: true})
	if err != nil {
		return err
	}
	return postgres.Stop(context.Background())
}

func (p *preparedCluster) remove() error { return os.RemoveAll(p.dir) }

// preparedDir is a data directory with a cluster that has the default database.
func preparedDir(t *testing.T) string {
	t.Helper()
	prepared.once.Do(func() { prepared.err = prepared.make() })
	if prepared.err != nil {
		t.Fatal(prepared.err)
	}
	dir := dataDir(t)
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", filepath.Join(prepared.dir, "cluster"), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy cluster: %v\n%s", err, out)
	}
	return dir
}

func start(t *testing.T, opts embedded.PostgresOptions) *embedded.Postgres {
	t.Helper()
	postgres, err := embedded.StartPostgres(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, postgres) })
	return postgres
}

func stop(t *testing.T, postgres *embedded.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := postgres.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func queryString(t *testing.T, conn *pgx.Conn, query string) string {
	t.Helper()
	var value string
	if err := conn.QueryRow(t.Context(), query).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// until polls another process' doing.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func gone(pid int) bool {
	// A zombie counts as gone: in a container nobody may reap an orphan.
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(text), ") Z ")
}

func TestPostgresKeepsItsData(t *testing.T) {
	t.Parallel()
	// Longer than a socket's path may be.
	parent := dataDir(t)
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, strings.Repeat("a long name ", 10))
	opts := embedded.PostgresOptions{DataDir: dir, Database: `fleet "x"`, Settings: map[string]string{"work_mem": "7MB"}}

	first := start(t, opts)
	conn := connect(t, first.URL(`fleet "x"`))
	for query, want := range map[string]string{
		"SELECT datcollate FROM pg_database WHERE datname = current_database()": "C",
		"SHOW listen_addresses":   "",
		"SHOW server_encoding":    "UTF8",
		"SHOW fsync":              "on",
		"SHOW full_page_writes":   "on",
		"SHOW synchronous_commit": "on",
		"SHOW work_mem":           "7MB",
	} {
		if got := queryString(t, conn, query); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	if pgid, err := syscall.Getpgid(first.PID()); err != nil || pgid != first.PID() {
		t.Errorf("server is in process group %d (%v), want its own", pgid, err)
	}
	info, err := os.Stat(filepath.Dir(first.Socket()))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("socket directory has mode %v", info.Mode())
	}
	execute(t, conn, "CREATE TABLE kept AS SELECT 'row' AS value")

	_, err = embedded.StartPostgres(t.Context(), opts)
	inUse, ok := errors.AsType[*embedded.InUseError](err)
	if !ok || inUse.PID != os.Getpid() || !errors.Is(err, embedded.ErrDirInUse) {
		t.Errorf("second start: got %v, want InUseError of process %d", err, os.Getpid())
	}

	stop(t, first)
	if err := first.Err(); err != nil {
		t.Errorf("error after a wanted stop: %v", err)
	}
	if !gone(first.PID()) {
		t.Error("server lives after stop")
	}
	if _, err := os.Stat(filepath.Dir(first.Socket())); err == nil {
		t.Error("temporary socket directory stays after stop")
	}
	second := start(t, opts)
	if got := queryString(t, connect(t, second.URL(`fleet "x"`)), "SELECT value FROM kept"); got != "row" {
		t.Errorf("got %q", got)
	}
}

func TestPostgresStopDoesNotWaitForClients(t *testing.T) {
	t.Parallel()
	postgres := start(t, embedded.PostgresOptions{DataDir: preparedDir(t), Disposable: true})
	conn := connect(t, postgres.URL(embedded.DefaultDatabase))
	execute(t, conn, "BEGIN")
	execute(t, conn, "CREATE TABLE open_transaction (id int)")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := postgres.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-postgres.Done():
	default:
		t.Error("stop returned before the end")
	}
	if err := postgres.Stop(ctx); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

// spawn runs this binary as a program that holds dir.
func spawn(t *testing.T, dir string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says "killed"
}

func TestPostgresOfAKilledParent(t *testing.T) {
	t.Parallel()
	dir := preparedDir(t)
	parent, lines := spawn(t, dir)
	if !lines.Scan() {
		t.Fatal("child says nothing")
	}
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	opts := embedded.PostgresOptions{DataDir: dir}
	_, err = embedded.StartPostgres(t.Context(), opts)
	if inUse, ok := errors.AsType[*embedded.InUseError](err); !ok || inUse.PID != parent.Process.Pid {
		t.Fatalf("got %v, want InUseError of process %d", err, parent.Process.Pid)
	}

	conn := connect(t, "postgres:///picket?user=postgres&host="+filepath.Join(dir, "run"))
	execute(t, conn, "CREATE TABLE kept AS SELECT 'row' AS value")
	kill(t, parent)
	if gone(pid) {
		t.Fatal("server died with its parent: nothing to test")
	}
	postgres := start(t, opts)
	if !gone(pid) {
		t.Errorf("orphan %d lives", pid)
	}
	if got := queryString(t, connect(t, postgres.URL("picket")), "SELECT value FROM kept"); got != "row" {
		t.Errorf("got %q", got)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("connection to the orphan still works")
	}
}

func TestPostgresInterruptedInit(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	parent, _ := spawn(t, dir)
	until(t, "initdb", func() bool {
		half, err := filepath.Glob(filepath.Join(dir, "init-*", "base"))
		return err == nil && len(half) > 0
	})
	kill(t, parent)
	if _, err := os.Stat(filepath.Join(dir, "cluster")); err == nil {
		t.Fatal("cluster is there before it is whole")
	}
	postgres := start(t, embedded.PostgresOptions{DataDir: dir, Disposable: true})
	connect(t, postgres.URL("picket"))
	until(t, "unfinished clusters to go", func() bool {
		// The orphaned initdb may write for another second; a later start sweeps.
		stop(t, postgres)
		postgres = start(t, embedded.PostgresOptions{DataDir: dir, Disposable: true})
		half, err := filepath.Glob(filepath.Join(dir, "init-*"))
		return err == nil && len(half) == 0
	})
}

func TestPostgresThatDies(t *testing.T) {
	t.Parallel()
	opts := embedded.PostgresOptions{DataDir: preparedDir(t), Disposable: true}
	postgres := start(t, opts)
	connect(t, postgres.URL("picket")) // a child that has to notice
	if err := postgres.Err(); err != nil {
		t.Errorf("error while running: %v", err)
	}
	if err := syscall.Kill(postgres.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-postgres.Done()
	if err := postgres.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v", err)
	}
	again := start(t, opts)
	connect(t, again.URL("picket"))
}

func TestPostgresStalePIDFile(t *testing.T) {
	t.Parallel()
	opts := embedded.PostgresOptions{DataDir: preparedDir(t), Disposable: true}
	stop(t, start(t, opts))
	for name, content := range map[string]string{
		"another live process": strconv.Itoa(os.Getpid()) + "\n" + filepath.Join(opts.DataDir, "cluster") + "\n1700000000\n5432\n\n\n\nready\n",
		"dead process":         "4194300\n" + filepath.Join(opts.DataDir, "cluster") + "\n1700000000\n5432\n\n\n\nready\n",
		"empty":                "",
		"cut off":              "12",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(opts.DataDir, "cluster", "postmaster.pid")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				info, err := os.Stat(filepath.Dir(path))
				if err != nil {
					t.Fatal(err)
				}
				stat := info.Sys().(*syscall.Stat_t)
				if err := os.Chown(path, int(stat.Uid), int(stat.Gid)); err != nil {
					t.Fatal(err)
				}
			}
			postgres := start(t, opts)
			connect(t, postgres.URL("picket"))
			stop(t, postgres)
		})
	}
}

func TestPostgresRefusals(t *testing.T) {
	t.Parallel()
	refused := func(t *testing.T, opts embedded.PostgresOptions, want ...string) string {
		t.Helper()
		postgres, err := embedded.StartPostgres(t.Context(), opts)
		if err == nil {
			stop(t, postgres)
			t.Fatal("started")
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q lacks %q", err, part)
			}
		}
		return err.Error()
	}
	t.Run("another major version", func(t *testing.T) {
		t.Parallel()
		dir := dataDir(t)
		cluster := filepath.Join(dir, "cluster")
		if err := os.Mkdir(cluster, 0o700); err != nil {
			t.Fatal(err)
		}
		version := filepath.Join(cluster, "PG_VERSION")
		if err := os.WriteFile(version, []byte("9\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		message := refused(t, embedded.PostgresOptions{DataDir: dir}, "PostgreSQL 9", embedded.PostgresBinVariable)
		if strings.Contains(message, "\n") {
			t.Errorf("more than one line: %q", message)
		}
		if content, err := os.ReadFile(version); err != nil || string(content) != "9\n" {
			t.Errorf("data touched: %q, %v", content, err)
		}
		if lock, err := embedded.LockDir(dir); err != nil {
			t.Errorf("directory stays locked: %v", err)
		} else if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	})
	t.Run("something that is no cluster", func(t *testing.T) {
		t.Parallel()
		dir := dataDir(t)
		file := filepath.Join(dir, "cluster", "diary.txt")
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("dear"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, embedded.PostgresOptions{DataDir: dir}, "not empty")
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
	t.Run("server that cannot start", func(t *testing.T) {
		t.Parallel()
		refused(t, embedded.PostgresOptions{
			DataDir: preparedDir(t), Disposable: true, Settings: map[string]string{"shared_buffers": "plenty"},
		}, "exit status", `invalid value for parameter "shared_buffers"`)
	})
	t.Run("time is up", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("enough")
		cancel(reason)
		if _, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{DataDir: dataDir(t)}); err == nil {
			t.Error("started")
		}
	})
	t.Run("closed parent directory", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("only root runs the server as somebody else")
		}
		parent := dataDir(t) // mode 0700
		refused(t, embedded.PostgresOptions{DataDir: filepath.Join(parent, "data")}, "cannot enter "+parent, "chmod o+x")
	})
	t.Run("no binaries", func(t *testing.T) {
		t.Parallel()
		refused(t, embedded.PostgresOptions{DataDir: dataDir(t), BinDir: "/nonexistent"}, "/nonexistent")
	})
}

func TestPostgresAsNobody(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as somebody else")
	}
	postgres := start(t, embedded.PostgresOptions{DataDir: dataDir(t), User: "nobody", Disposable: true})
	connect(t, postgres.URL("picket"))
	info, err := os.Stat(postgres.Socket())
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 65534 {
		t.Errorf("socket belongs to %d", uid)
	}
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	dir := preparedDir(t)
	parent, lines := spawn(t, dir)
	if !lines.Scan() {
		t.Fatal("child says nothing")
	}
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	if err := embedded.Discard(t.Context(), dir); !errors.Is(err, embedded.ErrDirInUse) {
		t.Fatalf("got %v, want a refusal", err)
	}
	kill(t, parent)
	if err := embedded.Discard(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if !gone(pid) {
		t.Error("server lives")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("directory stays")
	}
	foreign := t.TempDir()
	if err := embedded.Discard(t.Context(), foreign); err == nil {
		t.Error("discarded a directory that is no data directory")
	}
}

func TestFindPostgres(t *testing.T) {
	dir, err := embedded.FindPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(embedded.PostgresBinVariable, dir)
	if got, err := embedded.FindPostgres(t.Context()); err != nil || got != dir {
		t.Errorf("got %q, %v, want %q", got, err, dir)
	}
	t.Setenv(embedded.PostgresBinVariable, "/nonexistent")
	if _, err := embedded.FindPostgres(t.Context()); err == nil || !strings.Contains(err.Error(), embedded.PostgresBinVariable) {
		t.Errorf("got %v, want an error that names %s", err, embedded.PostgresBinVariable)
	}
	old := t.TempDir()
	for name, script := range map[string]string{
		"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n", "initdb": "#!/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(old, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(embedded.PostgresBinVariable, old)
	if _, err := embedded.FindPostgres(t.Context()); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("got %v, want too old", err)
	}
}

// What scripts/postgres unpacks for a user who may not install is found, the newest of it first.
func TestFindPostgresInCache(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root does not look into a cache")
	}
	cache := t.TempDir()
	t.Setenv(embedded.PostgresBinVariable, "")
	t.Setenv("PATH", cache)
	t.Setenv("HOME", cache)
	t.Setenv("XDG_CACHE_HOME", cache)
	userCache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	var newest string
	for _, major := range []string{"98", "99"} { // newer than any that this machine may have installed
		newest = filepath.Join(userCache, "picket", "postgres", major, "bin")
		if err := os.MkdirAll(newest, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, script := range map[string]string{
			"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) " + major + ".1'\n", "initdb": "#!/bin/sh\n",
		} {
			if err := os.WriteFile(filepath.Join(newest, name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := embedded.FindPostgres(t.Context()); err != nil || got != newest {
		t.Errorf("got %q, %v, want %q", got, err, newest)
	}
}
