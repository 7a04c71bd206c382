package alerter

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// migrated is a database with the whole schema, made once and copied for each test.
var migrated = embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
	s, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
})

const (
	patience = 30 * time.Second
	lookEach = 10 * time.Millisecond
)

// fixture is a NATS server and a database of one test's own.
type fixture struct {
	t        testing.TB
	natsURL  string
	database *embeddedtest.Database
	conn     *bus.Conn
	db       *pgxpool.Pool
	tick     time.Time // of the next results
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureOn(t, embeddedtest.NATS(t))
}

func newFixtureOn(t testing.TB, natsURL string) *fixture {
	t.Helper()
	f := &fixture{t: t, natsURL: natsURL, database: migrated.Postgres(t), tick: time.Now().Add(-time.Hour).Truncate(time.Second)}
	db, err := pgxpool.New(t.Context(), f.database.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	f.db = db
	f.conn = f.connect("test")
	f.ensureStreams()
	return f
}

func (f *fixture) ensureStreams() {
	f.t.Helper()
	wait(f.t, "the streams", func() bool {
		return f.conn.Connected() && f.conn.EnsureStreams(f.t.Context(), bus.StreamLimits{MaxBytes: 64 << 20}) == nil
	})
}

func (f *fixture) connect(name string) *bus.Conn {
	f.t.Helper()
	conn, err := bus.Connect(bus.Options{URL: f.natsURL, Name: name, Log: f.log(name)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(conn.Close)
	wait(f.t, "nats", conn.Connected)
	return conn
}

func (f *fixture) log(name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(f.t.Output(), nil)).With("instance", name)
}

// alerter makes one whose database is at url; empty: the test's.
func (f *fixture) alerter(name, url string, change ...func(*Config)) *Service {
	f.t.Helper()
	if url == "" {
		url = f.database.URL
	}
	db, err := store.Open(f.t.Context(), store.Options{URL: url, Log: f.log(name)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(db.Close)
	config := DefaultConfig()
	config.Lease, config.Snapshot = time.Second, time.Second
	for _, c := range change {
		c(&config)
	}
	kit := &service.Kit{
		Name: "alerter", Instance: name, Location: "local", Started: time.Now(), Log: f.log(name), Metrics: service.NewRegistry(),
		Health: service.NewHealth(),
	}
	s, err := New(config, Deps{Kit: kit, Conn: f.connect(name), Store: db, Limits: bus.StreamLimits{MaxBytes: 64 << 20}})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// start runs an alerter until stop is called or the test ends.
func (f *fixture) start(s *Service) (stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	}
	f.t.Cleanup(stop)
	return stop
}

func serverName(n int) string { return fmt.Sprintf("srv%d", n) }
func checkID(n int) string    { return fmt.Sprintf("00000000-0000-4000-9000-%012x", n) }

// add publishes a server with one check, due every hour so that silence takes long.
func (f *fixture) add(n int) {
	f.t.Helper()
	f.send(&picketv1.CatalogChange{Change: "added", Server: &picketv1.Server{
		Name: serverName(n), Org: "default", Id: fmt.Sprintf("00000000-0000-4000-8000-%012x", n), Lifecycle: "active", Source: "env",
		Revision: 1, Checks: []*picketv1.Check{{
			Name: "health", Kind: "http", Id: checkID(n), TimeoutMs: 5000, Locations: []string{"local"},
			Schedules: []*picketv1.Schedule{{IntervalMs: 3_600_000, EffectiveAt: timestamppb.New(f.tick)}},
		}},
	}})
}

// probe publishes one result per letter (H or C) of a server, at ascending ticks.
func (f *fixture) probe(n int, letters string) {
	f.t.Helper()
	for _, letter := range letters {
		status := picketv1.Status_STATUS_HEALTHY
		if letter == 'C' {
			status = picketv1.Status_STATUS_CRITICAL
		}
		f.tick = f.tick.Add(time.Second)
		f.send(&picketv1.ProbeResult{
			Status: status, Server: serverName(n), Check: "health", CheckId: checkID(n), Location: "local", Org: "default",
			ScheduledAt: timestamppb.New(f.tick), Message: "said the test",
		})
	}
}

func (f *fixture) send(payload proto.Message) uint64 {
	f.t.Helper()
	m := bus.Message{Time: time.Now(), Payload: payload}
	switch p := payload.(type) {
	case *picketv1.CatalogChange:
		m.Subject = bus.CatalogSubject("default", p.GetChange(), p.GetServer().GetName())
	case *picketv1.ProbeResult:
		m.Subject = bus.ProbeSubject("default", p.GetStatus(), p.GetLocation(), p.GetServer(), p.GetCheck())
	}
	seq, err := f.conn.Publish(f.t.Context(), m)
	if err != nil {
		f.t.Fatal(err)
	}
	return seq
}

// stream opens a stream with the client itself: what went over the wire is read past our own code.
func (f *fixture) stream(name string) (jetstream.JetStream, jetstream.Stream) {
	f.t.Helper()
	nc, err := nats.Connect(f.natsURL)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	stream, err := js.Stream(f.t.Context(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	return js, stream
}

// published returns the subjects of all alert events in the stream, in order.
func (f *fixture) published() []string {
	f.t.Helper()
	_, stream := f.stream(bus.StreamAlerts)
	info, err := stream.Info(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	var subjects []string
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(f.t.Context(), seq)
		if err != nil {
			f.t.Fatal(err)
		}
		subjects = append(subjects, msg.Subject)
	}
	return subjects
}

// strings runs a query of one text column.
func (f *fixture) strings(sql string, args ...any) []string {
	f.t.Helper()
	rows, err := f.db.Query(f.t.Context(), sql, args...)
	if err != nil {
		f.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatal(err)
	}
	return all
}

// history returns the transitions of a server's alerts, as they were decided.
func (f *fixture) history(n int) []string {
	f.t.Helper()
	return f.strings(`
		SELECT e.transition || ' ' || e.kind FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
		WHERE a.server = $1 ORDER BY stream_epoch, stream_seq`, serverName(n))
}

// waitHistory waits until a server's alerts have had that many transitions.
func (f *fixture) waitHistory(n, transitions int) {
	f.t.Helper()
	wait(f.t, fmt.Sprintf("%d transitions of %s", transitions, serverName(n)), func() bool { return len(f.history(n)) >= transitions })
}

// waitLeader waits until s folds.
func waitLeader(t testing.TB, s *Service) {
	t.Helper()
	wait(t, "the lead of "+s.kit.Instance, func() bool { return gauge(s.metrics.leader) == 1 })
}

func wait(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(lookEach)
	defer ticker.Stop()
	for !is() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
