package ticker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// place is a location with a real NATS server and real targets.
type place struct {
	t    *testing.T
	nats *embedded.NATS
	opts embedded.NATSOptions
	conn *bus.Conn

	mu      sync.Mutex
	results []seen
}

type seen struct {
	id, subject string
	result      *picketv1.ProbeResult
	trace       trace.SpanContext
}

func newPlace(t *testing.T) *place {
	t.Helper()
	opts := embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: t.TempDir()}
	p := &place{t: t, opts: opts}
	p.nats = embeddedtest.NATSServer(t, opts)
	p.opts.Listen = strings.TrimPrefix(p.nats.ClientURL(), "nats://")
	p.conn = p.connect("test")
	p.await("streams", func() bool {
		return p.conn.EnsureStreams(t.Context(), bus.StreamLimits{MaxBytes: 128 << 20}) == nil
	})
	return p
}

func (p *place) connect(name string) *bus.Conn {
	p.t.Helper()
	conn, err := bus.Connect(bus.Options{URL: p.nats.ClientURL(), Name: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(conn.Close)
	return conn
}

// await polls until something holds.
func (p *place) await(what string, holds func() bool) {
	p.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline:
			p.t.Fatalf("waited too long for %s", what)
		}
	}
}

// follow reads every result from the stream.
func (p *place) follow() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	from := uint64(1)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			// It ends when the server restarts, or is not there; read on behind the last.
			_ = p.conn.WaitConnected(ctx)
			_ = p.conn.Follow(ctx, bus.FollowOptions{
				Stream: bus.StreamEvents, From: from, MaxBatch: 256, MaxWait: 10 * time.Millisecond,
				Handle: func(_ context.Context, batch []*bus.Msg) error {
					from = batch[len(batch)-1].Sequence + 1
					return p.read(batch)
				},
			})
		}
	}()
	p.t.Cleanup(func() { cancel(); <-done })
}

func (p *place) read(batch []*bus.Msg) error {
	for _, m := range batch {
		subject, err := bus.ParseSubject(m.Subject)
		if err != nil || subject.Family != bus.FamilyProbe {
			return err
		}
		result := &picketv1.ProbeResult{}
		if err := m.Decode(result); err != nil {
			return err
		}
		p.mu.Lock()
		p.results = append(p.results, seen{m.ID, m.Subject, result, m.Trace})
		p.mu.Unlock()
	}
	return nil
}

func (p *place) seen() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.results)
}

// catalog writes checks as the catalog service does.
func (p *place) catalog(n int, interval time.Duration, url string) {
	p.t.Helper()
	bucket, err := p.conn.CatalogBucket(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	values := map[string]proto.Message{}
	for i := range n {
		id := fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i+1)
		values[bus.CatalogKey("default", "local", id)] = &picketv1.ScheduledCheck{
			Server: fmt.Sprintf("server-%d", i+1), Org: "default", Location: "local", Lifecycle: "active", ServerId: fmt.Sprintf("id-of-server-%d", i+1),
			Check: &picketv1.Check{
				Name: "health", Kind: "http", Id: id, Serial: int64(i + 1), Revision: 1,
				TimeoutMs: interval.Milliseconds() / 2,
				Schedules: []*picketv1.Schedule{{
					Revision: 1, IntervalMs: interval.Milliseconds(), EffectiveAt: timestamppb.New(time.Now().Add(-time.Hour)),
				}},
				Spec: &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: url}},
			},
		}
	}
	if err := bucket.PutAll(p.t.Context(), values); err != nil {
		p.t.Fatal(err)
	}
}

// running is a ticker in this process.
type running struct {
	ticker *Ticker
	kit    *service.Kit
	stop   func()
}

// answers is a Runner whose target answers well.
type answers struct{}

func (answers) Run(context.Context) Outcome {
	return Outcome{Result: &picketv1.ProbeResult{
		Status: picketv1.Status_STATUS_HEALTHY, LatencyUs: 1500, HttpStatus: 200, Counters: map[string]float64{"requests": 3},
	}}
}

func (p *place) start(name string) *running { return p.startWith(name, func(*Options) {}) }

func (p *place) startWith(name string, change func(*Options)) *running {
	p.t.Helper()
	conn := p.connect(name)
	kit := &service.Kit{
		Name: "prober", Instance: name, Location: "local", Version: "test", Started: time.Now(),
		Log: slog.New(slog.DiscardHandler), Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	opts := Options{
		Kit: kit, Conn: conn, Kinds: []string{"http"},
		Config: Config{HostBatchSize: 10, HostBatchDelay: 500 * time.Millisecond, CycleInterval: 30 * time.Second},
		Build:  func(*picketv1.ScheduledCheck) (Runner, error) { return answers{}, nil },
	}
	change(&opts)
	k, err := New(opts)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("%s: %v", name, err)
		}
	})
	p.t.Cleanup(stop)
	return &running{k, kit, stop}
}

// gaps returns which ticks of the first n checks between two instants have no
// result.
func (p *place) gaps(n int, interval time.Duration, from, to time.Time) (due int, without []string) {
	have := map[string]bool{}
	for _, s := range p.seen() {
		have[s.id] = true
	}
	for i := range n {
		c := simTarget(i+1, interval.Milliseconds(), 0, 0)
		for at := range c.schedules.Due(c.serial, "local", from.UnixMilli(), to.UnixMilli()) {
			due++
			if id := identity(c.id, "local", at); !have[id] {
				without = append(without, id)
			}
		}
	}
	return due, without
}

// A result says who, what and when, on its subject and under its identity; and
// no tick is without one, through a second replica, its stop, and a restart of NATS.
func TestTicksThroughRealNATS(t *testing.T) {
	t.Parallel()
	const checks, interval = 40, 2 * time.Second
	p := newPlace(t)
	p.follow()
	p.catalog(checks, interval, "http://127.0.0.1:1/health")

	a := p.start("prober-a")
	p.await("the first results", func() bool { return len(p.seen()) >= checks })
	first := p.seen()[0]
	r := first.result
	if r.GetStatus() != picketv1.Status_STATUS_HEALTHY || r.GetOrg() != "default" || r.GetCheck() != "health" ||
		r.GetKind() != "http" || r.GetInstance() != "prober-a" || r.GetRevision() != 1 || r.GetHttpStatus() != 200 ||
		r.GetCounters()["requests"] != 3 || r.GetLatencyUs() <= 0 {
		t.Errorf("result %v", r)
	}
	if want := bus.ProbeSubject("default", r.GetStatus(), "local", r.GetServer(), "health"); first.subject != want {
		t.Errorf("subject %s, want %s", first.subject, want)
	}
	if want := identity(r.GetCheckId(), "local", r.GetScheduledAt().AsTime().UnixMilli()); first.id != want {
		t.Errorf("identity %s, want %s", first.id, want)
	}
	if late := r.GetStartedAt().AsTime().Sub(r.GetScheduledAt().AsTime()); late < 0 || late > 2*time.Second {
		t.Errorf("started %v after it was due", late)
	}
	if err := a.kit.Health.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	from := time.Now()

	b := p.start("prober-b")
	p.await("the second prober's share", func() bool {
		fa, fb := a.ticker.sched.figures(), b.ticker.sched.figures()
		return fb.Owned > checks/5 && fa.Owned+fb.Owned == checks
	})
	p.await("results of both", func() bool {
		for _, s := range p.seen() {
			if s.result.GetInstance() == "prober-b" {
				return true
			}
		}
		return false
	})

	p.nats.Stop()
	p.await("the loss of NATS", func() bool { return a.ticker.conn.Ready() != nil })
	p.nats = embeddedtest.NATSServer(t, p.opts)
	p.await("NATS again", func() bool { return a.ticker.conn.Ready() == nil && b.ticker.conn.Ready() == nil })

	b.stop()
	p.await("all checks with the first", func() bool { return a.ticker.sched.figures().Owned == checks })
	after := time.Now()
	p.await("results after that", func() bool {
		due, without := p.gaps(checks, interval, after, after.Add(interval))
		return time.Since(after) > interval && due > 0 && len(without) == 0
	})
	a.stop()
	due, without := p.gaps(checks, interval, from, after)
	p.await("what waited for NATS", func() bool {
		due, without = p.gaps(checks, interval, from, after)
		return len(without) == 0
	})
	if due == 0 {
		t.Error("no tick was due")
	}
	families, err := a.kit.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "fleet_probe") {
			t.Errorf("%s is still registered after the stop", family.GetName())
		}
	}
}

// The roster says where a process had been when it dies: somebody may delete it at any
// time, and it must not be missing for long.
func TestRosterIsWrittenAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.catalog(1, 5*time.Second, "http://127.0.0.1:1/health")
	raw, err := nats.Connect(p.nats.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.Close)
	js, err := jetstream.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	enrolled := func() bool {
		roster, err := p.conn.Roster(t.Context(), "prober", "local")
		return err == nil && len(roster) == 1
	}
	p.start("prober-a")
	p.await("the roster", enrolled)
	for name, harm := range map[string]func() error{
		"deleted": func() error { return js.DeleteKeyValue(t.Context(), bus.BucketWorkers) },
		"emptied": func() error {
			stream, err := js.Stream(t.Context(), "KV_"+bus.BucketWorkers)
			if err != nil {
				return err
			}
			return stream.Purge(t.Context())
		},
	} {
		begin := time.Now()
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		p.await("the roster again", enrolled)
		if took := time.Since(begin); took > enrollEvery*3/4 { // it was written just before
			t.Errorf("%s: written again after %v", name, took)
		}
	}
}

// The catalog changes while it is watched: removed checks are forgotten, entries
// that do not read change nothing.
func TestCatalogIsFollowed(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.catalog(5, 5*time.Second, "http://127.0.0.1:1/health")
	a := p.start("prober-a")
	p.await("five checks", func() bool { return a.ticker.sched.figures().Owned == 5 })
	bucket, err := p.conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := func(i int) string {
		return bus.CatalogKey("default", "local", fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i))
	}
	// No schedule, no name: nothing that could be run.
	if err := bucket.Put(t.Context(), key(1), &picketv1.ScheduledCheck{Server: "server-1"}); err != nil {
		t.Fatal(err)
	}
	if err := bucket.Delete(t.Context(), key(2)); err != nil {
		t.Fatal(err)
	}
	p.await("four checks", func() bool { f := a.ticker.sched.figures(); return f.Owned == 4 && f.Known == 4 })
	// Another location's are not ours.
	if err := bucket.Put(t.Context(), "default.elsewhere.x", &picketv1.ScheduledCheck{}); err != nil {
		t.Fatal(err)
	}
	p.catalog(7, 5*time.Second, "http://127.0.0.1:1")
	p.await("seven checks", func() bool { return a.ticker.sched.figures().Owned == 7 })
}
