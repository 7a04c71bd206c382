// Command picket is the one command people type: it runs the whole pipeline on
// one machine, looks on at a running one, probes a target once, and takes care
// of configuration and data. The services as processes of their own are under
// services/*/cmd.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/picketd/picket/internal/service"
)

// cli is every command with its flags.
type cli struct {
	Up      upCommand      `cmd:"" help:"Run everything on this machine: probe, store, alert."`
	Tail    tailCommand    `cmd:"" help:"Show live results and alerts as they happen."`
	Dead    deadCommand    `cmd:"" help:"Look at messages that could not be processed, and put them back."`
	Probe   probeCommand   `cmd:"" help:"Look at one URL once; needs no server."`
	Config  configCommand  `cmd:"" help:"Write, check and show the configuration."`
	Migrate migrateCommand `cmd:"" help:"Bring the database to this version's schema."`
	Doctor  doctorCommand  `cmd:"" help:"Say what of this machine could be in the way."`
	Reset   resetCommand   `cmd:"" help:"Remove everything that picket up has stored."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// console is where a command writes: what was asked for to out, everything else to err.
type console struct {
	in  io.Reader
	out *os.File
	err *os.File
}

// exitError carries an exit code that is not the ordinary failure.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() {
	os.Exit(run(os.Args[1:], console{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

func run(args []string, std console) int {
	var commands cli
	exited := -1
	parser, err := kong.New(&commands,
		kong.Name("picket"),
		kong.Description("Picket watches servers and services. Start with `picket up --demo`."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { exited = code }),
	)
	if err != nil {
		_, _ = fmt.Fprintln(std.err, "picket:", err)
		return service.ExitFailure
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited // --help has been printed
	}
	if err != nil {
		_, _ = fmt.Fprintf(std.err, "picket: %v\nTry `picket --help`.\n", err)
		return service.ExitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(std); err != nil {
		return report(err, std)
	}
	return service.ExitOK
}

func report(err error, std console) int {
	_, _ = fmt.Fprintln(std.err, "picket:", err)
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, service.ErrConfig):
		return service.ExitUsage
	default:
		return service.ExitFailure
	}
}

type versionCommand struct{}

func (versionCommand) Run(std console) error {
	_, err := fmt.Fprintln(std.out, "picket", service.Version())
	return err
}
