package main

import (
	"context"
	"fmt"
	"time"
)

// measureMemory compares probers with and without checks.
func measureMemory(ctx context.Context, b *bench) ([]row, error) {
	checks, interval := 5000, 5*time.Second
	if b.Quick {
		checks = 1000
	}
	fleet, err := b.startFleet(ctx, spec{Servers: checks})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	var rows []row
	for _, kind := range []struct {
		name  string
		fresh bool
		goal  float64 // KB
	}{{"fresh connections", true, 8}, {"keep-alive", false, 40}} {
		empty, err := b.memory(ctx, fleet, 0, interval, kind.fresh)
		if err != nil {
			return rows, err
		}
		full, err := b.memory(ctx, fleet, checks, interval, kind.fresh)
		if err != nil {
			return rows, err
		}
		per := func(with, without uint64) float64 { return (float64(with) - float64(without)) / float64(checks) / 1024 }
		used := per(full.RSS, empty.RSS)
		b.note("%s: process %.1f MB with no check, %.1f MB with %d; of that live heap %.1f KB a check",
			kind.name, megabytes(empty.RSS), megabytes(full.RSS), checks, per(full.Heap, empty.Heap))
		rows = append(rows, row{
			What:   fmt.Sprintf("memory per check in the prober at %d checks, %s", checks, kind.name),
			Picket: fmt.Sprintf("%.1f KB", used), Goal: fmt.Sprintf("≤ %.0f KB", kind.goal),
		}.reached(used <= kind.goal))
	}
	return rows, nil
}

// memory is that of a prober which has run every check twice at least: RSS as it is then, and the heap in use after its
// garbage was collected.
func (b *bench) memory(ctx context.Context, fleet *fleet, checks int, interval time.Duration, fresh bool) (work, error) {
	prober, err := b.startProber(ctx, fmt.Sprintf("memory-%d-%t", checks, fresh), fleet.urls[:checks], interval, fresh)
	if err != nil {
		return work{}, err
	}
	defer prober.stop()
	if checks > 0 {
		if err := fleet.steady(ctx, float64(checks)/interval.Seconds(), time.Minute); err != nil {
			return work{}, err
		}
	}
	if err := wait(ctx, 2*interval+b.Warm); err != nil {
		return work{}, err
	}
	steady, err := prober.work()
	if err != nil {
		return work{}, err
	}
	var collected work
	err = prober.ask(question{Collect: true}, &collected)
	steady.Heap = collected.Heap
	return steady, err
}

func megabytes(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
