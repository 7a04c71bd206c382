package prober

import (
	"context"
	"errors"
	"fmt"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/ticker"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober/probe"
)

// Deps are what a prober works with.
type Deps struct {
	Kit  *service.Kit
	Conn *bus.Conn
	// Keyring opens the tokens that servers want presented; nil: there is no key.
	Keyring *catalog.Keyring
}

// Service is one prober. Make one with New and let it Run once.
type Service struct {
	ticker  *ticker.Ticker
	probes  *probe.Pool
	secrets credential.Source
	options probe.Options
}

// New wires a prober. Its errors are about the configuration and the registry.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("prober: %w", err)
	}
	if deps.Kit == nil || deps.Conn == nil {
		return nil, errors.New("prober: kit and connection are required")
	}
	pool := probe.NewPool(probe.PoolOptions{
		MaxConnections: max(1, ticker.OpenFiles()/4), LongAnswers: cfg.BodyMemory / cfg.BodyLimit,
	})
	p := &Service{
		probes:  pool,
		secrets: credential.Source{Dir: cfg.SecretsDir, Keyring: deps.Keyring},
		options: probe.Options{Pool: pool, BodyLimit: cfg.BodyLimit, Version: deps.Kit.Version},
	}
	var err error
	p.ticker, err = ticker.New(ticker.Options{
		Kit: deps.Kit, Conn: deps.Conn,
		Config: ticker.Config{
			HostBatchSize: cfg.HostBatchSize, HostBatchDelay: cfg.HostBatchDelay,
			CycleInterval: cfg.CycleInterval, MaxInFlight: cfg.MaxInFlight, QueueBytes: cfg.QueueBytes,
		},
		Kinds: probe.Kinds(), Build: p.build, Words: ticker.HealthChecks,
	})
	if err != nil {
		return nil, fmt.Errorf("prober: %w", err)
	}
	return p, nil
}

// Run probes until ctx ends, and then stops in order, as [ticker.Ticker.Run]
// says. It returns nil then, and an error when a part has failed. A Service runs
// once.
func (p *Service) Run(ctx context.Context) error {
	defer p.probes.Close()
	if err := p.ticker.Run(ctx); err != nil {
		return fmt.Errorf("prober: %w", err)
	}
	return nil
}

// runner is a compiled check.
type runner struct{ probe.Prober }

// Run implements ticker.Runner.
func (r runner) Run(ctx context.Context) ticker.Outcome {
	return ticker.Outcome{Result: r.Probe(ctx)}
}

// build compiles a check.
func (p *Service) build(scheduled *picketv1.ScheduledCheck) (ticker.Runner, error) {
	check, err := p.secrets.Check(scheduled.GetCheck())
	if err != nil {
		return nil, err
	}
	options := p.options
	if check.GetHttp().GetServerToken() {
		if options.Bearer, err = p.secrets.Bearer(scheduled); err != nil {
			return ticker.Unable(health.ReasonCredential, err.Error()), nil
		}
	}
	prober, err := probe.New(check, options)
	if err != nil {
		return nil, err
	}
	return runner{prober}, nil
}
