package exporter

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/blob/blobtest"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
)

const childVariable = "PICKET_TEST_EXPORTER"

// TestMain also plays exporters in processes of their own, which can be killed.
func TestMain(m *testing.M) {
	if settings := os.Getenv(childVariable); settings != "" {
		if err := runChild(settings); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	embeddedtest.Main(m)
}

var migrated = embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
	s, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
})

// world is the servers that exporters stand between, and a store, a bus and objects of the test's own.
type world struct {
	t        testing.TB
	nats     *embedded.NATS
	natsDir  string
	database *embeddedtest.Database
	objects  blob.Config
	bus      *bus.Conn
	store    *store.Store
	blob     blob.Store
	log      *slog.Logger
}

// stores are the configurations of both kinds of object stores, by name.
var stores = map[string]func(t testing.TB) blob.Config{
	"dir": func(t testing.TB) blob.Config {
		config := blob.DefaultConfig()
		config.Dir = t.TempDir()
		return config
	},
	"s3": func(t testing.TB) blob.Config { return blobtest.S3(t).Config },
}

func newWorld(t testing.TB, objects blob.Config) *world {
	t.Helper()
	natsDir := t.TempDir()
	w := &world{
		t: t, nats: embeddedtest.NATSServer(t, embedded.NATSOptions{StoreDir: natsDir}), natsDir: natsDir, database: migrated.Postgres(t), objects: objects,
		log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	var err error
	if w.bus, err = bus.Connect(bus.Options{URL: w.nats.ClientURL(), Name: "test", Log: w.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.bus.Close)
	if err := w.bus.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.bus.EnsureStreams(t.Context(), bus.StreamLimits{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if w.store, err = store.Open(t.Context(), store.Options{URL: w.database.URL, Log: w.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	if w.blob, err = blob.Open(blob.Options{Config: objects}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.blob.Close() })
	if err := w.blob.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.store.EnsurePartitions(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return w
}

// quick is a configuration for tests: what is stuck is noticed at once.
func quick() Config {
	config := DefaultConfig()
	config.Lease, config.SweepInterval, config.OrphanGrace, config.MaxTries = 2*time.Second, 200*time.Millisecond, time.Second, 100
	return config
}

// start runs an exporter in this process until stop or the end of the test.
func (w *world) start(config Config, objects blob.Store) (svc *Service, stop func()) {
	w.t.Helper()
	kit := &service.Kit{
		Name: "exporter", Instance: "in-process-" + uuid.NewString()[:8], Location: "local", Version: "test", Started: time.Now(),
		Log: w.log, Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	svc, err := New(config, Deps{Kit: kit, Conn: w.bus, Store: w.store, Blob: objects})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	}
	w.t.Cleanup(stop)
	return svc, stop
}

// until polls for a condition; nothing waits that long when all is well.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	w.within(3*time.Minute, what, ok)
}

func (w *world) within(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

// ask puts an export into the queue.
func (w *world) ask(n store.NewExport) store.Export {
	w.t.Helper()
	n.Org, n.CreatedBy = "default", "tester"
	e, err := w.store.CreateExport(w.t.Context(), n, store.Idempotency{}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) look(e store.Export) store.Export {
	w.t.Helper()
	now, err := w.store.Export(w.t.Context(), "default", e.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return now
}

// await waits until an export is over.
func (w *world) await(e store.Export) store.Export {
	w.t.Helper()
	w.until("the end of the export", func() bool {
		e = w.look(e)
		return e.Status != store.ExportPending && e.Status != store.ExportProcessing
	})
	return e
}

// exec runs SQL behind the store's back.
func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.database.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(w.t.Context()))
	if _, err := conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// fill makes the history of a fleet: so many checks with so many results each, all within the last day.
func (w *world) fill(checks, each int) {
	w.t.Helper()
	fill(w.t, w.database.URL, checks, each)
}

func fill(t testing.TB, url string, checks, each int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO managed_servers (org, name, managed_by)
		 SELECT 'default', 'server-' || lpad(n::text, 6, '0'), 'api' FROM generate_series(1, %d) n`, checks),
		`INSERT INTO check_states (check_id, scheduled_at, since, stream_epoch, stream_seq, latency_us, status, missed, org, location,
		                          server, check_name, kind, reason, message)
		 SELECT gen_random_uuid(), now(), now(), 1, 1, 0, 1, false, 'default', 'local', name, 'health', 'http', '', '' FROM managed_servers`,
		fmt.Sprintf(`INSERT INTO server_health_checks (check_id, scheduled_at, started_at, stream_epoch, stream_seq, latency_us, revision, status,
		                                  http_status, missed, on_demand, connection_reused, org, location, instance, reason, message, details)
		 SELECT k.check_id, now() - interval '1 minute' - n * interval '10 milliseconds', now(), 1, n, (random() * 100000)::int, 1,
		        1 + (n %% 4), 200, false, false, true, 'default', 'local', 'prober-1', '', 'message ' || n, NULL
		 FROM check_states k, generate_series(1, %d) n`, each),
		`ANALYZE server_health_checks`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// object reads an object, and says its SHA-256.
func (w *world) object(key string) (data []byte, sum string) {
	w.t.Helper()
	r, err := w.blob.Open(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	if data, err = io.ReadAll(r); err != nil {
		w.t.Fatal(err)
	}
	hash := sha256.Sum256(data)
	return data, hex.EncodeToString(hash[:])
}

// checkWhole holds a completed export to what its row says: the object is there, alone, with this checksum and these rows.
func (w *world) checkWhole(e store.Export, rows int64) {
	w.t.Helper()
	if e.Status != store.ExportCompleted || e.Rows != rows {
		w.t.Fatalf("export %s is %s with %d rows (%s), want %d", e.ID, e.Status, e.Rows, e.Error, rows)
	}
	data, sum := w.object(e.Key)
	if sum != e.SHA256 || int64(len(data)) != e.Bytes {
		w.t.Errorf("object of %d bytes, SHA-256 %s; its row says %d, %s", len(data), sum, e.Bytes, e.SHA256)
	}
	if e.Format != "ndjson" {
		return
	}
	if got := countLines(w.t, data, e.Compression); got != rows {
		w.t.Errorf("%d lines in the object, want %d", got, rows)
	}
}

func countLines(t testing.TB, data []byte, compression string) int64 {
	t.Helper()
	var r io.Reader = bytes.NewReader(data)
	var err error
	switch compression {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		var z *zstd.Decoder
		z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		defer z.Close()
		r = z
	}
	if err != nil {
		t.Fatal(err)
	}
	lines, scanner := int64(0), bufio.NewScanner(r)
	for scanner.Scan() {
		if line := scanner.Bytes(); !bytes.HasPrefix(line, []byte("{")) || !bytes.HasSuffix(line, []byte("}")) {
			t.Fatalf("line %d is not whole: %s", lines, line)
		}
		lines++
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// checkNothingElse holds the object store to the completed exports: nothing but their objects, and nothing unfinished.
func (w *world) checkNothingElse(exports ...store.Export) {
	w.t.Helper()
	var want string
	for _, e := range exports {
		want += e.Key + " "
	}
	w.until("the store to hold just the objects of completed exports", func() bool {
		have, unfinished := 0, 0
		err := w.blob.List(w.t.Context(), "", func(info blob.Info) error {
			if !strings.Contains(want, info.Key+" ") {
				have += 1000
			}
			have++
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.blob.Uploads(w.t.Context(), "", func(blob.Unfinished) error { unfinished++; return nil }); err != nil {
			w.t.Fatal(err)
		}
		return have == len(exports) && unfinished == 0
	})
}

// child is an exporter in a process of its own.
type child struct {
	command *exec.Cmd
	exited  chan struct{}
}

// childSettings is what a child is told.
type childSettings struct {
	Name          string
	NATS, DB      string
	Objects       blob.Config
	Config        Config
	Point, Signal string // where it sends itself which signal, once
}

// spawn starts an exporter in a process of its own.
func (w *world) spawn(settings childSettings) *child {
	w.t.Helper()
	settings.NATS, settings.DB, settings.Objects = w.nats.ClientURL(), w.database.URL, w.objects
	text, err := json.Marshal(settings)
	if err != nil {
		w.t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.run(exec.Command(program), childVariable+"="+string(text))
}

// run starts a program that ends with the test.
func (w *world) run(command *exec.Cmd, environ ...string) *child {
	w.t.Helper()
	c := &child{command: command, exited: make(chan struct{})}
	c.command.Env = append(os.Environ(), environ...)
	output := w.t.Output()
	c.command.Stdout, c.command.Stderr = output, output
	c.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.command.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(c.exited)
		_ = c.command.Wait() // how it ends is up to the test
	}()
	w.t.Cleanup(c.kill)
	return c
}

func (c *child) kill() {
	_ = c.command.Process.Kill()
	<-c.exited
}

func (c *child) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := c.command.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// runChild is the exporter of a child.
func runChild(text string) error {
	var settings childSettings
	if err := json.Unmarshal([]byte(text), &settings); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("child", settings.Name)
	conn, err := bus.Connect(bus.Options{URL: settings.NATS, Name: settings.Name, Log: log})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.WaitConnected(ctx); err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Options{URL: settings.DB, Log: log})
	if err != nil {
		return err
	}
	defer db.Close()
	objects, err := blob.Open(blob.Options{Config: settings.Objects, PartSize: partSize})
	if err != nil {
		return err
	}
	defer func() { _ = objects.Close() }()
	kit := &service.Kit{
		Name: "exporter", Instance: settings.Name, Location: "local", Version: "test", Started: time.Now(),
		Log: log, Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	svc, err := New(settings.Config, Deps{Kit: kit, Conn: conn, Store: db, Blob: newTripwire(objects, settings.Point, settings.Signal)})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}
