// Package writer is the service that stores probe results: it reads the event stream through a durable that all its
// replicas share, and acknowledges a message only after its row is committed. It also keeps check_states, the months of
// the history table, and the record of what the stream threw away unread.
//
// May enter: messages of PICKET_EVENTS. May leave: rows, dead letters, and results of the check that Picket makes on its
// own table. It never talks to targets or people.
package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Durable is the consumer of PICKET_EVENTS that all writers share.
const Durable = "writer"

const (
	pingEvery = time.Second
	// finishGrace is how long a batch in hand may take once the service is told to stop. What is not committed by then
	// comes again.
	finishGrace = 5 * time.Second
)

// Config is what the writer can be told.
type Config struct {
	BatchRows  int           `env:"PICKET_WRITER_BATCH_ROWS" desc:"Most results in one transaction."`
	BatchWait  time.Duration `env:"PICKET_WRITER_BATCH_WAIT" desc:"How long a batch gathers results before it is written."`
	StateFlush time.Duration `env:"PICKET_WRITER_STATE_FLUSH" desc:"How often the times of current states are written; changes of status never wait for it."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{BatchRows: 5000, BatchWait: 250 * time.Millisecond, StateFlush: 10 * time.Second}
}

// Validate names every setting that is out of range.
func (c Config) Validate() error {
	var faults []error
	if c.BatchRows < 1 || c.BatchRows > 20_000 {
		faults = append(faults, fmt.Errorf("PICKET_WRITER_BATCH_ROWS: %d is not within 1 and 20000", c.BatchRows))
	}
	if c.BatchWait <= 0 || c.BatchWait > 10*time.Second {
		faults = append(faults, fmt.Errorf("PICKET_WRITER_BATCH_WAIT: %s is not within 0 and 10s", c.BatchWait))
	}
	if c.StateFlush <= 0 || c.StateFlush > 10*time.Minute {
		faults = append(faults, fmt.Errorf("PICKET_WRITER_STATE_FLUSH: %s is not within 0 and 10m", c.StateFlush))
	}
	return errors.Join(faults...)
}

// Deps is what the writer works with. It closes none of it.
type Deps struct {
	Kit   *service.Kit
	Conn  *bus.Conn
	Store *store.Store
}

// Service is the writer. Run it once.
type Service struct {
	config   Config
	kit      *service.Kit
	bus      *bus.Conn
	store    *store.Store
	log      *slog.Logger
	metrics  *metrics
	results  *store.ResultWriter
	position position
	backlog  backlog

	rows    atomic.Int64
	refused atomic.Int64
}

// New makes a writer and touches nothing outside of the process.
func New(config Config, deps Deps) (*Service, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("writer: %w", err)
	}
	metrics, err := newMetrics(deps.Kit.Metrics)
	if err != nil {
		return nil, fmt.Errorf("writer: %w", err)
	}
	return &Service{
		config: config, kit: deps.Kit, bus: deps.Conn, store: deps.Store, log: deps.Kit.Log,
		metrics: metrics, results: deps.Store.NewResultWriter(),
	}, nil
}

// Run writes until ctx ends, finishes the batch in hand, and returns nil then. It waits for the database and its schema,
// and goes on by itself after either server was away.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.kit.Health.Watch(ctx, "database", pingEvery, s.store.Ping)
		return nil
	})
	group.Go(func() error {
		return service.Beat(ctx, s.kit, s.bus, s.fillHeartbeat)
	})
	group.Go(func() error { return s.work(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	return nil
}

// work is everything that needs the schema.
func (s *Service) work(ctx context.Context) error {
	if !s.prepare(ctx) {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.bus.Consume(ctx, bus.ConsumeOptions{
			Stream: bus.StreamEvents, Durable: Durable, Log: s.log,
			MaxBatch: s.config.BatchRows, MaxWait: s.config.BatchWait,
			Handle: s.handleShown, Available: s.store.CheckSchema,
			OnHole: s.recordHole, OnBacklog: s.noteBacklog,
		})
	})
	group.Go(func() error { s.flushStates(ctx); return nil })
	group.Go(func() error { s.keepPartitions(ctx); return nil })
	for _, check := range []reported{
		{SelfServer, PartitionCheck, s.lookAtPartitions},
		{WriterServer, BacklogCheck, s.lookAtBacklog},
	} {
		group.Go(func() error { s.report(ctx, check); return nil })
	}
	return group.Wait()
}

// prepare waits for the schema and learns the current states; it reports false when ctx ended first.
func (s *Service) prepare(ctx context.Context) bool {
	s.kit.Health.Set("schema", store.ErrNoSchema)
	for {
		if s.store.WaitForSchema(ctx) != nil {
			return false
		}
		newest, err := s.results.LoadStates(ctx)
		if err == nil {
			s.position.resume(newest)
			s.kit.Health.Set("schema", nil)
			return true
		}
		s.log.Warn("current states not read, trying again", "err", err)
		if !sleep(ctx, time.Second) {
			return false
		}
	}
}

// flushStates moves the times of current states at every interval, and once more at the end.
func (s *Service) flushStates(ctx context.Context) {
	for sleep(ctx, s.config.StateFlush) {
		if err := s.results.Flush(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("current states not written, trying again with the next", "err", err)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishGrace)
	defer cancel()
	if err := s.results.Flush(last); err != nil {
		s.log.Warn("current states not written before the stop", "err", err)
	}
}

func (s *Service) fillHeartbeat(status *picketv1.WorkerStatus) {
	rows, refused := s.rows.Load(), s.refused.Load()
	status.Performed, status.Successful, status.Failed = rows+refused, rows, refused
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
