package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// measurePeriod looks at when a prober's requests arrive.
func measurePeriod(ctx context.Context, b *bench) ([]row, error) {
	const servers, interval = 1000, time.Second
	length := max(3*b.Window, 6*time.Second)
	fleet, err := b.startFleet(ctx, spec{Servers: servers, Keep: int(length / interval)})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	prober, err := b.startProber(ctx, "period", fleet.urls, interval, false)
	if err != nil {
		return nil, err
	}
	defer prober.stop()
	if err := fleet.steady(ctx, servers/interval.Seconds(), time.Minute); err != nil {
		return nil, err
	}
	before, after, err := b.window(ctx, fleet, length)
	if err != nil {
		return nil, err
	}
	// The first and the last slot are not whole.
	slots := after.Slots[len(before.Slots) : len(after.Slots)-1]
	var sum uint64
	for _, n := range slots {
		sum += uint64(n)
	}
	ratio := float64(slices.Max(slots)) * float64(len(slots)) / float64(sum)
	return []row{
		row{
			What:   fmt.Sprintf("deviation of the period at the target, p50 / p99, %d checks at %v", servers, interval),
			Picket: fmt.Sprintf("%.1f / %.1f ms", after.Deviation.P50, after.Deviation.P99), Goal: "≤ 2 / 15 ms",
		}.reached(after.Deviation.P50 <= 2 && after.Deviation.P99 <= 15),
		row{
			What:  "the fleet's busiest 100 ms to the mean",
			Limit: "1.00 (even)", Picket: fmt.Sprintf("%.2f", ratio), Ratio: ratio, Goal: "≤ 1.1",
		}.reached(ratio <= 1.1),
	}, nil
}
