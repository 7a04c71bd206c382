package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	leaseName = "catalog"
	// retryMin and retryMax are the pauses after something failed.
	retryMin = 500 * time.Millisecond
	retryMax = 5 * time.Second
)

// timings are the same for everybody but tests.
type timings struct {
	leaseTTL time.Duration
	// leaseRenew is how often the holder renews and the others ask.
	leaseRenew time.Duration
	// compareEvery is how often it is asked whether anything differs, whether or not somebody said something.
	compareEvery time.Duration
	// fullEvery is how often everything is compared with everything although nothing seems to differ.
	fullEvery time.Duration
	// republishAfter is how long an event that the stream threw away counts as there.
	republishAfter time.Duration
	// filePoll is how often the file is looked at where the system does not tell of changes.
	filePoll time.Duration
}

func defaultTimings() timings {
	return timings{
		leaseTTL: 10 * time.Second, leaseRenew: 2 * time.Second,
		compareEvery: 30 * time.Second, fullEvery: 10 * time.Minute, republishAfter: 5 * time.Minute, filePoll: 2 * time.Second,
	}
}

// Deps is what the service works with.
type Deps struct {
	Kit   *service.Kit
	Conn  *bus.Conn
	Store *store.Store
	// Environ is searched for variables <NAME>_HEALTH_URL; nil is the environment of the process.
	Environ []string
	// Builtin are servers that the program itself declares; their source is self.
	Builtin []catalog.Server
	// Reload has the file read at once with everything received; may be nil.
	Reload <-chan os.Signal
}

// Service is the catalog service; see [Service.Run].
type Service struct {
	config  Config
	kit     *service.Kit
	conn    *bus.Conn
	store   *store.Store
	reload  <-chan os.Signal
	log     *slog.Logger
	metrics *metrics
	// owner names this replica in the lease, also after a restart with the same instance.
	owner   string
	sources *sources
	// wake says that something may have changed; all of it in one, however often it is said.
	wake chan struct{}
	// mirror is what the bucket held when it was last listed, with our changes since.
	mirror mirror
	// settled is the last comparison, when it was of everything and found nothing to do; changes counts what was written
	// since the start. Both are the leader's.
	settled settlement
	changes int
	// complaint is the error that was logged last and still holds.
	complaint string
	timings
}

// New checks what the service is given and does no I/O. The error names every variable of the environment that declares
// no server.
func New(config Config, deps Deps) (*Service, error) {
	if deps.Environ == nil {
		deps.Environ = os.Environ()
	}
	invalid := config.Validate()
	if invalid != nil {
		// So that the environment's own faults come to light with those of the settings.
		config.EnvInterval, config.Interval = 0, 0
	}
	sources, err := newSources(config, deps)
	if err = errors.Join(invalid, err); err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	metrics, err := newMetrics(deps.Kit.Metrics)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return &Service{
		config: config, kit: deps.Kit, conn: deps.Conn, store: deps.Store, reload: deps.Reload, log: deps.Kit.Log,
		metrics: metrics, owner: deps.Kit.Instance + "/" + rand.Text(), sources: sources,
		wake: make(chan struct{}, 1), timings: defaultTimings(),
	}, nil
}

// Run works until ctx ends, and returns nil then. The database and NATS may be away at the start and at any time later.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return service.Beat(ctx, s.kit, s.conn, s.fillStatus) })
	group.Go(func() error {
		s.kit.Health.Watch(ctx, "database", time.Second, s.store.Ping)
		return nil
	})
	if s.config.File != "" {
		group.Go(func() error { return s.watchFile(ctx) })
	}
	group.Go(func() error { return s.store.Listen(ctx, store.ChannelCatalog, s.stir) })
	remove := s.conn.OnState(func(connected bool) {
		if connected {
			// The server may have come back without what it had.
			s.mirror.forget()
			s.stir()
		}
	})
	defer remove()
	group.Go(func() error {
		if !s.migrate(ctx) {
			return nil
		}
		s.lead(ctx)
		return nil
	})
	return group.Wait()
}

// stir has the leader compare again.
func (s *Service) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) fillStatus(status *picketv1.WorkerStatus) {
	status.Owned = s.metrics.owned.Load()
	if status.LastError == "" {
		if err := s.sources.problem(); err != nil {
			status.LastError = err.Error()
		}
	}
}

// migrate brings the schema up, trying until the database lets it; false when ctx ends first.
func (s *Service) migrate(ctx context.Context) bool {
	s.kit.Health.Set("schema", errors.New("not migrated yet"))
	wait := retryMin
	for ctx.Err() == nil {
		err := s.store.Migrate(ctx)
		if err == nil {
			s.kit.Health.Set("schema", nil)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.kit.Health.Set("schema", err)
		s.complain("migrate", err, wait)
		pause(ctx, wait)
		wait = min(2*wait, retryMax)
	}
	return false
}

// complain logs what will be tried again: once for as long as it stays the same, and loudly unless something is only
// away.
func (s *Service) complain(step string, err error, wait time.Duration) {
	if text := err.Error(); text != s.complaint {
		s.complaint = text
		level := slog.LevelError
		if store.Classify(err) != store.Unknown || !s.conn.Connected() ||
			errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrLeaseLost) {
			level = slog.LevelWarn
		}
		s.log.Log(context.Background(), level, "catalog delayed, trying again", "step", step, "err", err, "wait", wait)
	}
}

// lead holds the lease whenever it can be had, and works as long as it does.
func (s *Service) lead(ctx context.Context) {
	wait := s.leaseRenew
	for ctx.Err() == nil {
		lease, err := s.store.AcquireLease(ctx, leaseName, s.owner, s.leaseTTL)
		switch {
		case err == nil:
			wait = s.leaseRenew
			s.serve(ctx, lease)
		case ctx.Err() != nil:
			return
		case errors.Is(err, store.ErrLeaseLost):
			// Another replica works; its health is its own.
			s.kit.Health.Set("catalog", nil)
			wait = s.leaseRenew
		default:
			s.kit.Health.Set("catalog", err)
			s.complain("lease", err, wait)
			wait = min(2*wait, retryMax)
		}
		pause(ctx, wait)
	}
}

// serve works under the lease until it is lost or ctx ends, and gives it back then.
func (s *Service) serve(ctx context.Context, lease store.Lease) {
	s.log.InfoContext(ctx, "catalog lease taken", "epoch", lease.Epoch)
	s.metrics.leader.Set(1)
	defer s.metrics.leader.Set(0)
	defer s.metrics.owned.Store(0)
	held, cancel := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error {
		defer cancel()
		s.renew(held)
		return nil
	})
	s.mirror.forget()
	s.work(held, lease)
	cancel()
	_ = group.Wait()
	ending, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	if err := s.store.ReleaseLease(ending, lease); err != nil {
		// It runs out by itself.
		s.log.Debug("catalog lease not given back", "err", err)
	}
}

// renew returns when the lease is lost, or may be since the database was away for too long.
func (s *Service) renew(ctx context.Context) {
	renewed := time.Now()
	for {
		if !pause(ctx, s.leaseRenew) {
			return
		}
		asked := time.Now()
		bounded, cancel := context.WithDeadline(ctx, renewed.Add(s.leaseTTL))
		_, err := s.store.AcquireLease(bounded, leaseName, s.owner, s.leaseTTL)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			renewed = asked
		case errors.Is(err, store.ErrLeaseLost), time.Since(renewed) >= s.leaseTTL:
			s.log.Warn("catalog lease lost", "err", err)
			return
		}
	}
}

// work compares until ctx ends: at once, whenever somebody says that something changed, when something runs out, and
// with everything that is there from time to time.
func (s *Service) work(ctx context.Context, lease store.Lease) {
	again := time.NewTicker(s.compareEvery)
	defer again.Stop()
	wait, everything := retryMin, true
	for ctx.Err() == nil {
		next, err := s.compare(ctx, lease, everything)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.kit.Health.Set("catalog", err)
			s.complain("reconcile", err, wait)
			if everything = true; !pause(ctx, wait) {
				return
			}
			wait = min(2*wait, retryMax)
			continue
		}
		s.kit.Health.Set("catalog", nil)
		wait, s.complaint = retryMin, ""
		everything = s.idle(ctx, next, again.C)
	}
}

// idle returns when there is something to compare, everything or only what may have changed: when somebody said so, when
// something runs out after next (0: never), or when again finds that something differs.
func (s *Service) idle(ctx context.Context, next time.Duration, again <-chan time.Time) (everything bool) {
	var expiry <-chan time.Time
	if next > 0 {
		timer := time.NewTimer(next)
		defer timer.Stop()
		expiry = timer.C
	}
	for {
		select {
		case <-s.wake:
			return false
		case <-expiry:
			return false
		case <-again:
			if !s.unchanged(ctx) {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// pause waits, and is false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
