package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// measurement is one thing to find out.
type measurement struct {
	name, about string
	// byHand ones take long, or need what few machines have: they run when they are named.
	byHand bool
	run    func(ctx context.Context, b *bench) ([]row, error)
}

// measurements are all there are, in the order of the table.
func measurements() []measurement {
	return []measurement{
		{name: "prober", about: "CPU of the prober per HTTP check, publishing included, beside a bare loop and one publish", run: measureProber},
		{name: "pipeline", about: "CPU of all of Picket per probe: probed, streamed, stored, folded; beside Prometheus and blackbox_exporter", run: measurePipeline},
		{name: "scale", about: "--checks at 30 s with a process for each service: coverage, CPU by part, what breaks next", byHand: true, run: measureScale},
		{name: "period", about: "how evenly targets are asked: deviation of the period, the fleet's peak to its mean", run: measurePeriod},
		{name: "hanging", about: "share of the schedule that is kept while a tenth of the targets hangs", run: measureHanging},
		{name: "first", about: "from the start of a prober until every check was run once", run: measureFirst},
		{name: "writer", about: "rows a second from decoded batch to commit, beside raw COPY of the same batches", run: measureWriter},
		{name: "latency", about: "from a result to its committed row, and to the committed alert that it decides, at 3,000 results a second", run: measureLatency},
		{name: "memory", about: "memory of the prober per check", run: measureMemory},
		{name: "peers", about: "CPU per check of Cloudprober and Gatus, where they are installed, beside the prober", byHand: true, run: measurePeers},
	}
}

// row is one line of the table.
type row struct {
	Name string `json:"measurement"`
	What string `json:"what"`
	// Limit, Picket and Goal are for people; empty: there is none.
	Limit  string `json:"limit"`
	Picket string `json:"picket"`
	// Ratio is Picket's figure to that of the limit; 0: they are not compared.
	Ratio   float64 `json:"ratio,omitempty"`
	Goal    string  `json:"goal"`
	Reached *bool   `json:"reached,omitempty"`
}

// reached makes a row one that has a goal.
func (r row) reached(is bool) row {
	r.Reached = &is
	return r
}

// bench is one run of the program.
type bench struct {
	options
	messages io.Writer
	dir      string // temporary
	machine  machine
	built    map[string]string // programs, by package
	notes    []string          // of the measurement that runs
}

func newBench(ctx context.Context, o options, messages io.Writer) (*bench, error) {
	m, err := look(ctx)
	if err != nil {
		return nil, err
	}
	// PostgreSQL's own user must reach it, and its socket's path must be short.
	dir, err := os.MkdirTemp("/tmp", "pkt-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	return &bench{options: o, messages: messages, dir: dir, machine: m, built: map[string]string{}}, nil
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) } // of temporary files

// say tells how far it is.
func (b *bench) say(format string, values ...any) {
	_, _ = fmt.Fprintf(b.messages, format+"\n", values...)
}

// note adds a line below the table.
func (b *bench) note(format string, values ...any) {
	line := fmt.Sprintf(format, values...)
	b.notes = append(b.notes, line)
	b.say("  %s", line)
}

// report is what a run has found.
type report struct {
	Machine machine             `json:"machine"`
	Took    time.Duration       `json:"took_ns"`
	Rows    []row               `json:"rows"`
	Notes   map[string][]string `json:"notes"`
	Failed  map[string]string   `json:"failed,omitempty"`
	order   []string
}

// measure runs what is asked for, one after the other. One that fails is no reason not to know the others.
func (b *bench) measure(ctx context.Context) report {
	began := time.Now()
	b.say("%s", b.machine)
	if warning := b.machine.warning(); warning != "" {
		b.say("%s", warning)
	}
	r := report{Machine: b.machine, Notes: map[string][]string{}, Failed: map[string]string{}}
	for _, m := range measurements() {
		if len(b.Only) == 0 && m.byHand || len(b.Only) > 0 && !slices.Contains(b.Only, m.name) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		b.say("%s: %s", m.name, m.about)
		b.notes = nil
		rows, err := m.run(ctx, b)
		for _, found := range rows {
			found.Name = m.name
			r.Rows = append(r.Rows, found)
		}
		r.order = append(r.order, m.name)
		r.Notes[m.name] = b.notes
		if err != nil {
			r.Failed[m.name] = err.Error()
			b.say("  failed: %v", err)
		}
	}
	r.Took = time.Since(began)
	return r
}

// verdict is the error that a run ends with.
func (r report) verdict(strict bool) error {
	var errs []error
	for name, why := range r.Failed {
		errs = append(errs, fmt.Errorf("%s: %s", name, why))
	}
	if strict {
		for _, line := range r.Rows {
			if line.Reached != nil && !*line.Reached {
				errs = append(errs, fmt.Errorf("%s: %s, the goal is %s", line.What, line.Picket, line.Goal))
			}
		}
	}
	return errors.Join(errs...)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until asks until the answer is yes or an error, four times a second.
func until(ctx context.Context, what string, patience time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		if err := wait(ctx, 250*time.Millisecond); err != nil {
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		}
	}
}
