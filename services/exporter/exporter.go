package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Durable is the consumer of the work queue that all exporters share.
const Durable = "exporter"

const (
	pingEvery = time.Second
	blobEvery = 10 * time.Second
)

// Config is what the exporter can be told.
type Config struct {
	Concurrency   int           `env:"PICKET_EXPORT_CONCURRENCY" desc:"Exports that one process makes at a time; each needs its own memory."`
	Lease         time.Duration `env:"PICKET_EXPORT_LEASE" desc:"How long an export stays with a process that does not answer any more."`
	MaxTries      int           `env:"PICKET_EXPORT_MAX_TRIES" desc:"Attempts before an export has failed."`
	Keep          time.Duration `env:"PICKET_EXPORT_KEEP" desc:"How long an export can be downloaded after it was completed."`
	SweepInterval time.Duration `env:"PICKET_EXPORT_SWEEP_INTERVAL" desc:"How often one exporter looks for exports that are stuck, are over, or left something."`
	OrphanGrace   time.Duration `env:"PICKET_EXPORT_ORPHAN_GRACE" desc:"Age at which an object or upload that belongs to no export is removed."`

	CallbackSecret  string `env:"PICKET_EXPORT_CALLBACK_SECRET" desc:"Key of the signatures of callbacks; empty: they are not signed." secret:"true"`
	CallbackHTTP    bool   `env:"PICKET_EXPORT_CALLBACK_HTTP" desc:"Allow callbacks over plain http."`
	CallbackPrivate bool   `env:"PICKET_EXPORT_CALLBACK_PRIVATE" desc:"Allow callbacks to loopback, private and link-local addresses."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Concurrency: 1, Lease: 15 * time.Second, MaxTries: 5, Keep: 24 * time.Hour,
		SweepInterval: 10 * time.Second, OrphanGrace: time.Hour,
	}
}

// Validate names every setting that is out of range.
func (c Config) Validate() error {
	var faults []error
	if c.Concurrency < 1 || c.Concurrency > 64 {
		faults = append(faults, fmt.Errorf("PICKET_EXPORT_CONCURRENCY: %d is not within 1 and 64", c.Concurrency))
	}
	if c.MaxTries < 1 || c.MaxTries > 1000 {
		faults = append(faults, fmt.Errorf("PICKET_EXPORT_MAX_TRIES: %d is not within 1 and 1000", c.MaxTries))
	}
	for _, d := range []struct {
		name        string
		value       time.Duration
		least, most time.Duration
	}{
		{"PICKET_EXPORT_LEASE", c.Lease, time.Second, time.Hour},
		{"PICKET_EXPORT_KEEP", c.Keep, time.Second, 366 * 24 * time.Hour},
		{"PICKET_EXPORT_SWEEP_INTERVAL", c.SweepInterval, 100 * time.Millisecond, time.Hour},
		{"PICKET_EXPORT_ORPHAN_GRACE", c.OrphanGrace, time.Second, 30 * 24 * time.Hour},
	} {
		if d.value < d.least || d.value > d.most {
			faults = append(faults, fmt.Errorf("%s: %s is not within %s and %s", d.name, d.value, d.least, d.most))
		}
	}
	return errors.Join(faults...)
}

// Deps is what the exporter works with. It closes none of it.
type Deps struct {
	Kit   *service.Kit
	Conn  *bus.Conn
	Store *store.Store
	Blob  blob.Store
}

// Service is the exporter. Run it once.
type Service struct {
	config  Config
	kit     *service.Kit
	bus     *bus.Conn
	store   *store.Store
	blob    blob.Store
	log     *slog.Logger
	metrics *metrics

	completed atomic.Int64
	failed    atomic.Int64
}

// New makes an exporter and touches nothing outside of the process.
func New(config Config, deps Deps) (*Service, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("exporter: %w", err)
	}
	metrics, err := newMetrics(deps.Kit.Metrics)
	if err != nil {
		return nil, fmt.Errorf("exporter: %w", err)
	}
	return &Service{
		config: config, kit: deps.Kit, bus: deps.Conn, store: deps.Store, blob: deps.Blob, log: deps.Kit.Log, metrics: metrics,
	}, nil
}

// Run makes exports until ctx ends, gives back what it has in hand, and returns nil then. It waits for the database and its
// schema, and goes on by itself after any of its servers was away.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.kit.Health.Watch(ctx, "database", pingEvery, s.store.Ping)
		return nil
	})
	group.Go(func() error {
		s.kit.Health.Watch(ctx, "objects", blobEvery, s.blob.Ping)
		return nil
	})
	group.Go(func() error {
		return service.Beat(ctx, s.kit, s.bus, s.fillHeartbeat)
	})
	group.Go(func() error { return s.work(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("exporter: %w", err)
	}
	return nil
}

// work is everything that needs the schema.
func (s *Service) work(ctx context.Context) error {
	s.kit.Health.Set("schema", store.ErrNoSchema)
	if s.store.WaitForSchema(ctx) != nil {
		return nil
	}
	s.kit.Health.Set("schema", nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.bus.ConsumeWork(ctx, bus.WorkOptions{
			Kind: bus.WorkExport, Durable: Durable, Concurrency: s.config.Concurrency, AckWait: 2 * s.config.Lease,
			Handle: s.handle, Log: s.log,
		})
	})
	group.Go(func() error { s.relay(ctx); return nil })
	group.Go(func() error { s.callBack(ctx); return nil })
	group.Go(func() error { s.sweep(ctx); return nil })
	return group.Wait()
}

func (s *Service) fillHeartbeat(status *picketv1.WorkerStatus) {
	completed, failed := s.completed.Load(), s.failed.Load()
	status.Performed, status.Successful, status.Failed = completed+failed, completed, failed
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
