package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
)

// Exit codes of every program.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
)

// Program is one service as a process of its own.
type Program[C any] struct {
	// Name of the service.
	Name string
	// About is one sentence for --help.
	About string
	// Defaults is the configuration before the file and the environment.
	Defaults C
	// Common points at the part of the configuration that every service has.
	Common func(config *C) *Common
	// Run does the work until ctx ends, and returns nil then.
	Run func(ctx context.Context, kit *Kit, conn *bus.Conn, config C) error
}

// Main runs the program and returns its exit code. It reads flags, file and
// environment, answers on the admin address, and stops on SIGINT and SIGTERM:
// not ready first, then the service's own stop, bounded by the shutdown timeout.
func Main[C any](program Program[C], args []string, stderr *os.File) int {
	config := program.Defaults
	asked, done, code := parseFlags(program.Name, program.About, &config, args, stderr)
	if done {
		return code
	}
	file := asked.config
	if err := Load(&config, Sources{File: file, Environ: os.Environ(), Shared: true}); err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", program.Name, err)
		return ExitUsage
	}
	common := program.Common(&config)
	if asked.healthy {
		if err := askReady(context.Background(), common.AdminListen); err != nil {
			_, _ = fmt.Fprintf(stderr, "%s: %v\n", program.Name, err)
			return ExitFailure
		}
		return ExitOK
	}
	kit := newKit(program.Name, common, stderr)
	kit.ConfigFile = file
	defer CaptureStandardLog(kit.Log)()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, program, kit, config, *common); err != nil {
		kit.Log.Error("stopped", "err", err)
		return ExitFailure
	}
	kit.Log.Info("stopped")
	return ExitOK
}

// flagValues is what the command line can say.
type flagValues struct {
	config  string
	healthy bool
}

func parseFlags(name, about string, config any, args []string, out io.Writer) (asked flagValues, done bool, code int) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&asked.config, "config", os.Getenv("PICKET_CONFIG"), "YAML `FILE` whose settings are read")
	flags.BoolVar(&asked.healthy, "healthy", false, "ask the service that runs with these settings whether it is ready, and exit with 0 if so: for container health checks")
	version := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		_, _ = fmt.Fprintf(out, "%s: %s\n\nUsage: %s [-config FILE] [-healthy]\n\nFlags:\n", name, about, name)
		flags.PrintDefaults()
		_, _ = fmt.Fprintf(out, "\nEnvironment:\n")
		WriteSettings(out, Describe(config))
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return flagValues{}, true, ExitOK
	case err != nil:
		return flagValues{}, true, ExitUsage
	case flags.NArg() > 0:
		_, _ = fmt.Fprintf(out, "%s: takes no arguments, got %q\n", name, flags.Args())
		return flagValues{}, true, ExitUsage
	case *version:
		_, _ = fmt.Fprintln(out, name, Version())
		return flagValues{}, true, ExitOK
	}
	return asked, false, ExitOK
}

// WriteSettings prints settings for --help.
func WriteSettings(out io.Writer, settings []Setting) {
	for _, setting := range settings {
		_, _ = fmt.Fprintf(out, "  %-32s %s", setting.Name, setting.Description)
		if setting.Default != "" {
			_, _ = fmt.Fprintf(out, " Default: %s.", setting.Default)
		}
		_, _ = fmt.Fprintln(out)
	}
}

func newKit(name string, common *Common, stderr *os.File) *Kit {
	if common.Instance == "" {
		common.Instance = DefaultInstance()
	}
	registry, health := NewRegistry(), NewHealth()
	registry.MustRegister(health.Collector(), health.Up(name))
	return &Kit{
		Name:     name,
		Instance: common.Instance,
		Location: common.Location,
		Version:  Version(),
		Started:  time.Now(),
		Log:      NewLogger(stderr, common.LogLevel, common.LogFormat).With("service", name, "instance", common.Instance),
		Metrics:  registry,
		Health:   health,
	}
}

// NewRegistry makes a metrics registry with the figures of the Go runtime, the
// process and the build.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fleet_build_info", Help: "Always 1; the label tells the version.", ConstLabels: prometheus.Labels{"version": Version()},
	})
	build.Set(1)
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return registry
}

func run[C any](ctx context.Context, program Program[C], kit *Kit, config C, common Common) error {
	listener, err := Listen(ctx, common.AdminListen, "PICKET_ADMIN_LISTEN")
	if err != nil {
		return err
	}
	conn, err := bus.Connect(bus.Options{
		URL: common.NATSURL, Name: kit.Name + "/" + kit.Instance, CredentialsFile: common.NATSCredentials,
		InboxPrefix: "_INBOX_" + kit.Name, LeaveProvisioning: !common.NATSProvision,
		Encoding: common.Encoding, Log: kit.Log,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	kit.Log.Info("starting", "version", kit.Version, "admin", listener.Addr().String(), "nats", Redact(common.NATSURL), "location", kit.Location)

	// The admin server outlives the service, so that /livez answers and /readyz
	// says "stopping" for as long as the stop takes.
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()
	Starting(kit)
	mux := http.NewServeMux()
	mux.Handle("/", Handler(kit))
	mux.Handle("GET /metrics", MetricsHandler(kit.Metrics))
	var admin errgroup.Group
	admin.Go(func() error { return ServeHTTP(adminCtx, listener, mux) })
	admin.Go(func() error { return ServeProfiles(adminCtx, kit, common.PprofListen) })

	go func() { <-ctx.Done(); kit.Health.Stopping() }()

	served := make(chan error, 1)
	go func() {
		streams := Streams{Limits: bus.StreamLimits{MaxBytes: common.StreamMaxBytes, Replicas: common.StreamReplicas}}
		served <- WithTracing(ctx, kit, func() error {
			return WithStreams(ctx, kit, conn, streams, func(ctx context.Context) error {
				return program.Run(ctx, kit, conn, config)
			})
		})
	}()
	err = awaitStop(ctx, served, common.ShutdownTimeout)
	stopAdmin()
	return errors.Join(err, admin.Wait())
}

// awaitStop waits for the service, and no longer than timeout once ctx has ended.
func awaitStop(ctx context.Context, served <-chan error, timeout time.Duration) error {
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case err := <-served:
		return err
	case <-timer.C:
		return fmt.Errorf("stop took longer than %s", timeout)
	}
}

// restoreEvery is how long a stream that somebody deleted is missing at most.
const restoreEvery = 5 * time.Second

// natsEvery is how often a service looks whether NATS answers it.
const natsEvery = time.Second

// Who has not begun is not ready.
const streamsComponent = "streams"

var errStarting = errors.New("not there yet")

// Starting marks a service as not ready until WithStreams has run.
func Starting(kit *Kit) { kit.Health.Set(streamsComponent, errStarting) }

// Streams says which streams a service needs.
type Streams struct {
	Limits bus.StreamLimits
	// KeptByAnother: another service of the same process makes those anew that are deleted. It takes a dozen requests every
	// five seconds.
	KeptByAnother bool
}

// WithStreams creates the streams, trying until the server is there, and runs work then; it creates those that are deleted
// meanwhile anew, and makes NATS a component of the service's health. It returns work's error, and nil when ctx ends before.
func WithStreams(ctx context.Context, kit *Kit, conn *bus.Conn, streams Streams, work func(ctx context.Context) error) error {
	keeping, stop := context.WithCancel(ctx)
	var kept sync.WaitGroup
	defer kept.Wait()
	defer stop()
	kept.Go(func() { kit.Health.Watch(keeping, "nats", natsEvery, conn.Ping) })
	kit.Health.Set(streamsComponent, errStarting)
	if !ensureStreams(ctx, kit, conn, streams.Limits) {
		return nil
	}
	kit.Health.Set(streamsComponent, nil)
	if !streams.KeptByAnother {
		kept.Go(func() { restoreStreams(keeping, kit, conn, streams.Limits) })
	}
	return work(ctx)
}

// ensureStreams reports false when ctx ended first.
func ensureStreams(ctx context.Context, kit *Kit, conn *bus.Conn, limits bus.StreamLimits) bool {
	for wait := 250 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := conn.EnsureStreams(ctx, limits)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			kit.Log.Warn("streams not ready, trying again", "err", err, "wait", wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return false
}

func restoreStreams(ctx context.Context, kit *Kit, conn *bus.Conn, limits bus.StreamLimits) {
	ticker := time.NewTicker(restoreEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if !conn.Connected() {
			continue
		}
		if err := conn.RestoreStreams(ctx, limits); err != nil && ctx.Err() == nil {
			kit.Log.Warn("streams not looked at, trying again", "err", err)
		}
	}
}
