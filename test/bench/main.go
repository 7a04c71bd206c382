// Command bench measures what Picket costs and how it holds, against the limit of the same machine in the same minutes, and
// prints a table: what, the limit, Picket, their ratio, the goal, and whether it is reached. docs/benchmarks.md says what each
// line means, and holds a run of it.
//
// Whatever is measured is a process of its own, as are targets, NATS and PostgreSQL, so that a process's CPU time is that of
// the thing measured. Things to compare take turns, several rounds, and medians are compared: numbers of one run belong
// together, numbers of two machines do not.
//
//	go run ./test/bench                            all that takes minutes
//	go run ./test/bench --list                     what there is
//	go run ./test/bench --only prober --rounds 9
//	go run ./test/bench --only scale --checks 100000 --for 10m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	Only                []string
	List, Quick, Strict bool
	JSON, Markdown      bool
	Rounds              int
	Warm, Window        time.Duration
	Targets             int
	Interval            time.Duration
	Fresh               bool
	Profile             string
	Checks, Probers     int
	For                 time.Duration
	Database            string
}

func parse(arguments []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Func("only", "measurement to run, repeated or with commas between; without it all that are not by hand", func(names string) error {
		o.Only = append(o.Only, strings.Split(names, ",")...)
		return nil
	})
	flags.BoolVar(&o.List, "list", false, "list the measurements and end")
	flags.BoolVar(&o.Quick, "quick", false, "one short round of each: that everything runs, not what it costs")
	flags.BoolVar(&o.Strict, "strict", false, "fail when a goal is not reached")
	flags.BoolVar(&o.JSON, "json", false, "print JSON")
	flags.BoolVar(&o.Markdown, "markdown", false, "print a table for docs/benchmarks.md")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds of what is compared; medians are shown")
	flags.DurationVar(&o.Warm, "warm", 4*time.Second, "time before each measurement")
	flags.DurationVar(&o.Window, "measure", 8*time.Second, "length of each measurement")
	flags.IntVar(&o.Targets, "targets", 1000, "prober: targets, each on an address of its own")
	flags.DurationVar(&o.Interval, "interval", time.Second, "prober: interval of every check")
	flags.BoolVar(&o.Fresh, "fresh", false, "prober: a new connection for every probe, on both sides")
	flags.StringVar(&o.Profile, "profile", "", "prober: file for a CPU profile of its last round")
	flags.IntVar(&o.Checks, "checks", 100_000, "scale: checks, each every 30 s")
	flags.IntVar(&o.Probers, "probers", 2, "scale: processes that probe")
	flags.DurationVar(&o.For, "for", 10*time.Minute, "scale: length of the measurement")
	flags.StringVar(&o.Database, "database", os.Getenv("PICKET_TEST_DATABASE_URL"), "writer: a PostgreSQL or TimescaleDB server instead of a private one")
	if err := flags.Parse(arguments); err != nil {
		return o, err
	}
	if o.Quick {
		o.Rounds, o.Warm, o.Window = 1, 2*time.Second, 3*time.Second
	}
	if o.Targets < 1 || o.Rounds < 1 || o.Checks < 1 || o.Probers < 1 || o.Interval < 100*time.Millisecond || o.Window < time.Second || o.For < time.Second {
		return o, errors.New("targets, rounds, checks, probers, interval or a length is too small")
	}
	for _, name := range o.Only {
		if !slices.ContainsFunc(measurements(), func(m measurement) bool { return m.name == name }) {
			return o, fmt.Errorf("no measurement is called %q: --list names them", name)
		}
	}
	return o, nil
}

func main() { os.Exit(status()) }

// status runs the program and returns its exit status.
func status() int {
	if os.Getenv(roleVariable) != "" {
		// Its parent ends it; what a terminal sends to both is for the parent.
		signal.Ignore(os.Interrupt)
		if err := serveRole(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, arguments []string, out, messages io.Writer) error {
	o, err := parse(arguments, messages)
	if err != nil {
		return err
	}
	if o.List {
		for _, m := range measurements() {
			hand := ""
			if m.byHand {
				hand = " (only with --only)"
			}
			if _, err := fmt.Fprintf(out, "%-10s %s%s\n", m.name, m.about, hand); err != nil {
				return err
			}
		}
		return nil
	}
	b, err := newBench(ctx, o, messages)
	if err != nil {
		return err
	}
	defer b.close()
	r := b.measure(ctx)
	if err := r.print(out, o); err != nil {
		return err
	}
	return r.verdict(o.Strict)
}
