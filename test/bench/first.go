package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// measureFirst starts a prober for fleets of several sizes, each whole in the catalog already.
func measureFirst(ctx context.Context, b *bench) ([]row, error) {
	const interval = 10 * time.Second
	// What a prober does before it ticks: it listens for others for 1.2 s, measures the clock and reads the catalog.
	const joining = 2 * time.Second
	sizes := []int{100, 1000, 5000}
	if b.Quick {
		sizes = sizes[:2]
	}
	var took []string
	worst := time.Duration(0)
	for _, servers := range sizes {
		d, err := b.first(ctx, servers, interval)
		if err != nil {
			return nil, err
		}
		worst = max(worst, d)
		took = append(took, fmt.Sprintf("%.1f", d.Seconds()))
		b.say("  %d checks: %.1f s", servers, d.Seconds())
	}
	return []row{row{
		What:   fmt.Sprintf("start of the prober to every check run once, %s checks at %v", strings.Join(strings.Fields(strings.Trim(fmt.Sprint(sizes), "[]")), " / "), interval),
		Limit:  fmt.Sprintf("one interval: %.0f s", interval.Seconds()),
		Picket: strings.Join(took, " / ") + " s", Ratio: worst.Seconds() / interval.Seconds(),
		Goal: fmt.Sprintf("one interval, and %.0f s to find the others", joining.Seconds()),
	}.reached(worst <= interval+joining)}, nil
}

func (b *bench) first(ctx context.Context, servers int, interval time.Duration) (time.Duration, error) {
	fleet, err := b.startFleet(ctx, spec{Servers: servers})
	if err != nil {
		return 0, err
	}
	defer fleet.stop()
	prober, err := b.startProber(ctx, fmt.Sprintf("first-%d", servers), fleet.urls, interval, false)
	if err != nil {
		return 0, err
	}
	defer prober.stop()
	var last time.Time
	err = until(ctx, "every target was asked", 3*interval+time.Minute, func() (bool, error) {
		seen, err := fleet.seen()
		last = seen.LastFirst
		return seen.Unasked == 0, err
	})
	return last.Sub(prober.started), err
}
