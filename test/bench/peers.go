package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// peer is another prober.
type peer struct {
	name, program string
	// config is its configuration for targets, arguments what it is started with.
	config    func(urls []string, interval time.Duration, listen string) string
	arguments func(file string) []string
	settings  func(file string) []string
}

func peers() []peer {
	none := func(string) []string { return nil }
	return []peer{
		{
			name: "Cloudprober", program: "cloudprober",
			arguments: func(file string) []string { return []string{"--config_file=" + file} },
			settings:  none,
			config: func(urls []string, interval time.Duration, listen string) string {
				hosts := make([]string, len(urls))
				for i, url := range urls {
					hosts[i] = strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/health")
				}
				_, port, _ := strings.Cut(listen, ":")
				return fmt.Sprintf(`port: %s
host: "127.0.0.1"
probe {
  name: "fleet"
  type: HTTP
  targets { host_names: %q }
  interval_msec: %d
  timeout_msec: %d
  http_probe { relative_url: "/health" keep_alive: true }
  validator { name: "ok" json_validator { jq_filter: ".status == \"ok\"" } }
}
surfacer { type: PROMETHEUS }
`, port, strings.Join(hosts, ","), interval.Milliseconds(), interval.Milliseconds()*9/10)
			},
		},
		{
			name: "Gatus", program: "gatus",
			arguments: none,
			settings:  func(file string) []string { return []string{"GATUS_CONFIG_PATH=" + file} },
			config: func(urls []string, interval time.Duration, listen string) string {
				var text strings.Builder
				host, port, _ := strings.Cut(listen, ":")
				fmt.Fprintf(&text, "concurrency: 1000\nweb: {address: %s, port: %s}\nendpoints:\n", host, port)
				for i, url := range urls {
					fmt.Fprintf(&text, "  - {name: %s, url: %q, interval: %s, conditions: [\"[STATUS] == 200\", \"[BODY].status == ok\"]}\n",
						serverName(i), url, interval)
				}
				return text.String()
			},
		},
	}
}

// measurePeers has the probers that are installed look at the same targets as ours, in turn.
func measurePeers(ctx context.Context, b *bench) ([]row, error) {
	// Gatus begins with an endpoint each 222 ms.
	const servers, interval = 200, time.Second
	fleet, err := b.startFleet(ctx, spec{Servers: servers})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	rate := servers / interval.Seconds()
	var rows []row
	for _, p := range peers() {
		file, err := exec.LookPath(p.program)
		if errors.Is(err, exec.ErrNotFound) {
			b.note("%s: NOT MEASURED, no program %s on the PATH", p.name, p.program)
			continue
		} else if err != nil {
			return rows, fmt.Errorf("find %s: %w", p.name, err)
		}
		var theirs, ours, ratios []float64
		for range b.Rounds {
			other, err := b.perProbe(ctx, fleet, rate, func(ctx context.Context) ([]*program, error) { return b.startPeer(ctx, p, file, fleet.urls, interval) })
			if err != nil {
				return rows, err
			}
			own, err := b.ownProber(ctx, fleet, rate, interval)
			if err != nil {
				return rows, err
			}
			theirs, ours, ratios = append(theirs, other), append(ours, own), append(ratios, own/other)
			b.say("  %s %.0f µs, prober %.0f µs: %.2f", p.name, other, own, own/other)
		}
		rows = append(rows, row{
			What:  fmt.Sprintf("prober: CPU per HTTP check at %.0f/s, publishing included, beside %s", rate, p.name),
			Limit: fmt.Sprintf("%s %.0f µs", p.name, median(theirs)), Picket: fmt.Sprintf("%.0f µs", median(ours)), Ratio: median(ratios), Goal: "< 1",
		}.reached(median(ratios) < 1))
	}
	return rows, nil
}

func (b *bench) startPeer(ctx context.Context, p peer, file string, urls []string, interval time.Duration) ([]*program, error) {
	listen, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	config, err := b.write(p.program+".conf", p.config(urls, interval, listen))
	if err != nil {
		return nil, err
	}
	running, err := b.launch(ctx, p.name, file, p.arguments(config), p.settings(config))
	if err != nil {
		return nil, err
	}
	return []*program{running}, nil
}

// ownProber measures Picket's prober as perProbe measures others.
func (b *bench) ownProber(ctx context.Context, fleet *fleet, rate float64, interval time.Duration) (float64, error) {
	prober, err := b.startProber(ctx, fmt.Sprintf("peers-%d", time.Now().UnixNano()), fleet.urls, interval, false)
	if err != nil {
		return 0, err
	}
	defer prober.stop()
	if err := errors.Join(fleet.steady(ctx, rate, time.Minute), wait(ctx, b.Warm)); err != nil {
		return 0, err
	}
	c, err := b.cost(ctx, prober.child)
	return c.Micros, err
}
