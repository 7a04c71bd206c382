package main

import (
	"context"
	"fmt"
)

// proberGoal is what the prober may cost: this times the bare loop, and one publish.
const proberGoal = 1.3

// measureProber has the bare loop, a publisher and the prober take turns.
func measureProber(ctx context.Context, b *bench) ([]row, error) {
	nats, server, err := b.startNATS(ctx, "prober")
	if err != nil {
		return nil, err
	}
	defer server.stop()
	fleet, err := b.startFleet(ctx, spec{Servers: b.Targets})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	if err := writeCatalog(ctx, nats, fleet.urls, b.Interval, b.Fresh); err != nil {
		return nil, err
	}
	want := float64(b.Targets) / b.Interval.Seconds()
	micros := map[string][]float64{}
	var ratios []float64
	for round := range b.Rounds {
		costs := map[string]float64{}
		for _, role := range []string{"bare", "publish", "prober"} {
			s := spec{Role: role, NATS: nats, Interval: b.Interval, Fresh: b.Fresh, Servers: b.Targets}
			if role == "bare" {
				s.URLs = fleet.urls
			}
			if role == "prober" && round == b.Rounds-1 {
				s.Profile = b.Profile
			}
			c, err := b.turn(ctx, s)
			if err != nil {
				return nil, err
			}
			if c.Rate < 0.98*want || c.Rate > 1.02*want {
				return nil, fmt.Errorf("%s ran at %.1f a second, not %.1f: the machine is too busy to compare", role, c.Rate, want)
			}
			costs[role] = c.Micros
			micros[role] = append(micros[role], c.Micros)
		}
		ratios = append(ratios, (costs["prober"]-costs["publish"])/costs["bare"])
		b.say("  round %d: bare loop %.0f µs, publish %.0f µs, prober %.0f µs: (prober − publish) ÷ bare = %.2f",
			round+1, costs["bare"], costs["publish"], costs["prober"], ratios[round])
	}
	ratio := median(ratios)
	return []row{row{
		What:   fmt.Sprintf("prober: CPU per HTTP check at %.0f/s, publishing included", want),
		Limit:  fmt.Sprintf("bare loop %.0f µs + publish %.0f µs", median(micros["bare"]), median(micros["publish"])),
		Picket: fmt.Sprintf("%.0f µs", median(micros["prober"])), Ratio: ratio,
		Goal: fmt.Sprintf("≤ %.1f × loop + publish", proberGoal),
	}.reached(ratio <= proberGoal)}, nil
}

// turn runs a role until it has been measured.
func (b *bench) turn(ctx context.Context, s spec) (cost, error) {
	c, err := b.start(ctx, s, &struct{}{})
	if err != nil {
		return cost{}, err
	}
	defer c.stop()
	if err := wait(ctx, b.Warm); err != nil {
		return cost{}, err
	}
	return b.cost(ctx, c)
}
