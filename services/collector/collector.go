package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/ticker"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Deps are what a collector works with.
type Deps struct {
	Kit  *service.Kit
	Conn *bus.Conn
	// Keyring opens the tokens that servers want presented; nil: there is no key.
	Keyring *catalog.Keyring
}

// Service is one collector. Make one with New and let it Run once.
type Service struct {
	cfg  Config
	kit  *service.Kit
	conn *bus.Conn
	log  *slog.Logger

	start   time.Time // of mono
	ticker  *ticker.Ticker
	fetcher *fetcher
	secrets credential.Source
	states  states
	metrics *metrics
	readers chan struct{} // one for each answer that may be read at a time
}

// New wires a collector. Its errors are about the configuration and the registry.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	if deps.Kit == nil || deps.Conn == nil {
		return nil, errors.New("collector: kit and connection are required")
	}
	s := &Service{
		cfg: cfg, kit: deps.Kit, conn: deps.Conn, log: deps.Kit.Log,
		start:   time.Now(),
		fetcher: newFetcher(cfg.BodyLimit, cfg.BodyMemory, max(1, ticker.OpenFiles()/4), deps.Kit.Version),
		secrets: credential.Source{Dir: cfg.SecretsDir, Keyring: deps.Keyring},
		states:  states{down: map[string]*picketv1.ServerStatus{}},
		readers: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	var err error
	if s.metrics, err = newMetrics(deps.Kit.Metrics, s.states.skipped); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	s.ticker, err = ticker.New(ticker.Options{
		Kit: deps.Kit, Conn: deps.Conn,
		Config: ticker.Config{
			HostBatchSize: cfg.HostBatchSize, HostBatchDelay: cfg.HostBatchDelay,
			CycleInterval: cfg.CycleInterval, MaxInFlight: cfg.MaxInFlight, QueueBytes: cfg.QueueBytes,
		},
		Kinds: []string{catalog.KindMetrics}, Build: s.build, Skip: s.states.skip, Words: ticker.MetricsCollection,
	})
	if err != nil {
		s.metrics.unregister()
		return nil, fmt.Errorf("collector: %w", err)
	}
	return s, nil
}

// mono is the monotonic clock: the time since the service was made.
func (s *Service) mono() time.Duration { return time.Since(s.start) }

// Run collects until ctx ends, and then stops in order, as [ticker.Ticker.Run] says. It returns nil then, and an error
// when a part has failed. A Service runs once.
func (s *Service) Run(ctx context.Context) error {
	defer s.metrics.unregister()
	defer s.fetcher.close()
	beside, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { s.followStates(beside) })
	parts.Go(func() { s.watchPlatform(beside) })
	err := s.ticker.Run(ctx)
	stop()
	parts.Wait()
	if err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	return nil
}
