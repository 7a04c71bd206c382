package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
)

const (
	startTimeout    = 5 * time.Minute
	postgresRestart = time.Second
	// leastStreamBytes holds a day of some hundred checks.
	leastStreamBytes = 256 << 20
	// exportsDir is where exports are kept in the data directory when there is no object store.
	exportsDir = "exports"
)

// stack is everything that runs in one process, from the ground up: the
// servers inside, the listener, the services. It stops in the opposite order.
type stack struct {
	settings settings
	log      *slog.Logger
	postgres *embedded.Postgres // nil when the database is somebody else's
	database string
	nats     *embedded.NATS // nil when NATS is somebody else's
	listener net.Listener
	demo     *demoFleet
	metrics  *prometheus.Registry
	reload   <-chan os.Signal // has the catalog read its file at once
	// databaseKit and db answer for the database itself.
	databaseKit *service.Kit
	db          *store.Store
	exports     blob.Store // of the exporter and the api
	parts       []*part
	// api answers whatever is not about the process; it is the one of the api's newest run.
	api atomic.Pointer[http.Handler]
}

// newStack starts the servers inside, and makes the services without starting
// them. After an error nothing is left running.
func newStack(ctx context.Context, s settings, demo bool, reload <-chan os.Signal, log *slog.Logger) (_ *stack, err error) {
	st := &stack{
		settings: s, log: log, reload: reload, metrics: service.NewRegistry(),
		databaseKit: &service.Kit{Name: "database", Version: service.Version(), Log: log, Health: service.NewHealth()},
	}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if st.listener, err = service.Listen(ctx, s.AdminListen, "PICKET_ADMIN_LISTEN"); err != nil {
		return nil, err
	}
	if s.NATSURL == "" {
		st.nats, err = embedded.StartNATS(ctx, embedded.NATSOptions{
			StoreDir: filepath.Join(s.DataDir, "nats"), Listen: s.NATSListen, Log: log.With("part", "nats"),
		})
		if err != nil {
			return nil, err
		}
	}
	if err := st.openDatabase(ctx); err != nil {
		return nil, err
	}
	if st.db, err = st.openStore(ctx, st.databaseKit); err != nil {
		return nil, err
	}
	if st.exports, err = blob.Open(blob.Options{Config: s.exports()}); err != nil {
		return nil, err
	}
	if demo {
		if st.demo, err = startDemo(ctx); err != nil {
			return nil, err
		}
	}
	st.parts = st.services()
	return st, nil
}

func (st *stack) openDatabase(ctx context.Context) error {
	if st.settings.Configured() {
		var warning string
		st.database, warning = st.settings.Resolve()
		if warning != "" {
			st.log.Warn("database settings disagree", "detail", warning)
		}
		return nil
	}
	var err error
	st.postgres, err = embedded.StartPostgres(ctx, st.postgresOptions())
	if err != nil {
		return err
	}
	st.database = st.postgres.URL(embedded.DefaultDatabase)
	return nil
}

func (st *stack) postgresOptions() embedded.PostgresOptions {
	return embedded.PostgresOptions{DataDir: filepath.Join(st.settings.DataDir, "postgres"), Log: st.log.With("part", "postgres")}
}

// natsURL is where the services and people find NATS.
func (st *stack) natsURL() string {
	if st.nats != nil {
		return st.nats.ClientURL()
	}
	return st.settings.NATSURL
}

// run starts the services and stops everything when ctx ends: services from the
// one that makes data to those that store it, then what they stand on.
func (st *stack) run(ctx context.Context) error {
	httpCtx, stopHTTP := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	failed := make(chan error, 2)
	background.Go(func() {
		if err := service.ServeHTTP(httpCtx, st.listener, st.handler()); err != nil {
			failed <- err
		}
	})
	postgresCtx, stopPostgres := context.WithCancel(context.WithoutCancel(ctx))
	if st.postgres != nil {
		background.Go(func() { st.keepPostgres(postgresCtx) })
	}
	background.Go(func() {
		if err := service.ServeProfiles(httpCtx, st.databaseKit, st.settings.PprofListen); err != nil {
			failed <- err
		}
	})
	background.Go(func() { st.databaseKit.Health.Watch(postgresCtx, "database", time.Second, st.db.Ping) })
	for _, p := range st.parts {
		p.start(context.WithoutCancel(ctx))
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	err = errors.Join(err, st.stopParts())
	stopHTTP()
	stopPostgres()
	background.Wait()
	st.close()
	return err
}

// stopParts stops the services in their order, and gives all of them together
// the shutdown timeout.
func (st *stack) stopParts() error {
	for _, p := range st.parts {
		p.kit.Health.Stopping()
	}
	deadline := time.NewTimer(st.settings.ShutdownTimeout)
	defer deadline.Stop()
	expired := false
	var late []error
	for _, p := range st.parts {
		p.stop()
		if expired {
			continue
		}
		select {
		case <-p.done:
		case <-deadline.C:
			expired = true
			late = append(late, fmt.Errorf("%s took longer than %s to stop", p.kit.Name, st.settings.ShutdownTimeout))
		}
	}
	return errors.Join(late...)
}

// keepPostgres starts the private server again when it ends by itself.
func (st *stack) keepPostgres(ctx context.Context) {
	for {
		select {
		case <-st.postgres.Done():
		case <-ctx.Done():
			return
		}
		st.log.Error("postgres ended, starting it again", "err", st.postgres.Err())
		for {
			again, err := embedded.StartPostgres(ctx, st.postgresOptions())
			if err == nil {
				st.postgres = again
				break
			}
			st.log.Error("postgres not started", "err", err, "wait", postgresRestart)
			select {
			case <-time.After(postgresRestart):
			case <-ctx.Done():
				return
			}
		}
	}
}

// close ends what the services stood on. It may be called on a half-made stack.
func (st *stack) close() {
	if st.demo != nil {
		st.demo.close()
	}
	if st.listener != nil {
		_ = st.listener.Close() // most often closed by its server already
	}
	if st.nats != nil {
		st.nats.Stop()
	}
	if st.exports != nil {
		if err := st.exports.Close(); err != nil {
			st.log.Error("store of the exports not closed", "err", err)
		}
	}
	if st.db != nil {
		st.db.Close()
	}
	if st.postgres != nil {
		if err := st.postgres.Stop(context.Background()); err != nil {
			st.log.Error("postgres not stopped", "err", err)
		}
	}
}

// part is one service in the process: supervised, with a connection, a
// registry and a health of its own.
type part struct {
	kit    *service.Kit
	run    func(ctx context.Context, kit *service.Kit) error
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	registry *prometheus.Registry
}

func (st *stack) newPart(name string, run func(ctx context.Context, kit *service.Kit) error) *part {
	p := &part{
		kit: &service.Kit{
			Name: name, Instance: st.settings.Instance, Location: st.settings.Location, Version: service.Version(), Started: time.Now(),
			Log: st.log.With("service", name), Health: service.NewHealth(),
		},
		run:  run,
		done: make(chan struct{}),
	}
	service.Starting(p.kit)
	return p
}

func (p *part) start(ctx context.Context) {
	ctx, p.cancel = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		service.Supervise(ctx, p.kit, func(ctx context.Context) error {
			// A run registers its metrics anew, so each has a registry of its own.
			kit := *p.kit
			kit.Metrics = p.newRegistry()
			p.mu.Lock()
			p.registry = kit.Metrics
			p.mu.Unlock()
			return service.WithTracing(ctx, &kit, func() error { return p.run(ctx, &kit) })
		})
	}()
}

func (p *part) stop() { p.cancel() }

// newRegistry makes the registry of a run: what the part needs is in it from the beginning, as in a process of its own.
func (p *part) newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.kit.Health.Collector(), p.kit.Health.Up(p.kit.Name))
	return registry
}

// gather returns the metrics of all parts and of the process. Parts share names, as replicas of a service do in processes
// of their own; so each part's carry its name.
func (st *stack) gather() prometheus.Gatherer {
	gatherers := prometheus.Gatherers{st.metrics}
	for _, p := range st.parts {
		p.mu.Lock()
		if p.registry != nil {
			gatherers = append(gatherers, labeled(p.registry, "part", p.kit.Name))
		}
		p.mu.Unlock()
	}
	return gatherers
}

// labeled adds a label to everything that is gathered.
func labeled(from prometheus.Gatherer, name, value string) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := from.Gather()
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				metric.Label = append(metric.Label, &dto.LabelPair{Name: &name, Value: &value})
				slices.SortFunc(metric.Label, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
			}
		}
		return families, err
	})
}

// connect opens a connection to NATS for a part; its end is the part's end.
func (st *stack) connect(kit *service.Kit) (*bus.Conn, error) {
	options := bus.Options{
		URL: st.natsURL(), Name: kit.Name + "/" + kit.Instance, CredentialsFile: st.settings.NATSCredentials,
		InboxPrefix: "_INBOX_" + kit.Name, LeaveProvisioning: !st.settings.NATSProvision,
		Encoding: st.settings.Encoding, Log: kit.Log,
	}
	if st.nats != nil {
		options.InProcess = st.nats.Server()
	}
	return bus.Connect(options)
}

// limits is the room of the streams: inside this process a quarter of what the
// disk has free at most, for the history has to live beside them.
func (st *stack) limits() bus.StreamLimits {
	limits := bus.StreamLimits{MaxBytes: st.settings.StreamMaxBytes, Replicas: st.settings.StreamReplicas}
	var disk syscall.Statfs_t
	if st.nats != nil && syscall.Statfs(st.settings.DataDir, &disk) == nil {
		limits.MaxBytes = max(leastStreamBytes, min(limits.MaxBytes, int64(disk.Bavail)*disk.Bsize/4))
	}
	return limits
}

func (st *stack) openStore(ctx context.Context, kit *service.Kit) (*store.Store, error) {
	return store.Open(ctx, store.Options{URL: st.database, Log: kit.Log, MaxConns: int(st.settings.MaxConns)})
}

// handler answers for all parts, and for each under /health/NAME.
func (st *stack) handler() http.Handler {
	mux := http.NewServeMux()
	all := &service.Kit{Name: "picket", Version: service.Version(), Health: service.NewHealth()}
	include := func(kit *service.Kit) {
		mux.Handle("GET /health/"+kit.Name, asHealth(service.Handler(kit)))
		all.Health.Include(kit.Name, kit.Health)
	}
	include(st.databaseKit)
	for _, p := range st.parts {
		include(p.kit)
	}
	for _, path := range []string{"/livez", "/readyz", "/health"} {
		mux.Handle("GET "+path, service.Handler(all))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		api := st.api.Load()
		if api == nil {
			http.Error(w, "the api has not started yet", http.StatusServiceUnavailable)
			return
		}
		(*api).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		service.MetricsHandler(st.gather()).ServeHTTP(w, r)
	})
	return mux
}

// asHealth asks a handler for /health whatever the path was.
func asHealth(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		again := r.Clone(r.Context())
		again.URL.Path = "/health"
		handler.ServeHTTP(w, again)
	})
}
