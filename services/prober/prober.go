package prober

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober/probe"
)

const (
	// finishFor bounds how long a stop waits for what is in flight, drainFor for
	// the stream to take the results.
	finishFor = 3 * time.Second
	drainFor  = 5 * time.Second
	// listenFor is how long a process listens for the others before it joins: a
	// little more than the second between their heartbeats.
	listenFor = 1200 * time.Millisecond
)

// Deps are what a prober works with.
type Deps struct {
	Kit  *service.Kit
	Conn *bus.Conn
}

// Service is one prober. Make one with New and let it Run once.
type Service struct {
	cfg  Config
	kit  *service.Kit
	conn *bus.Conn
	log  *slog.Logger

	start     time.Time // of mono
	clock     *tick.Clock
	replicas  *replicas
	sched     *scheduler
	engine    *engine
	workers   *pool
	probes    *probe.Pool
	ledger    *ledger
	stats     *statistics
	reporter  *reporter
	metrics   *metrics
	publisher *bus.Publisher

	wake  chan struct{}
	beats chan *picketv1.WorkerStatus
	keys  map[string]known // by key of the catalog; only the watch uses it
	ring  tick.Ring        // only the loop uses it

	stopProbes context.CancelFunc
}

// New wires a prober. Its errors are about the configuration and the registry.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("prober: %w", err)
	}
	if deps.Kit == nil || deps.Conn == nil {
		return nil, errors.New("prober: kit and connection are required")
	}
	files := openFiles()
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = max(leastConcurrency, files/2)
	}
	start := time.Now()
	p := &Service{
		cfg: cfg, kit: deps.Kit, conn: deps.Conn, log: deps.Kit.Log,
		start:    start,
		replicas: newReplicas(deps.Kit.Instance),
		probes:   probe.NewPool(probe.PoolOptions{MaxConnections: max(1, files/4)}),
		ledger:   newLedger(),
		wake:     make(chan struct{}, 1),
		beats:    make(chan *picketv1.WorkerStatus, 1),
		keys:     map[string]known{},
	}
	p.clock = tick.NewClock(start, p.mono)
	p.stats = newStatistics(cfg.CycleInterval, p.clock.NowMS)
	p.reporter = &reporter{
		instance: deps.Kit.Instance, ledger: p.ledger, stats: p.stats, lost: map[string]*picketv1.ProbeResult{},
	}
	p.publisher = bus.NewPublisher(deps.Conn, bus.PublisherOptions{
		MaxBytes: cfg.QueueBytes, OnDrop: p.reporter.dropped, Log: p.log,
	})
	p.reporter.out = p.publisher
	// What was in flight when a stop began may end; the probes' context is its own.
	var ctx context.Context
	ctx, p.stopProbes = context.WithCancel(context.Background())
	p.workers = newPool(ctx, p.look)
	p.sched = newScheduler(schedulerOptions{
		Self: deps.Kit.Instance, MaxInFlight: cfg.MaxInFlight,
		HostBatchSize: cfg.HostBatchSize, HostBatchDelay: cfg.HostBatchDelay,
		NowMS: p.clock.NowMS, Runner: p.workers,
		Due: p.ledger.add, Miss: p.reporter.miss, Busy: p.stats.setBusy,
		Lag:  func(late time.Duration) { p.metrics.lag.Observe(late.Seconds()) },
		Wake: p.wakeLoop,
	})
	p.engine = &engine{replicas: p.replicas, sched: p.sched, nowMS: p.clock.NowMS, beat: p.beat, log: p.log}
	var err error
	if p.metrics, err = newMetrics(deps.Kit.Metrics, p.sched.figures, p.publisher.Stats); err != nil {
		p.stopProbes()
		return nil, fmt.Errorf("prober: %w", err)
	}
	p.reporter.metrics = p.metrics
	return p, nil
}

// mono is the monotonic clock: the time since the process began.
func (p *Service) mono() time.Duration { return time.Since(p.start) }

func (p *Service) wakeLoop() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run probes until ctx ends, and then stops in order: it ticks no more and says
// goodbye, lets what is in flight end, and has the stream take the results. It
// returns nil then, and an error when a part has failed. A Service runs once.
func (p *Service) Run(ctx context.Context) error {
	defer p.metrics.unregister()
	defer p.probes.Close()
	defer p.stopProbes()
	p.kit.Health.Set("schedule", errors.New("catalog not read yet"))

	// The publisher and the others outlive ctx by the length of the stop.
	outer, stopOuter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOuter()
	group, outer := errgroup.WithContext(outer)
	group.Go(func() error { return p.publisher.Run(outer) })
	group.Go(func() error { return p.sendBeats(outer) })
	group.Go(func() error {
		return p.conn.WatchWorkers(outer, p.kit.Name, p.kit.Location, func(status *picketv1.WorkerStatus) {
			if p.replicas.hear(status, p.mono()) {
				p.wakeLoop()
			}
		})
	})
	defer p.conn.OnState(func(up bool) { p.replicas.connected(up, p.mono()) })()

	// A part that fails ends the ticking too.
	ticking, stopTicking := context.WithCancel(ctx)
	defer stopTicking()
	defer context.AfterFunc(outer, stopTicking)()
	joined := p.tick(ticking)

	p.shutDown(joined)
	stopOuter()
	if err := group.Wait(); err != nil {
		return fmt.Errorf("prober: %w", err)
	}
	return nil
}

// tick joins the others when everything is known that it takes, and turns the
// wheel until ctx ends. It reports whether it came to joining.
func (p *Service) tick(ctx context.Context) (joined bool) {
	listed := make(chan struct{})
	measured := make(chan []*picketv1.WorkerStatus, 1)
	var parts errgroup.Group
	defer func() { _ = parts.Wait() }() // they end with ctx and without an error
	parts.Go(func() error { p.watchCatalog(ctx, listed); return nil })
	parts.Go(func() error { p.followClock(ctx, measured); return nil })

	listened := time.NewTimer(listenFor)
	defer listened.Stop()
	var roster []*picketv1.WorkerStatus
	for _, wait := range []func() bool{
		func() bool {
			select {
			case roster = <-measured:
				return true
			case <-ctx.Done():
				return false
			}
		},
		func() bool { return received(ctx, listed) },
		func() bool { return received(ctx, listened.C) },
		func() bool { return p.joins(ctx) },
	} {
		if !wait() {
			return false
		}
	}
	p.engine.join(roster, p.mono())
	p.ledger.join()
	p.kit.Health.Set("schedule", nil)
	f := p.sched.figures()
	p.log.Info("probing", "checks", f.Known, "owned", f.Owned, "replicas", len(p.engine.ring.Members()), "in_flight_limit", f.Limit)
	p.turn(ctx)
	return true
}

// joins waits until this process is one of the replicas: at once, but for the
// time in which the set is frozen because the connection was lost during the start.
func (p *Service) joins(ctx context.Context) bool {
	ticker := time.NewTicker(beatEvery / 10)
	defer ticker.Stop()
	for !p.replicas.update(p.mono()).Has(p.kit.Instance) {
		if !received(ctx, ticker.C) {
			return false
		}
	}
	return true
}

func received[T any](ctx context.Context, c <-chan T) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// shutDown stops in order; each step is bounded. Who never joined has nothing to
// hand over, and must not say that it had settled anything.
func (p *Service) shutDown(joined bool) {
	until := p.engine.leave(p.mono())
	if joined {
		p.sayGoodbye(until)
		p.signOff(until)
	}
	p.finish()
	// What hangs still is cut off, and reported by its worker.
	p.stopProbes()
	p.sched.abandon()
	p.sched.mu.Lock()
	p.workers.stop()
	p.sched.mu.Unlock()
	p.workers.done.Wait()
	p.reporter.markDropped()
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	if err := p.publisher.Drain(ctx); err != nil {
		p.log.Error("results not published before the stop", "err", err)
	}
	if joined {
		p.signOff(until)
	}
}

// finish turns the wheel on until nothing waits and nothing is in flight.
func (p *Service) finish() {
	deadline := time.NewTimer(finishFor)
	defer deadline.Stop()
	slot := time.NewTicker(tick.SlotMS * time.Millisecond)
	defer slot.Stop()
	for !p.sched.idle() {
		select {
		case <-slot.C:
			p.sched.advance(false)
		case <-deadline.C:
			p.log.Warn("probes cut off by the stop", "in_flight", p.sched.figures().Running)
			return
		}
	}
}

// look runs one tick; the worker is the goroutine that it is in.
func (p *Service) look(ctx context.Context, w *worker, j job) {
	started := p.clock.Now()
	probeCtx, cancel := context.WithTimeout(ctx, time.Duration(j.target.timeoutMS)*time.Millisecond)
	result := p.probe(probeCtx, j.target)
	cancel()
	if ctx.Err() != nil && result.GetStatus() == picketv1.Status_STATUS_UNKNOWN {
		p.reporter.miss(j.target, single(j.atMS, j.revision), causeStopped)
	} else {
		p.reporter.result(j.target, j.atMS, j.revision, started, result)
	}
	p.sched.finish(j, w)
}

// probe looks at a target. A prober that panics has failed to look at it, and
// nothing else.
func (p *Service) probe(ctx context.Context, t *target) (result *picketv1.ProbeResult) {
	defer func() {
		if fault := recover(); fault != nil {
			p.log.Error("prober panicked", "server", t.server, "check", t.name, "fault", fault)
			result = &picketv1.ProbeResult{Status: picketv1.Status_STATUS_UNKNOWN, Reason: "internal", Message: "the prober failed"}
		}
	}()
	return t.prober.Probe(ctx)
}
