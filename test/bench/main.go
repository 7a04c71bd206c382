// Command bench measures what a probe costs: the CPU of Picket's prober per
// HTTP check, publishing included, beside a bare net/http loop that asks the same
// targets at the same rate in the same 10 ms slots and decodes the same body, and
// beside the cost of one publish alone.
//
// Each of them is a process of its own, as are the targets and the NATS server,
// so that a process's CPU time is that of the thing measured. The three take
// turns, several rounds, and medians are compared: numbers of one run belong
// together, numbers of two machines do not.
//
//	go run ./test/bench --targets 1000 --interval 1s --rounds 5
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// limit is what the prober may cost: this times the bare loop, and one publish.
const limit = 1.3

// roleVariable tells a child what it is; its arguments are the parent's.
const roleVariable = "PICKET_BENCH_ROLE"

type options struct {
	Targets  int
	Interval time.Duration
	Warm     time.Duration
	Measure  time.Duration
	Rounds   int
	Strict   bool
	Fresh    bool
	Profile  string
	// NATS and URLs, a file with those of the targets, are what the parent tells its children.
	NATS, URLs string
}

func parse(arguments []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&o.Targets, "targets", 1000, "number of targets, each on an address of its own")
	flags.DurationVar(&o.Interval, "interval", time.Second, "interval of every check")
	flags.DurationVar(&o.Warm, "warm", 5*time.Second, "time before each measurement")
	flags.DurationVar(&o.Measure, "measure", 10*time.Second, "length of each measurement")
	flags.IntVar(&o.Rounds, "rounds", 5, "rounds; medians are compared")
	flags.BoolVar(&o.Strict, "strict", false, "fail when the limit is not kept")
	flags.BoolVar(&o.Fresh, "fresh", false, "a new connection for every probe, on both sides")
	flags.StringVar(&o.Profile, "profile", "", "file for a CPU profile of the prober's last measurement")
	flags.StringVar(&o.NATS, "nats", "", "set by bench for its children")
	flags.StringVar(&o.URLs, "urls", "", "set by bench for its children")
	if err := flags.Parse(arguments); err != nil {
		return o, err
	}
	if o.Targets < 1 || o.Rounds < 1 || o.Interval < 100*time.Millisecond || o.Measure < time.Second {
		return o, errors.New("targets, rounds, interval or measure is too small")
	}
	return o, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return err
	}
	switch role := os.Getenv(roleVariable); role {
	case "":
		return compare(ctx, o)
	case "nats":
		return serveNATS(ctx, os.Stdout)
	case "fleet":
		return serveFleet(ctx, o, os.Stdout)
	case "bare":
		return report(os.Stdout)(runBare(ctx, o))
	case "publish":
		return report(os.Stdout)(runPublish(ctx, o))
	case "prober":
		return report(os.Stdout)(runProber(ctx, o))
	default:
		return fmt.Errorf("unknown role %q", role)
	}
}

// figure is what one measurement says.
type figure struct {
	MicrosPerProbe float64 `json:"us_per_probe"`
	Rate           float64 `json:"per_second"`
	RSSMiB         float64 `json:"rss_mib"`
}

func report(out io.Writer) func(figure, error) error {
	return func(f figure, err error) error {
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(f)
	}
}

// compare starts the servers, runs the rounds and prints the outcome.
func compare(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nats, stopNATS, err := background(ctx, "nats", o)
	if err != nil {
		return err
	}
	defer stopNATS()
	urls, stopFleet, err := background(ctx, "fleet", o)
	if err != nil {
		return err
	}
	defer stopFleet()
	file, err := os.CreateTemp("", "picket-bench-urls-")
	if err != nil {
		return fmt.Errorf("keep the targets: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if _, err := file.WriteString(urls); err != nil {
		return fmt.Errorf("keep the targets: %w", errors.Join(err, file.Close()))
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("keep the targets: %w", err)
	}
	o.NATS, o.URLs = nats, file.Name()
	if err := writeCatalog(ctx, o); err != nil {
		return err
	}
	fmt.Printf("%d targets every %v: %.0f probes a second; %d rounds of %v; CPU µs of the process per probe\n\n",
		o.Targets, o.Interval, float64(o.Targets)/o.Interval.Seconds(), o.Rounds, o.Measure)
	fmt.Printf("%-8s %10s %10s %10s %14s\n", "round", "bare loop", "publish", "prober", "(p-publish)/b")
	figures := map[string][]figure{}
	var ratios []float64
	for round := range o.Rounds {
		for _, role := range []string{"bare", "publish", "prober"} {
			f, err := measureChild(ctx, role, o)
			if err != nil {
				return err
			}
			if want := float64(o.Targets) / o.Interval.Seconds(); f.Rate < 0.98*want || f.Rate > 1.02*want {
				return fmt.Errorf("%s ran at %.1f a second, not %.1f: the machine is too busy to compare", role, f.Rate, want)
			}
			figures[role] = append(figures[role], f)
		}
		b, p, w := figures["bare"][round], figures["publish"][round], figures["prober"][round]
		ratios = append(ratios, (w.MicrosPerProbe-p.MicrosPerProbe)/b.MicrosPerProbe)
		fmt.Printf("%-8d %10.1f %10.1f %10.1f %14.2f\n", round+1, b.MicrosPerProbe, p.MicrosPerProbe, w.MicrosPerProbe, ratios[round])
	}
	ratio := median(ratios)
	micros := func(role string) float64 {
		var all []float64
		for _, f := range figures[role] {
			all = append(all, f.MicrosPerProbe)
		}
		return median(all)
	}
	fmt.Printf("%-8s %10.1f %10.1f %10.1f %14.2f   limit %.2f\n", "median", micros("bare"), micros("publish"), micros("prober"), ratio, limit)
	last := figures["prober"][o.Rounds-1]
	fmt.Printf("\nresident memory of the prober: %.1f MiB, of the bare loop: %.1f MiB\n", last.RSSMiB, figures["bare"][o.Rounds-1].RSSMiB)
	if o.Strict && ratio > limit {
		return fmt.Errorf("the prober costs %.2f times the bare loop and one publish, more than %.2f", ratio, limit)
	}
	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func child(ctx context.Context, role string, o options) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self,
		"--targets", strconv.Itoa(o.Targets), "--interval", o.Interval.String(), "--warm", o.Warm.String(),
		"--measure", o.Measure.String(), "--nats", o.NATS, "--urls", o.URLs,
		"--profile", o.Profile, fmt.Sprintf("--fresh=%t", o.Fresh))
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd, nil
}

// background starts a server and returns the first line that it prints.
func background(ctx context.Context, role string, o options) (line string, stop func(), err error) {
	cmd, err := child(ctx, role, o)
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, fmt.Errorf("start %s: %w", role, err)
	}
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("start %s: %w", role, err)
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // by that signal
	}
	line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("start %s: %w", role, err)
	}
	return strings.TrimSpace(line), stop, nil
}

func measureChild(ctx context.Context, role string, o options) (figure, error) {
	cmd, err := child(ctx, role, o)
	if err != nil {
		return figure{}, err
	}
	out, err := cmd.Output()
	if err != nil {
		return figure{}, fmt.Errorf("measure %s: %w", role, err)
	}
	var f figure
	if err := json.Unmarshal(out, &f); err != nil {
		return figure{}, fmt.Errorf("measure %s: %w", role, err)
	}
	return f, nil
}
