// Package writer is the service that stores probe results and metrics: it reads both streams through durables that all
// its replicas share, and acknowledges a message only after its row is committed. It also keeps check_states, the months
// of the tables, roll-ups, retention, and the record of what a stream threw away unread.
//
// May enter: messages of PICKET_EVENTS and PICKET_METRICS. May leave: rows, dead letters, figures of the database, and
// results of the checks that Picket makes on its own tables. It never talks to targets or people.
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

// The consumers that all writers share: Durable is that of PICKET_EVENTS, MetricsDurable that of PICKET_METRICS.
const (
	Durable        = "writer"
	MetricsDurable = "writer-metrics"
)

const (
	pingEvery = time.Second
	// finishGrace is how long a batch in hand may take once the service is told to stop. What is not committed by then
	// comes again.
	finishGrace = 5 * time.Second
	// flushAtOnce is how many current states are moved in a step, and flushSteps in how many steps at most they all are in the
	// course of an interval.
	flushAtOnce = 500
	flushSteps  = 20
)

// Deps is what the writer works with. It closes none of it.
type Deps struct {
	Kit   *service.Kit
	Conn  *bus.Conn
	Store *store.Store
}

// Service is the writer. Run it once.
type Service struct {
	config  Config
	kit     *service.Kit
	bus     *bus.Conn
	store   *store.Store
	log     *slog.Logger
	metrics *metrics
	writer  *store.ResultWriter
	results intake[store.Result]
	figures intake[store.Metric]

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
	s := &Service{
		config: config, kit: deps.Kit, bus: deps.Conn, store: deps.Store, log: deps.Kit.Log,
		metrics: metrics, writer: deps.Store.NewResultWriter(),
	}
	s.results = intake[store.Result]{
		reader: reader{Service: s, stream: bus.StreamEvents, durable: Durable},
		table:  "server_health_checks", component: "storing",
		decode: decodeResult, write: s.writer.Write,
		looked: func(row *store.Result) time.Time {
			if row.Missed {
				return time.Time{}
			}
			return row.ScheduledAt
		},
	}
	s.figures = intake[store.Metric]{
		reader: reader{Service: s, stream: bus.StreamMetrics, durable: MetricsDurable},
		table:  "server_metrics_aggregated", component: "storing metrics",
		decode: decodeMetric, write: deps.Store.NewMetricWriter(s.writer).Write,
		looked: func(row *store.Metric) time.Time { return row.ScheduledAt },
	}
	return s, nil
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
	group.Go(func() error { return s.results.run(ctx) })
	group.Go(func() error { return s.figures.run(ctx) })
	group.Go(func() error { s.flushStates(ctx); return nil })
	group.Go(func() error { s.keepPartitions(ctx); return nil })
	group.Go(func() error { s.sampleFigures(ctx); return nil })
	for _, work := range s.upkeeps() {
		group.Go(func() error { s.keepUp(ctx, work); return nil })
	}
	for _, check := range []reported{
		{SelfServer, DatabaseCheck, s.lookAtDatabase},
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
		newest, err := s.writer.LoadStates(ctx)
		var stored store.Position
		if err == nil {
			stored, err = s.store.LoadPosition(ctx, bus.StreamMetrics, MetricsDurable)
		}
		if err == nil {
			s.results.position.resume(newest)
			s.figures.position.resume(stored)
			s.kit.Health.Set("schema", nil)
			return true
		}
		s.log.Warn("current states not read, trying again", "err", err)
		if !sleep(ctx, time.Second) {
			return false
		}
	}
}

// flushStates moves the times of current states once in every interval, a part of the servers after the other, and all of
// them at the end.
func (s *Service) flushStates(ctx context.Context) {
	for part, parts := 0, 1; sleep(ctx, s.config.StateFlush/time.Duration(parts)); part++ {
		if part >= parts {
			part, parts = 0, min(max(s.writer.States()/flushAtOnce, 1), flushSteps)
		}
		if err := s.flush(ctx, part, parts); err != nil && ctx.Err() == nil {
			s.log.Warn("current states not written, trying again with the next", "err", err)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishGrace)
	defer cancel()
	if err := s.flush(last, 0, 1); err != nil {
		s.log.Warn("current states not written before the stop", "err", err)
	}
}

// flush moves a part of the states and, with the first, says how far the figures are stored.
func (s *Service) flush(ctx context.Context, part, parts int) error {
	err := s.writer.FlushPart(ctx, part, parts)
	if part > 0 {
		return err
	}
	if at := s.figures.position.now(); at.Epoch != 0 {
		err = errors.Join(err, s.store.SavePosition(ctx, bus.StreamMetrics, MetricsDurable, at))
	}
	return err
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
