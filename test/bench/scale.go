package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/ticker"
)

// measureScale lets a machine look at as many checks as it is told to, for long, and audits what was due.
func measureScale(ctx context.Context, b *bench) ([]row, error) {
	const interval = 30 * time.Second
	fleet, err := b.startFleet(ctx, spec{Servers: b.Checks, Keep: 4})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	// As many connections as probers may keep; with more checks most would be closed before they are used again.
	fresh := b.Fresh || b.Checks > b.Probers*ticker.OpenFiles()/4
	config, err := b.catalogFile("scale.yaml", fleet.urls, interval, fresh)
	if err != nil {
		return nil, err
	}
	s, err := b.startStack(ctx, "scale", nil)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	for _, service := range []string{"catalog", "writer", "alerter"} {
		if err := s.add(ctx, service, service, "PICKET_CONFIG="+config); err != nil {
			return nil, err
		}
	}
	for i := range b.Probers {
		if err := s.add(ctx, "prober", fmt.Sprintf("prober-%d", i+1)); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	rate := float64(b.Checks) / interval.Seconds()
	if err := fleet.steady(ctx, rate, 5*time.Minute); err != nil {
		return nil, err
	}
	if err := wait(ctx, interval); err != nil { // every check once
		return nil, err
	}
	b.note("%d checks at %v, %s connections, %d probers; steady %.0f s after the probers began", b.Checks, interval,
		map[bool]string{true: "fresh", false: "kept"}[fresh], b.Probers, time.Since(began).Seconds())
	from := time.Now()
	before, err := s.uses()
	if err != nil {
		return nil, err
	}
	backlogs, err := s.backlog(ctx)
	if err != nil {
		return nil, err
	}
	seen, then, err := b.window(ctx, fleet, b.For)
	if err != nil {
		return nil, err
	}
	after, err := s.uses()
	if err != nil {
		return nil, err
	}
	to := time.Now()
	backlog, err := s.backlog(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.ended(); err != nil {
		return nil, err
	}
	cores := b.share(before, after, seen, then, to.Sub(from))
	b.note("messages the writer had not acknowledged: %d, and %d at the end; period deviation p50 / p99 %.1f / %.1f ms",
		backlogs, backlog, then.Deviation.P50, then.Deviation.P99)
	coverage, err := s.audit(ctx, from, to, interval)
	if err != nil {
		return nil, err
	}
	b.note("due %d, seen %d, missed %d %v, unexplained %d, not due %d", coverage.Due, coverage.Seen, coverage.Missed, coverage.Explained,
		coverage.Unexplained, coverage.Undue)
	return []row{
		row{
			What:   fmt.Sprintf("coverage of %d checks at %v for %v", b.Checks, interval, b.For),
			Picket: fmt.Sprintf("%.4f %%", 100*coverage.Ratio()), Ratio: coverage.Ratio(), Limit: "100 %", Goal: "100 %",
		}.reached(coverage.Due > 0 && coverage.Seen == coverage.Due && coverage.Unexplained == 0),
		{
			What:   fmt.Sprintf("cores that Picket uses for it, targets apart (%.0f probes/s)", rate),
			Limit:  strconv.Itoa(b.machine.Cores),
			Picket: fmt.Sprintf("%.2f", cores), Ratio: cores / float64(b.machine.Cores),
		},
	}, nil
}

// share notes what each part has used, and what is next.
func (b *bench) share(before, after []use, seen, then arrivals, length time.Duration) (cores float64) {
	probes := float64(then.Requests - seen.Requests)
	var sum time.Duration
	largest := 0
	for i := range after {
		used := after[i].cpu - before[i].cpu
		sum += used
		if used > after[largest].cpu-before[largest].cpu {
			largest = i
		}
	}
	for i := range after {
		used := after[i].cpu - before[i].cpu
		b.note("%-12s %5.1f %% of Picket's CPU, %6.1f µs a probe, %7.1f MB (%+.1f MB in the time)", after[i].name, 100*used.Seconds()/sum.Seconds(),
			float64(used.Microseconds())/probes, megabytes(after[i].memory), megabytes(after[i].memory)-megabytes(before[i].memory))
	}
	targets := then.CPU - seen.CPU
	b.note("%-12s apart: %.1f µs a request", "targets", float64(targets.Microseconds())/probes)
	cores = sum.Seconds() / length.Seconds()
	free := float64(b.machine.Cores) - targets.Seconds()/length.Seconds()
	b.note("Picket takes %.2f cores and the targets leave it %.2f; next to break: CPU, at about %.0f checks; the largest process is %s",
		cores, free, float64(b.Checks)*free/cores, after[largest].name)
	return cores
}

// backlog is how many events the writer has not acknowledged.
func (s *stack) backlog(ctx context.Context) (uint64, error) {
	last, floor, err := s.progress(ctx)
	return last - min(floor, last), err
}

// progress is the event stream's last sequence, and up to which the writer has acknowledged it.
func (s *stack) progress(ctx context.Context) (last, floor uint64, err error) {
	conn, err := connect(ctx, s.natsURL, "bench")
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	info, err := conn.StreamInfo(ctx, bus.StreamEvents)
	if err != nil {
		return 0, 0, err
	}
	floor, err = conn.AckFloor(ctx, bus.StreamEvents, "writer")
	return info.LastSeq, floor, err
}

// audit waits until the ticks of a span have had their chance, and counts them.
func (s *stack) audit(ctx context.Context, from, to time.Time, interval time.Duration) (store.Coverage, error) {
	if err := wait(ctx, interval+5*time.Second); err != nil {
		return store.Coverage{}, err
	}
	last, _, err := s.progress(ctx)
	if err != nil {
		return store.Coverage{}, err
	}
	if err := until(ctx, "the writer has stored what was due", 5*time.Minute, func() (bool, error) {
		_, floor, err := s.progress(ctx)
		return floor >= last, err
	}); err != nil {
		return store.Coverage{}, err
	}
	db, err := openStore(ctx, s.database.URL)
	if err != nil {
		return store.Coverage{}, err
	}
	defer db.Close()
	coverage, findings, err := db.Audit(ctx, store.CoverageFilter{}, from, to, 5)
	for _, finding := range findings {
		s.bench.note("%s", strings.TrimSpace(fmt.Sprintf("%+v", finding)))
	}
	return coverage, err
}
