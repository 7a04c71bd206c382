// Command load reads the API while the pipeline is at work: it plays a fleet, runs `picket up` beside it, asks the API at
// a fixed rate whatever it answers (an open loop: a slow answer delays no other request, and is counted from when it was
// due), and holds what was stored against what was due. Before and after it looks at what a leak would show in.
//
//	go build -o bin/picket ./cmd/picket
//	go run ./test/load --picket bin/picket --checks 30000 --interval 30s --reads 200 --for 5m
//
// Fleet and Picket are processes of their own. It ends with status 1 when a result was lost or a request failed; what the
// machine is fast enough for is for the reader to judge.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/picketd/picket/test/fleetsim"
)

// fleetVariable tells a child that it is the fleet.
const fleetVariable = "PICKET_LOAD_FLEET"

type options struct {
	Picket   string
	Checks   int
	Interval time.Duration
	Reads    float64
	For      time.Duration
	Dir      string
	Port     int
}

func parse(arguments []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.Picket, "picket", "bin/picket", "the program to run")
	flags.IntVar(&o.Checks, "checks", 30000, "checks of the fleet")
	flags.DurationVar(&o.Interval, "interval", 30*time.Second, "interval of every check")
	flags.Float64Var(&o.Reads, "reads", 200, "requests to the API a second")
	flags.DurationVar(&o.For, "for", 5*time.Minute, "how long to ask")
	flags.StringVar(&o.Dir, "data-dir", "", "data directory for picket up; empty: a temporary one, removed at the end")
	flags.IntVar(&o.Port, "port", 18080, "port of the fleet's servers, on 127.1.0.1 and up")
	if err := flags.Parse(arguments); err != nil {
		return o, err
	}
	if o.Checks < 1 || o.Interval < time.Second || o.Reads <= 0 || o.For < time.Second {
		return o, errors.New("checks, interval, reads or time is too small")
	}
	return o, nil
}

func main() { os.Exit(program()) }

// program returns the exit status.
func program() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "load:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context) error {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return err
	}
	fleet := fleetsim.Options{Servers: o.Checks, Port: o.Port, Format: fleetsim.Pulse, Keep: 1}
	if os.Getenv(fleetVariable) != "" {
		return serveFleet(ctx, fleet)
	}
	if o.Dir == "" {
		// PostgreSQL's own user must reach it, and its socket's path must be short.
		if o.Dir, err = os.MkdirTemp("/tmp", "pkt-load-"); err != nil {
			return fmt.Errorf("make a data directory: %w", err)
		}
		defer func() { _ = os.RemoveAll(o.Dir) }()
		if err := os.Chmod(o.Dir, 0o755); err != nil {
			return fmt.Errorf("open the data directory: %w", err)
		}
	}
	config := filepath.Join(o.Dir, "picket.yaml")
	if err := writeConfig(config, fleet, o.Interval); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	_, stopFleet, err := start(ctx, "fleet", self, os.Args[1:], append(os.Environ(), fleetVariable+"=1"))
	if err != nil {
		return err
	}
	defer stopFleet()
	up, stopPicket, err := start(ctx, "picket up", o.Picket,
		[]string{"up", "--config", config, "--data-dir", filepath.Join(o.Dir, "data"), "--nats-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"},
		append(os.Environ(), "NO_COLOR=1"))
	if err != nil {
		return err
	}
	defer stopPicket()
	return measure(ctx, o, up, os.Stdout)
}

func writeConfig(path string, fleet fleetsim.Options, interval time.Duration) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the catalog: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return fleetsim.WriteConfig(file, fleet, interval)
}

func serveFleet(ctx context.Context, o fleetsim.Options) error {
	fleet, err := fleetsim.Start(ctx, o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, "fleet of", fleet.Len())
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, fleet.Stop())
}

// start runs a program and returns what it prints, line by line.
func start(ctx context.Context, name, program string, args, env []string) (lines *output, stop func(), err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stderr = env, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	lines = newOutput(pipe)
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		lines.finish()
		_ = cmd.Wait() // by that signal
	}
	if err := lines.first(ctx); err != nil {
		stop()
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	return lines, stop, nil
}
