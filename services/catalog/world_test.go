package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// patience is how long a test waits for what must come; nothing is expected to take a tenth of it.
const patience = 60 * time.Second

var migrated = embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
	s, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
})

// world is a database, a NATS server and a file, with eyes of the test's own on each.
type world struct {
	t        *testing.T
	database *embeddedtest.Database
	natsURL  string
	file     string
	store    *store.Store
	conn     *bus.Conn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, migrated.Postgres(t), embeddedtest.NATS(t))
}

func newWorldOn(t *testing.T, database *embeddedtest.Database, natsURL string) *world {
	t.Helper()
	w := &world{t: t, database: database, natsURL: natsURL, file: filepath.Join(t.TempDir(), "picket.yaml")}
	w.store = w.openStore(database.URL)
	w.conn = w.connect("eyes")
	if err := w.conn.EnsureStreams(t.Context(), bus.StreamLimits{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) openStore(url string) *store.Store {
	w.t.Helper()
	s, err := store.Open(w.t.Context(), store.Options{URL: url})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

func (w *world) connect(name string) *bus.Conn {
	w.t.Helper()
	conn, err := bus.Connect(bus.Options{URL: w.natsURL, Name: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(conn.Close)
	if err := conn.WaitConnected(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// replica is a running service.
type replica struct {
	*Service
	t       *testing.T
	log     *journal
	reload  chan os.Signal
	cancel  context.CancelFunc
	stopped chan error
}

type option func(*Config, *Deps, *timings)

func environ(variables ...string) option {
	return func(_ *Config, d *Deps, _ *timings) { d.Environ = variables }
}

// comparing has everything compared time and again, though nothing differs.
func comparing(_ *Config, _ *Deps, t *timings) { t.fullEvery = 0 }

// start runs a replica on the world's file; the environment is empty unless an option says otherwise.
func (w *world) start(name string, options ...option) *replica {
	w.t.Helper()
	r := &replica{t: w.t, log: &journal{}, reload: make(chan os.Signal), stopped: make(chan error, 1)}
	config := DefaultConfig()
	config.File = w.file
	deps := Deps{
		Kit: &service.Kit{
			Name: "catalog", Instance: name, Location: "local", Log: slog.New(slog.NewTextHandler(r.log, nil)),
			Metrics: prometheus.NewRegistry(), Health: service.NewHealth(),
		},
		Conn: w.connect(name), Environ: []string{}, Reload: r.reload,
	}
	timings := timings{
		leaseTTL: 2 * time.Second, leaseRenew: 200 * time.Millisecond,
		compareEvery: time.Second, fullEvery: time.Hour, republishAfter: time.Millisecond, filePoll: 100 * time.Millisecond,
	}
	for _, o := range options {
		o(&config, &deps, &timings)
	}
	if deps.Store == nil {
		deps.Store = w.openStore(w.database.URL)
	}
	s, err := New(config, deps)
	if err != nil {
		w.t.Fatal(err)
	}
	s.timings = timings
	r.Service = s
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.stopped <- s.Run(ctx) }()
	w.t.Cleanup(r.stop)
	return r
}

// stop ends a replica as a signal does; it may be called twice.
func (r *replica) stop() {
	r.cancel()
	select {
	case err, running := <-r.stopped:
		if !running {
			return
		}
		close(r.stopped)
		if err != nil {
			r.t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		r.t.Error("the service does not stop")
	}
	if r.t.Failed() {
		r.t.Logf("log of %s:\n%s", r.owner, r.log)
	}
}

// journal keeps a log.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) count(part string) int { return strings.Count(j.String(), part) }

// eventually waits for what to return nil.
func eventually(t *testing.T, what func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := what()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %v", err)
		}
	}
}

// write puts content in the place of the file, as editors do.
func (w *world) write(content string) {
	w.t.Helper()
	next := w.file + ".new"
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, w.file); err != nil {
		w.t.Fatal(err)
	}
}

// yaml declares servers by name.
func yaml(names ...string) string {
	var b strings.Builder
	b.WriteString("servers:\n")
	for _, name := range names {
		fmt.Fprintf(&b, "  - name: %s\n    url: http://%s/health\n", name, name)
	}
	if len(names) == 0 {
		return "servers: []\n"
	}
	return b.String()
}

// load is what the database holds, and servers the names that live there, each with its revision.
func (w *world) load() map[string]*catalog.Server {
	w.t.Helper()
	loaded, err := w.store.LoadCatalog(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	servers := map[string]*catalog.Server{}
	for i := range loaded.Servers {
		if loaded.Servers[i].Change != catalog.Removed {
			servers[loaded.Servers[i].Name] = &loaded.Servers[i]
		}
	}
	return servers
}

func (w *world) servers() map[string]int64 {
	revisions := map[string]int64{}
	for name, server := range w.load() {
		revisions[name] = server.Revision
	}
	return revisions
}

// entries are what the bucket holds, by server and check, each with its revision.
func (w *world) entries() (map[string]int64, error) {
	bucket, err := w.conn.CatalogBucket(w.t.Context())
	if err != nil {
		return nil, err
	}
	list, err := bucket.List(w.t.Context(), ">")
	if err != nil {
		return nil, err
	}
	entries := map[string]int64{}
	for _, entry := range list {
		if entry.Deleted {
			continue
		}
		var value picketv1.ScheduledCheck
		if err := entry.Decode(&value); err != nil {
			return nil, err
		}
		entries[value.GetServer()+"/"+value.GetCheck().GetName()] = value.GetCheck().GetRevision()
	}
	return entries, nil
}

// expect waits until database and bucket are as wanted: servers by name with their revision; every one has one check.
func (w *world) expect(want map[string]int64) {
	w.t.Helper()
	eventually(w.t, func() error {
		if diff := cmp.Diff(want, w.servers()); diff != "" {
			return fmt.Errorf("servers (-want +got):\n%s", diff)
		}
		entries, err := w.entries()
		if err != nil {
			return err
		}
		for name := range want {
			if _, there := entries[name+"/health"]; !there {
				return fmt.Errorf("no entry for %s in %v", name, slices.Sorted(maps.Keys(entries)))
			}
		}
		return nil
	})
}

// event is a CatalogChange as the stream has it.
type event struct {
	Change, Server string
	Revision       int64
}

// events are the changes in the stream, in order.
func (w *world) events() ([]event, error) {
	info, err := w.conn.StreamInfo(w.t.Context(), bus.StreamEvents)
	if err != nil || info.Messages == 0 {
		return nil, err
	}
	var events []event
	done := errors.New("all read")
	err = w.conn.Follow(w.t.Context(), bus.FollowOptions{
		Stream: bus.StreamEvents, From: 1, MaxBatch: 1000, MaxWait: 10 * time.Millisecond,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			for _, msg := range batch {
				subject, err := bus.ParseSubject(msg.Subject)
				if err != nil {
					return err
				}
				if subject.Family == bus.FamilyCatalog {
					var change picketv1.CatalogChange
					if err := msg.Decode(&change); err != nil {
						return err
					}
					if subject.Verb != change.GetChange() || subject.Server != change.GetServer().GetName() {
						return fmt.Errorf("%s says %s of %s", msg.Subject, change.GetChange(), change.GetServer().GetName())
					}
					events = append(events, event{change.GetChange(), change.GetServer().GetName(), change.GetServer().GetRevision()})
				}
				if msg.Sequence >= info.LastSeq {
					return done
				}
			}
			return nil
		},
	})
	if !errors.Is(err, done) {
		return nil, err
	}
	return events, nil
}

func (w *world) expectEvents(want ...event) {
	w.t.Helper()
	eventually(w.t, func() error {
		got, err := w.events()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("events (-want +got):\n%s", diff)
		}
		return nil
	})
}
