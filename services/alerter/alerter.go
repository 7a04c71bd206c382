// Package alerter is the service that opens and closes alerts: it folds the event stream, in its order, and commits what comes
// of it. The rules are in services/alerter/fold, which knows no clock and no I/O; this room gives it events and makes its
// answers durable.
//
// May enter: messages of PICKET_EVENTS, and the alerter's own rows. May leave: alerts, their history, gaps, events on
// picket.<org>.alert.>, and a clock tick a second. It never talks to targets or people.
//
// # Exactly once
//
// The database is the only cursor. One alerter at a time folds a stream; its right to do so is an epoch in the row that holds
// the cursor, and every commit says WHERE epoch = mine AND seq = where I began, so that whoever was replaced can commit
// nothing, however late it wakes up. Transitions, what is to be published, and the cursor are one transaction. After anything
// that leaves a doubt (no row changed, a lost connection, a commit without an answer) the memory is thrown away and loaded
// again.
//
// Events without a transition move the cursor once a second only. After a crash they are folded again, from the snapshot,
// which is at or before the cursor: the fold gives the same answers to the same events, and those up to the cursor are known
// to be committed and are dropped, those after it are known not to be. So it makes no difference how far the memory was
// ahead of the cursor.
package alerter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// consumer is the alerter's name in stream_gaps.
const consumer = "alerter"

const (
	pingEvery    = time.Second
	streamEvery  = 5 * time.Second
	retryWaitMin = 100 * time.Millisecond
	retryWaitMax = 2 * time.Second
	// finishGrace is how long the last commit may take once the service is told to stop. What is not committed is folded
	// again by the next alerter.
	finishGrace = 5 * time.Second
)

// Config is what the alerter can be told.
type Config struct {
	Enabled  bool          `env:"SYSTEM_ALERT_ENABLED" desc:"Open, change and close alerts. Switched off, probing and everything else goes on."`
	Lease    time.Duration `env:"PICKET_ALERTER_LEASE" desc:"How long an alerter that fell silent keeps another from taking over."`
	Snapshot time.Duration `env:"PICKET_ALERTER_SNAPSHOT" desc:"How often the memory is stored: what is folded again after a crash."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{Enabled: true, Lease: 5 * time.Second, Snapshot: 10 * time.Second}
}

// Validate names every setting that is out of range.
func (c Config) Validate() error {
	var faults []error
	if c.Lease < time.Second || c.Lease > time.Minute {
		faults = append(faults, fmt.Errorf("PICKET_ALERTER_LEASE: %s is not within 1s and 1m", c.Lease))
	}
	if c.Snapshot < time.Second || c.Snapshot > time.Hour {
		faults = append(faults, fmt.Errorf("PICKET_ALERTER_SNAPSHOT: %s is not within 1s and 1h", c.Snapshot))
	}
	return errors.Join(faults...)
}

// Deps is what the alerter works with. It closes none of it.
type Deps struct {
	Kit   *service.Kit
	Conn  *bus.Conn
	Store *store.Store
	// Limits are for streams that are found missing while the alerter runs; the zero value is the bus's defaults.
	Limits bus.StreamLimits
}

// Service is the alerter. Run it once.
type Service struct {
	config  Config
	kit     *service.Kit
	bus     *bus.Conn
	store   *store.Store
	limits  bus.StreamLimits
	log     *slog.Logger
	metrics *metrics
	owner   string

	folded  atomic.Int64 // events since the start
	skipped atomic.Int64 // of these, not folded because unreadable or against the contract
	at      atomic.Uint64
}

// New makes an alerter and touches nothing outside of the process.
func New(config Config, deps Deps) (*Service, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("alerter: %w", err)
	}
	metrics, err := newMetrics(deps.Kit.Metrics)
	if err != nil {
		return nil, fmt.Errorf("alerter: %w", err)
	}
	return &Service{
		config: config, kit: deps.Kit, bus: deps.Conn, store: deps.Store, limits: deps.Limits, log: deps.Kit.Log, metrics: metrics,
		// Random besides: a process that was killed and one started in its place are not the same owner.
		owner: deps.Kit.Instance + "/" + rand.Text(),
	}, nil
}

// Run folds while it may and waits for its turn otherwise, until ctx ends; it commits what it has then and returns nil. It
// waits for the database and its schema, and goes on by itself after either server was away.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.kit.Health.Watch(ctx, "database", pingEvery, s.store.Ping)
		return nil
	})
	group.Go(func() error {
		return service.Beat(ctx, s.kit, s.bus, func(status *picketv1.WorkerStatus) {
			status.Performed, status.Failed = s.folded.Load(), s.skipped.Load()
			status.Successful = status.GetPerformed() - status.GetFailed()
		})
	})
	group.Go(func() error { s.tick(ctx); return nil })
	s.kit.Health.Set("schema", store.ErrNoSchema)
	group.Go(func() error {
		if s.store.WaitForSchema(ctx) == nil {
			s.kit.Health.Set("schema", nil)
			s.contend(ctx)
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("alerter: %w", err)
	}
	return nil
}

// tick publishes the time at every second, whether this alerter folds or waits: the stream drops the doubles.
func (s *Service) tick(ctx context.Context) {
	for {
		now := time.Now()
		next := now.Truncate(time.Second).Add(time.Second)
		if !sleep(ctx, next.Sub(now)) {
			return
		}
		if !s.bus.Connected() {
			continue // that nobody saw these seconds is what the fold will conclude
		}
		tick, cancel := context.WithTimeout(ctx, 900*time.Millisecond)
		_, err := s.bus.Publish(tick, bus.Message{
			Subject: bus.ClockSubject, ID: fmt.Sprintf("tick-%d", next.Unix()), Time: next,
			Payload: &picketv1.ClockTick{At: timestamppb.New(next)},
		})
		cancel()
		if err != nil && ctx.Err() == nil {
			s.log.Debug("clock tick not published", "err", err)
		}
	}
}

// contend takes turns with the other alerters until ctx ends.
func (s *Service) contend(ctx context.Context) {
	wait := retryWaitMin
	for ctx.Err() == nil {
		// Without NATS there is nothing to fold, and another may have a connection.
		if s.bus.WaitConnected(ctx) != nil {
			return
		}
		lease, err := s.store.AcquireAlerter(ctx, bus.StreamEvents, s.owner, s.config.Lease)
		switch {
		case errors.Is(err, store.ErrLeaseLost):
			s.kit.Health.Set("folding", nil) // another folds; its health is its own
			sleep(ctx, s.config.Lease/5)
			continue
		case err == nil:
			began := time.Now()
			err = s.lead(ctx, lease)
			if time.Since(began) > retryWaitMax {
				wait = retryWaitMin
			}
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case errors.Is(err, store.ErrLeaseLost):
			s.log.Info("another alerter took over, or the cursor moved", "err", err)
		case errors.Is(err, bus.ErrInterrupted):
			s.log.Info("folding interrupted, resuming from the database", "err", err)
		default:
			s.kit.Health.Set("folding", err) // until the next commit
			s.log.Warn("folding stopped, trying again", "err", err, "wait", wait)
		}
		sleep(ctx, wait)
		wait = min(2*wait, retryWaitMax)
	}
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
