// Command fleetsim plays a fleet of servers on the loopback device for measurements and system tests, and reports what
// arrived: on its admin address while it runs, and to standard output when it is interrupted.
//
//	fleetsim --servers 5000 --listen-port 18080 --hanging 0.1 --admin 127.0.0.1:18081
//	curl -s '127.0.0.1:18081/config?interval=30s' > picket.yaml
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/picketd/picket/test/fleetsim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2) // flag has said why
	case err != nil:
		fmt.Fprintln(os.Stderr, "fleetsim:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("bad usage")

func run(ctx context.Context, arguments []string, out, messages io.Writer) error {
	var opts fleetsim.Options
	flags := flag.NewFlagSet("fleetsim", flag.ContinueOnError)
	flags.SetOutput(messages)
	flags.IntVar(&opts.Servers, "servers", 100, "number of servers, on addresses from 127.1.0.1 on")
	flags.IntVar(&opts.Port, "listen-port", 0, "port of every server, 0 for a free one")
	flags.Float64Var(&opts.Degraded, "degraded", 0, "share of degraded servers, 0 to 1")
	flags.Float64Var(&opts.Critical, "critical", 0, "share of critical servers")
	flags.Float64Var(&opts.Hanging, "hanging", 0, "share of servers that never answer")
	flags.Float64Var(&opts.Resetting, "resetting", 0, "share of servers that reset connections")
	flags.Float64Var(&opts.Flipping, "flipping", 0, "share of servers that are healthy and critical by turns")
	flags.DurationVar(&opts.FlipEvery, "flip-every", 2*time.Minute, "length of such a turn")
	flags.IntVar(&opts.Keep, "keep", 64, "arrivals to remember for each server")
	format := flags.String("format", string(fleetsim.Pulse), "form of the health bodies: pulse, opscenter or ietf")
	flags.DurationVar(&opts.MetricsInterval, "metrics-interval", 0, "interval of checks of figures in a picket.yaml, 0 for none")
	flags.Func("token", "bearer token that the servers want; may stand there several times", func(token string) error {
		opts.Tokens = append(opts.Tokens, token)
		return nil
	})
	admin := flags.String("admin", "", "address for GET /report, GET /config, POST /servers/{index}?behaviour=…&metrics=…, POST /tokens?token=…")
	printConfig := flags.Bool("print-config", false, "print a picket.yaml for the fleet and end; needs --listen-port")
	interval := flags.Duration("interval", 30*time.Second, "interval of the checks in that picket.yaml")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	opts.Format = fleetsim.Format(*format)
	if *printConfig {
		return fleetsim.WriteConfig(out, opts, *interval)
	}

	fleet, err := fleetsim.Start(ctx, opts)
	if err != nil {
		return err
	}
	control := &http.Server{Handler: fleet.Admin(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	where := "none"
	if *admin != "" {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *admin)
		if err != nil {
			return errors.Join(err, fleet.Stop())
		}
		where = "http://" + listener.Addr().String()
		go func() { failed <- control.Serve(listener) }()
	}
	// One line that a test can wait for and read.
	fmt.Fprintf(messages, "fleetsim: %d servers from %s to %s, admin %s\n",
		fleet.Len(), fleet.URL(0), fleet.URL(fleet.Len()-1), where)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	report := fleet.Report()
	err = errors.Join(err, control.Close(), fleet.Stop())
	return errors.Join(err, json.NewEncoder(out).Encode(report))
}
