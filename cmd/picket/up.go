package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
)

type upCommand struct {
	Config     string `env:"PICKET_CONFIG" short:"c" type:"path" help:"YAML file with servers and settings (picket.yaml in the working directory when it is there)."`
	DataDir    string `type:"path" help:"Where everything is kept."`
	NATSListen string `name:"nats-listen" help:"Address of the NATS server inside (127.0.0.1:4222)."`
	HTTPListen string `name:"http-listen" help:"Address of the API, /health, /readyz and /metrics (127.0.0.1:9460)."`
	Demo       bool   `help:"Watch three small local servers too: one healthy, one degraded, one that flips every two minutes."`
}

func (upCommand) Help() string {
	return `Runs NATS, a private PostgreSQL and every service in one process, and watches itself.
Every setting is also a variable or a key of the file: picket config print.

Examples:
  picket up --demo
  CHECKOUT_HEALTH_URL=http://10.0.0.5:8080 picket up
  picket up --config picket.yaml --data-dir /srv/picket
  DATABASE_URL=postgres://user@host/db picket up       with a PostgreSQL or TimescaleDB of yours`
}

// Run starts everything, says where it is, and stops it all when ctx ends.
func (c *upCommand) Run(ctx context.Context, std console) error {
	s, err := c.settings()
	if err != nil {
		return err
	}
	log := service.NewLogger(std.err, s.LogLevel, s.LogFormat)
	defer service.CaptureStandardLog(log)()
	for _, name := range service.UnknownVariables(&s, os.Environ()) {
		log.Warn("variable means nothing to picket", "variable", name)
	}
	if err := os.MkdirAll(s.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory (another one: --data-dir): %w", err)
	}
	newToken, err := s.keepSecrets()
	if err != nil {
		return err
	}
	// A terminal that is closed hangs up, and Picket with it; to a program without one, that is the word to reload.
	reload := make(chan os.Signal, 1)
	if isatty.IsTerminal(os.Stdin.Fd()) {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
		defer stop()
	} else {
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
	}
	started := time.Now()
	stack, err := newStack(ctx, s, c.Demo, reload, log)
	if err != nil {
		return c.explain(err, s.AdminListen)
	}
	welcome(std.out, stack, newToken)
	watchCtx, stopWatch := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		announceHealthy(watchCtx, std.out, stack, started)
	}()
	err = stack.run(ctx)
	stopWatch()
	<-watched
	_, _ = fmt.Fprintln(std.out, "Stopped.")
	return err
}

func (c *upCommand) settings() (settings, error) {
	s, err := loadSettings(configFile(c.Config))
	if err != nil {
		return settings{}, err
	}
	override := func(setting *string, flag string) {
		if flag != "" {
			*setting = flag
		}
	}
	override(&s.DataDir, c.DataDir)
	override(&s.NATSListen, c.NATSListen)
	override(&s.AdminListen, c.HTTPListen)
	if s.DataDir, err = filepath.Abs(s.DataDir); err != nil {
		return settings{}, fmt.Errorf("data directory: %w", err)
	}
	if s.Instance == "" {
		s.Instance = service.DefaultInstance()
	}
	if os.Getenv("LOG_LEVEL") == "" && s.LogLevel.Level() == slog.LevelInfo {
		// The first screen belongs to what to do next; what goes wrong still shows.
		s.LogLevel = service.LogLevel(slog.LevelWarn)
	}
	return s, nil
}

// explain says which flag mends what commonly stands in the way.
func (c *upCommand) explain(err error, httpListen string) error {
	var taken *embedded.AddressInUseError
	var held *embedded.InUseError
	switch {
	case errors.As(err, &taken):
		_, port, _ := net.SplitHostPort(taken.Address)
		return fmt.Errorf("port %s (%s) is in use by another program: choose another with --nats-listen 127.0.0.1:PORT", port, taken.Address)
	case errors.As(err, &held):
		return fmt.Errorf("%w: is picket running already? (another data directory: --data-dir)", err)
	case errors.Is(err, service.ErrListen) && errors.Is(err, syscall.EADDRINUSE):
		// The listener is the first thing that a second picket up meets.
		return fmt.Errorf("%s is in use: is picket running already? (another address: --http-listen 127.0.0.1:PORT)", httpListen)
	case errors.Is(err, service.ErrListen):
		return fmt.Errorf("%w: choose another with --http-listen 127.0.0.1:PORT", err)
	default:
		return err
	}
}
