package writer

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

var migrated = embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
	s, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
})

// world is the servers that a writer stands between, and a store and a bus of the test's own.
type world struct {
	t        testing.TB
	nats     *embedded.NATS
	database *embeddedtest.Database
	bus      *bus.Conn
	store    *store.Store
	log      *slog.Logger
	limits   bus.StreamLimits
}

func newWorld(t testing.TB, limits bus.StreamLimits) *world {
	t.Helper()
	w := &world{
		t: t, nats: embeddedtest.NATSServer(t, embedded.NATSOptions{}), database: migrated.Postgres(t), limits: limits,
		log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	w.bus = w.connect()
	w.store = w.open(w.database.URL)
	if err := w.bus.EnsureStreams(t.Context(), limits); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) connect() *bus.Conn {
	w.t.Helper()
	conn, err := bus.Connect(bus.Options{URL: w.nats.ClientURL(), Name: "test", Log: w.log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(conn.Close)
	if err := conn.WaitConnected(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

func (w *world) open(url string) *store.Store {
	w.t.Helper()
	s, err := store.Open(w.t.Context(), store.Options{URL: url, Log: w.log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// running is a writer at work.
type running struct {
	kit  *service.Kit
	stop func()
}

// service makes a writer without running it.
func (w *world) service(name string, change ...func(*Config)) (*Service, *service.Kit) {
	w.t.Helper()
	return w.serviceOn(name, w.database.URL, change...)
}

func (w *world) serviceOn(name, url string, change ...func(*Config)) (*Service, *service.Kit) {
	w.t.Helper()
	config := DefaultConfig()
	config.BatchWait, config.StateFlush = 20*time.Millisecond, 100*time.Millisecond
	for _, f := range change {
		f(&config)
	}
	kit := &service.Kit{
		Name: "writer", Instance: name, Location: "local", Version: "test", Started: time.Now(),
		Log: w.log.With("instance", name), Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	svc, err := New(config, Deps{Kit: kit, Conn: w.connect(), Store: w.open(url)})
	if err != nil {
		w.t.Fatal(err)
	}
	return svc, kit
}

// start runs a writer on a database address until stop, or the end of the test.
func (w *world) start(name, url string, change ...func(*Config)) *running {
	w.t.Helper()
	svc, kit := w.serviceOn(name, url, change...)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	stopped := false
	stop := func() {
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
	return &running{kit: kit, stop: stop}
}

// until polls for a condition, at most a minute.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited a minute for %s", what)
		}
	}
}

func (w *world) pgx() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.database.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

func (w *world) exec(sql string) {
	w.t.Helper()
	conn := w.pgx()
	defer conn.Close(context.WithoutCancel(w.t.Context()))
	if _, err := conn.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
}

// history is every result that is stored.
func (w *world) history() []store.Result {
	w.t.Helper()
	rows, err := w.store.History(w.t.Context(), store.HistoryQuery{
		From: time.Now().Add(-48 * time.Hour), To: time.Now().Add(48 * time.Hour), Limit: 1_000_000,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return rows
}

// results are n checks' outcomes of one tick, named by its instant.
func results(n int, at time.Time) []bus.Message {
	messages := make([]bus.Message, 0, n)
	for i := range n {
		messages = append(messages, asMessage(result(i, at)))
	}
	return messages
}

func result(n int, at time.Time) *picketv1.ProbeResult {
	at = at.Truncate(time.Millisecond)
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(n >> 16), byte(n >> 8), byte(n)})
	r := probe(at)
	r.CheckId, r.Components, r.Counters, r.Status = id.String(), nil, nil, picketv1.Status_STATUS_HEALTHY
	r.ScheduledAt = timestamppb.New(at)
	return r
}

func asMessage(r *picketv1.ProbeResult) bus.Message {
	return bus.Message{
		Subject: subjectOf(r), Time: time.Now(), Payload: r,
		ID: r.GetCheckId() + "/" + r.GetLocation() + "/" + r.GetScheduledAt().AsTime().Format(time.RFC3339Nano),
	}
}

func (w *world) publish(messages []bus.Message) {
	w.t.Helper()
	if err := w.bus.PublishAll(w.t.Context(), messages); err != nil {
		w.t.Fatal(err)
	}
}
