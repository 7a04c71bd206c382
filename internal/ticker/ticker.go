package ticker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
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

// Ticker is the engine of one ticker service. Make one with New and let it Run once.
type Ticker struct {
	opts Options
	kit  *service.Kit
	conn *bus.Conn
	log  *slog.Logger

	start     time.Time // of mono
	clock     *tick.Clock
	replicas  *replicas
	sched     *scheduler
	engine    *engine
	workers   *pool
	ledger    *ledger
	stats     *statistics
	reporter  *reporter
	metrics   *metrics
	publisher *bus.Publisher

	wake  chan struct{}
	beats chan *picketv1.WorkerStatus
	keys  map[string]known // by key of the catalog; only the watch uses it

	cycles chan span     // that begin
	joined chan struct{} // closed when this process is one of the replicas
	asked  asked
	tracer trace.Tracer

	// runs is the context of everything that is run; it outlives the ticking.
	runs     context.Context
	stopRuns context.CancelFunc
}

// New wires a ticker. Its errors are about the options and the registry.
func New(opts Options) (*Ticker, error) {
	switch {
	case opts.Kit == nil || opts.Conn == nil || opts.Build == nil || len(opts.Kinds) == 0:
		return nil, errors.New("ticker: kit, connection, kinds and build are required")
	case opts.Config.CycleInterval <= 0:
		return nil, errors.New("ticker: cycles without a length")
	}
	cfg := opts.Config
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = max(leastConcurrency, OpenFiles()/2)
	}
	start := time.Now()
	k := &Ticker{
		opts: opts, kit: opts.Kit, conn: opts.Conn, log: opts.Kit.Log,
		start:    start,
		replicas: newReplicas(opts.Kit.Instance),
		ledger:   newLedger(),
		wake:     make(chan struct{}, 1),
		beats:    make(chan *picketv1.WorkerStatus, 1),
		keys:     map[string]known{},
		cycles:   make(chan span, 1),
		joined:   make(chan struct{}),
		asked:    asked{checks: map[string]struct{}{}},
		tracer:   opts.Kit.Trace(),
	}
	k.clock = tick.NewClock(start, k.mono)
	k.stats = newStatistics(cfg.CycleInterval, opts.Words, k.clock.NowMS)
	k.reporter = &reporter{
		instance: opts.Kit.Instance, ledger: k.ledger, stats: k.stats, log: k.log, lost: map[string]*picketv1.ProbeResult{},
	}
	k.publisher = bus.NewPublisher(opts.Conn, bus.PublisherOptions{
		MaxBytes: cfg.QueueBytes, OnDrop: k.reporter.dropped, OnAck: k.reporter.acknowledged, Log: k.log,
	})
	k.reporter.out = k.publisher
	// What was in flight when a stop began may end; the runs' context is its own.
	k.runs, k.stopRuns = context.WithCancel(context.Background())
	k.workers = newPool(k.runs, k.look)
	k.sched = newScheduler(schedulerOptions{
		Self: opts.Kit.Instance, MaxInFlight: cfg.MaxInFlight, MaxUnbegun: mostUnbegun * runtime.GOMAXPROCS(0),
		HostBatchSize: cfg.HostBatchSize, HostBatchDelay: cfg.HostBatchDelay,
		NowMS: k.clock.NowMS, Starter: k.workers,
		Due: k.ledger.add, Miss: k.reporter.miss, Busy: k.stats.setBusy,
		Skip: opts.Skip, Skipped: k.reporter.skipped,
		Lag:  func(late time.Duration) { k.metrics.lag.Observe(late.Seconds()) },
		Wake: k.wakeLoop,
	})
	k.engine = &engine{replicas: k.replicas, sched: k.sched, nowMS: k.clock.NowMS, beat: k.beat, log: k.log}
	var err error
	if k.metrics, err = newMetrics(opts.Kit.Metrics, k.sched.figures, k.publisher.Stats); err != nil {
		k.stopRuns()
		return nil, fmt.Errorf("ticker: %w", err)
	}
	k.reporter.metrics = k.metrics
	return k, nil
}

// OpenFiles returns how many files the process may have open. The Go runtime has
// raised the soft limit to the hard one already.
func OpenFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, math.MaxInt32))
}

// mono is the monotonic clock: the time since the process began.
func (k *Ticker) mono() time.Duration { return time.Since(k.start) }

func (k *Ticker) wakeLoop() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Nudge has the checks of a server that Skip has held back run at once, when the
// tick that they skipped last is still the last that was due, and is this
// process's. It is safe for concurrent use, and must not be called from Skip.
func (k *Ticker) Nudge(org, server string) { k.sched.nudge(serverName{org, server}) }

// Run runs checks until ctx ends, and then stops in order: it ticks no more and says
// goodbye, lets what is in flight end, and has the stream take the results. It
// returns nil then, and an error when a part has failed. A Ticker runs once.
func (k *Ticker) Run(ctx context.Context) error {
	defer k.metrics.unregister()
	defer k.stopRuns()
	k.kit.Health.Set("schedule", errors.New("catalog not read yet"))

	// The publisher and the others outlive ctx by the length of the stop.
	outer, stopOuter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOuter()
	group, outer := errgroup.WithContext(outer)
	group.Go(func() error { return k.publisher.Run(outer) })
	group.Go(func() error { return k.sendBeats(outer) })
	group.Go(func() error { k.announce(outer); return nil })
	group.Go(func() error {
		return k.conn.WatchWorkers(outer, k.kit.Name, k.kit.Location, func(status *picketv1.WorkerStatus) {
			if k.replicas.hear(status, k.mono()) {
				k.wakeLoop()
			}
		})
	})
	defer k.conn.OnState(func(up bool) { k.replicas.connected(up, k.mono()) })()

	// A part that fails ends the ticking too.
	ticking, stopTicking := context.WithCancel(ctx)
	defer stopTicking()
	defer context.AfterFunc(outer, stopTicking)()
	group.Go(func() error {
		if !received(ticking, k.joined) {
			return nil
		}
		return k.conn.Serve(ticking, k.kit.Name, k.kit.Location, k.runNow)
	})
	joined := k.tick(ticking)

	k.shutDown(joined)
	stopOuter()
	if err := group.Wait(); err != nil {
		return fmt.Errorf("ticker: %w", err)
	}
	return nil
}

// tick joins the others when everything is known that it takes, and turns the
// wheel until ctx ends. It reports whether it came to joining.
func (k *Ticker) tick(ctx context.Context) (joined bool) {
	listed := make(chan struct{})
	measured := make(chan []*picketv1.WorkerStatus, 1)
	var parts errgroup.Group
	defer func() { _ = parts.Wait() }() // they end with ctx and without an error
	parts.Go(func() error { k.watchCatalog(ctx, listed); return nil })
	parts.Go(func() error { k.followClock(ctx, measured); return nil })

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
		func() bool { return k.joins(ctx) },
	} {
		if !wait() {
			return false
		}
	}
	k.engine.join(roster, k.mono())
	k.ledger.join()
	close(k.joined)
	k.kit.Health.Set("schedule", nil)
	f := k.sched.figures()
	k.log.Info("running checks", "checks", f.Known, "owned", f.Owned, "replicas", len(k.engine.ring.Members()), "in_flight_limit", f.Limit)
	k.turn(ctx)
	return true
}

// joins waits until this process is one of the replicas: at once, but for the
// time in which the set is frozen because the connection was lost during the start.
func (k *Ticker) joins(ctx context.Context) bool {
	ticker := time.NewTicker(beatEvery / 10)
	defer ticker.Stop()
	for !k.replicas.update(k.mono()).Has(k.kit.Instance) {
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
func (k *Ticker) shutDown(joined bool) {
	until := k.engine.leave(k.mono())
	stopSaying := func() {}
	if joined {
		k.sayGoodbye(until)
		k.signOff(until)
		stopSaying = k.keepSaying(until)
	}
	k.finish()
	// What hangs still is cut off, and reported by its worker.
	k.stopRuns()
	k.sched.abandon()
	k.sched.mu.Lock()
	k.workers.stop()
	k.sched.mu.Unlock()
	k.workers.done.Wait()
	k.reporter.markDropped()
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	if err := k.publisher.Drain(ctx); err != nil {
		k.log.Error("results not published before the stop", "err", err)
	}
	stopSaying()
	if joined {
		k.sayGoodbye(until)
		k.signOff(until)
	}
}

// finish turns the wheel on until nothing waits and nothing is in flight.
func (k *Ticker) finish() {
	deadline := time.NewTimer(finishFor)
	defer deadline.Stop()
	slot := time.NewTicker(tick.SlotMS * time.Millisecond)
	defer slot.Stop()
	for !k.sched.idle() {
		select {
		case <-slot.C:
			k.sched.advance(false)
		case <-deadline.C:
			k.log.Warn("probes cut off by the stop", "in_flight", k.sched.figures().Running)
			return
		}
	}
}

// look runs one tick; the worker is the goroutine that it is in.
func (k *Ticker) look(ctx context.Context, w *worker, j job) {
	k.sched.began()
	started := k.clock.Now()
	outcome := k.run(ctx, j.target)
	switch {
	case ctx.Err() == nil || outcome.Result.GetStatus() != picketv1.Status_STATUS_UNKNOWN:
		k.reporter.result(j, started, outcome)
	case !j.again:
		k.reporter.miss(j.target, single(j.atMS, j.revision), causeStopped)
	}
	k.sched.finish(j, w)
}

// run runs a check within its timeout. A service that panics has failed to look,
// and nothing else.
func (k *Ticker) run(ctx context.Context, t *target) (outcome Outcome) {
	ctx, span := k.tracer.Start(ctx, k.opts.Words.span())
	defer span.End()
	if span.IsRecording() {
		span.SetAttributes(attribute.String("picket.org", t.org), attribute.String("picket.server", t.server),
			attribute.String("picket.check", t.name), attribute.String("picket.kind", t.kind))
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(t.timeoutMS)*time.Millisecond)
	defer cancel()
	defer func() {
		if fault := recover(); fault != nil {
			k.log.Error("check panicked", "server", t.server, "check", t.name, "fault", fault)
			outcome = failed("internal", "the service failed")
		}
		outcome.trace = span.SpanContext()
	}()
	outcome = t.runner.Run(ctx)
	if outcome.Result == nil {
		outcome = failed("internal", "the service returned no result")
	}
	return outcome
}
