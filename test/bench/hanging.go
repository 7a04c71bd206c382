package main

import (
	"context"
	"fmt"
	"time"
)

// measureHanging has a tenth of the targets never answer.
func measureHanging(ctx context.Context, b *bench) ([]row, error) {
	const servers, interval = 1000, time.Second
	fleet, err := b.startFleet(ctx, spec{Servers: servers, Hanging: 0.1})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	prober, err := b.startProber(ctx, "hanging", fleet.urls, interval, false)
	if err != nil {
		return nil, err
	}
	defer prober.stop()
	if err := fleet.steady(ctx, servers/interval.Seconds(), time.Minute); err != nil {
		return nil, err
	}
	before, after, err := b.window(ctx, fleet, 2*b.Window)
	if err != nil {
		return nil, err
	}
	due := servers * after.At.Sub(before.At).Seconds() / interval.Seconds()
	kept := float64(after.Requests-before.Requests) / due
	b.note("to servers that hang: %d of %d requests", after.Hanging-before.Hanging, after.Requests-before.Requests)
	return []row{row{
		What:  fmt.Sprintf("share of the schedule kept, 10 %% of %d targets at %v hanging", servers, interval),
		Limit: "100 %", Picket: fmt.Sprintf("%.1f %%", 100*kept), Ratio: kept, Goal: "100 %",
		// The window's ends are within a tick of some checks.
	}.reached(kept > 0.995)}, nil
}
