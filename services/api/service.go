package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// pingEvery is how often the database is asked whether it is there; an answer is waited for as long. When two in a
	// row are missing, requests are refused and those in flight ended: three of these after it stopped to answer at the
	// latest.
	pingEvery  = 500 * time.Millisecond
	pingMisses = 2
	// keepEvery is how often what the service keeps beside requests is written and pruned.
	keepEvery = 30 * time.Second
)

// Deps is what the service works with. It closes none of it.
type Deps struct {
	Kit   *service.Kit
	Conn  *bus.Conn
	Store *store.Store
	// Blob holds the exports; nil: none can be downloaded here.
	Blob blob.Store
	// Keyring seals what servers want presented; nil: no server can have a token.
	Keyring *catalog.Keyring
}

// Service is the api. Run it once; its handler answers while it runs.
type Service struct {
	config  Config
	kit     *service.Kit
	conn    *bus.Conn
	store   *store.Store
	blob    blob.Store
	keyring *catalog.Keyring
	log     *slog.Logger
	metrics *metrics
	gate    *gate
	tokens  *verifier
	limits  *limits
	counts  kept[Summary]
	spent   kept[costSummary]
	totals  kept[int]
	reads   *readers
	// counting bounds the counts that run beside requests: with the readers they leave connections to everybody else.
	counting chan struct{}
	mux      *http.ServeMux
	handler  http.Handler
	// document30 is the OpenAPI document in version 3.0.
	document30 []byte
	attendant

	// unreadable is how many tokens no key opened when it was last looked; only work has it.
	unreadable int
	// misses counts how often in a row the database did not answer; only lookAtDatabase has it.
	misses         int
	served, failed atomic.Int64
}

// New checks what the service is given and does no I/O.
func New(config Config, deps Deps) (*Service, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	// First, since building the routes takes a while, in which nobody must be sent here.
	deps.Kit.Health.Set("database", errors.New("not asked yet"))
	metrics, err := newMetrics(deps.Kit.Metrics)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s := &Service{
		config: config, kit: deps.Kit, conn: deps.Conn, store: deps.Store, blob: deps.Blob, keyring: deps.Keyring, log: deps.Kit.Log,
		metrics: metrics, gate: newGate(), tokens: newVerifier(deps.Store), limits: newLimits(config),
		attendant: newAttendant(deps.Kit),
	}
	connections := store.DefaultMaxConns
	if deps.Store != nil { // writing the document needs none
		connections = deps.Store.MaxConns()
	}
	s.reads, s.counting = newReaders(connections), make(chan struct{}, max(1, connections/8))
	s.counts.bound, s.spent.bound, s.totals.bound = s.bounded, s.bounded, s.bounded
	s.counts.log, s.spent.log, s.totals.log = s.log, s.log, s.log
	if err := s.buildRoutes(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	return s, nil
}

// Handler answers requests. Those that need the database are refused until Run has found it.
func (s *Service) Handler() http.Handler { return s.handler }

// Run works until ctx ends, and returns nil then. The database and NATS may be away at the start and at any time later.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	defer s.gate.stop()
	if s.config.Listen != "" {
		listener, err := service.Listen(ctx, s.config.Listen, "PICKET_API_LISTEN")
		if err != nil {
			return fmt.Errorf("api: %w", err)
		}
		s.log.InfoContext(ctx, "answering", "address", listener.Addr().String())
		group.Go(func() error { return service.ServeHTTP(ctx, listener, s.handler) })
	}
	// Streams end first, so that nothing holds up the server's end.
	stop := context.AfterFunc(ctx, s.gate.stop)
	defer stop()
	group.Go(func() error { return service.Beat(ctx, s.kit, s.conn, s.fillHeartbeat) })
	group.Go(func() error {
		s.kit.Health.Watch(ctx, "database", pingEvery, s.lookAtDatabase)
		return nil
	})
	group.Go(func() error { s.work(ctx); return nil })
	group.Go(func() error { s.attend(ctx); return nil })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

// lookAtDatabase opens the gate when the database has this program's schema, and closes it when it does not answer.
func (s *Service) lookAtDatabase(ctx context.Context) error {
	err := s.store.Ping(ctx)
	if err == nil && !s.gate.migrated.Load() {
		if err = s.store.CheckSchema(ctx); err == nil {
			// Before anybody is let in, or who comes first with the first token is told that there is no such token.
			if err = s.bootstrap(ctx); err == nil {
				s.gate.migrated.Store(true)
			}
		}
	}
	s.misses++
	if err == nil {
		s.misses = 0
	}
	if err == nil || s.misses >= pingMisses {
		s.gate.set(err)
	}
	return err
}

// bounded is the context of a count that is nobody's request: it ends with the time that one may take, when the database
// goes away and when the service stops. Counts take turns: there are as many as people can think of filters.
func (s *Service) bounded(ctx context.Context) (context.Context, context.CancelFunc, error) {
	ctx, leave, err := s.gate.through(ctx, false)
	if err != nil {
		return nil, nil, away(err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	select {
	case s.counting <- struct{}{}:
		return ctx, func() { <-s.counting; cancel(); leave() }, nil
	case <-ctx.Done():
		told, _ := asProblem(ctx, ctx.Err())
		cancel()
		leave()
		return nil, nil, told
	}
}

// work is what the service does beside requests.
func (s *Service) work(ctx context.Context) {
	if s.store.WaitForSchema(ctx) != nil {
		return
	}
	s.reseal(ctx)
	for sleep(ctx, keepEvery) {
		s.keep(ctx)
		s.reseal(ctx)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	s.keep(last)
}

// bootstrap makes the first admin's token.
func (s *Service) bootstrap(ctx context.Context) error {
	if s.config.AdminToken == "" {
		return nil
	}
	secret, err := store.ParseTokenSecret(s.config.AdminToken)
	if err != nil {
		return nil //nolint:nilerr // Validate has refused it
	}
	err = s.store.BootstrapToken(ctx, catalog.DefaultOrg, secret)
	if errors.Is(err, store.ErrEnded) || errors.Is(err, store.ErrExists) {
		s.log.WarnContext(ctx, "PICKET_ADMIN_TOKEN is not valid any more", "err", err)
		return nil
	}
	return err
}

// keep writes when tokens were used and throws away what has run out.
func (s *Service) keep(ctx context.Context) {
	used := s.tokens.takeUsed()
	err := errors.Join(s.store.TouchTokens(ctx, used), s.store.PruneIdempotency(ctx))
	if err != nil && ctx.Err() == nil {
		s.log.DebugContext(ctx, "housekeeping delayed", "err", err)
	}
}

func (s *Service) fillHeartbeat(status *picketv1.WorkerStatus) {
	served, failed := s.served.Load(), s.failed.Load()
	status.Performed, status.Successful, status.Failed = served, served-failed, failed
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
