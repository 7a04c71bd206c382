package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// pipelineGoal is the part of Prometheus' and blackbox_exporter's CPU that all of Picket may cost.
const pipelineGoal = 0.25

// designMicros is what Prometheus 2.42 and blackbox_exporter used per probe at 200 a second when the goal was set.
const designMicros = 3396

// measurePipeline has `picket up`, which is every service with NATS and PostgreSQL, and the two programs take turns on the
// same targets.
func measurePipeline(ctx context.Context, b *bench) ([]row, error) {
	const interval = 5 * time.Second
	const servers = 1000
	fleet, err := b.startFleet(ctx, spec{Servers: servers})
	if err != nil {
		return nil, err
	}
	defer fleet.stop()
	var picket, peer, ratios []float64
	peers := b.prometheus(ctx)
	if peers == nil {
		b.note("Prometheus and blackbox_exporter are not installed: NOT MEASURED here, the limit is a figure of another day")
	}
	for round := range b.Rounds {
		p, err := b.picketUp(ctx, fmt.Sprintf("up-%d", round), fleet, interval)
		if err != nil {
			return nil, err
		}
		q := float64(designMicros)
		if peers != nil {
			if q, err = b.perProbe(ctx, fleet, servers/interval.Seconds(), func(ctx context.Context) ([]*program, error) {
				return peers(ctx, fmt.Sprintf("peer-%d", round), fleet.urls, interval)
			}); err != nil {
				return nil, err
			}
		}
		picket, peer, ratios = append(picket, p), append(peer, q), append(ratios, p/q)
		b.say("  round %d: Picket %.0f µs, Prometheus and blackbox_exporter %.0f µs: %.3f", round+1, p, q, p/q)
	}
	ratio := median(ratios)
	limit := fmt.Sprintf("Prometheus + blackbox_exporter %.0f µs", median(peer))
	if peers == nil {
		limit = fmt.Sprintf("%d µs (not measured here)", designMicros)
	}
	rows := []row{row{
		What: "all of Picket: CPU per probe at 200/s", Limit: limit,
		Picket: fmt.Sprintf("%.0f µs", median(picket)), Ratio: ratio, Goal: fmt.Sprintf("≤ %.2f", pipelineGoal),
	}.reached(ratio <= pipelineGoal)}

	fast, err := b.picketUp(ctx, "up-fast", fleet, time.Second)
	if err != nil {
		return rows, err
	}
	b.note("at 1000/s Prometheus and blackbox_exporter would take %.1f cores: the limit beside that line is theirs at 200/s", median(peer)*1000/1e6)
	return append(rows, row{
		What: "all of Picket: CPU per probe at 1000/s", Limit: limit + " at 200/s",
		Picket: fmt.Sprintf("%.0f µs", fast), Ratio: fast / median(peer), Goal: fmt.Sprintf("≤ %.2f", pipelineGoal),
	}.reached(fast/median(peer) <= pipelineGoal)), nil
}

var apiLine = regexp.MustCompile(`^API\s+(http://[^/\s]+)/docs`)

// picketUp measures the CPU of `picket up`, PostgreSQL included, per request that arrives.
func (b *bench) picketUp(ctx context.Context, name string, fleet *fleet, interval time.Duration) (micros float64, err error) {
	return b.perProbe(ctx, fleet, float64(len(fleet.urls))/interval.Seconds(), func(ctx context.Context) ([]*program, error) {
		file, err := b.build(ctx, "cmd/picket")
		if err != nil {
			return nil, err
		}
		config, err := b.catalogFile(name+".yaml", fleet.urls, interval, false)
		if err != nil {
			return nil, err
		}
		up, err := b.launch(ctx, "picket up", file, []string{
			"up", "--config", config, "--data-dir", filepath.Join(b.dir, name), "--nats-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
		}, nil)
		if err != nil {
			return nil, err
		}
		err = up.said(ctx, apiLine, time.Minute)
		return []*program{up}, err
	})
}

// perProbe starts programs and measures the CPU of them and all below them per request that arrives at the fleet, in microseconds.
func (b *bench) perProbe(ctx context.Context, fleet *fleet, rate float64, start func(ctx context.Context) ([]*program, error)) (float64, error) {
	programs, err := start(ctx)
	defer func() {
		for _, p := range programs {
			p.stop()
		}
	}()
	if err != nil {
		return 0, err
	}
	if err := fleet.steady(ctx, rate, 2*time.Minute); err != nil {
		for _, p := range programs {
			err = p.explain(err)
		}
		return 0, err
	}
	if err := wait(ctx, b.Warm); err != nil {
		return 0, err
	}
	used := func() (sum time.Duration, err error) {
		for _, p := range programs {
			one, err := treeCPU(p.pid())
			if err != nil {
				return 0, err
			}
			sum += one
		}
		return sum, nil
	}
	began, err := used()
	if err != nil {
		return 0, err
	}
	before, after, err := b.window(ctx, fleet, 2*b.Window)
	if err != nil {
		return 0, err
	}
	ended, err := used()
	if err != nil {
		return 0, err
	}
	return float64((ended - began).Microseconds()) / float64(after.Requests-before.Requests), nil
}

// prometheus returns what starts Prometheus with blackbox_exporter on targets, nil where they are not installed.
func (b *bench) prometheus(context.Context) func(ctx context.Context, name string, urls []string, interval time.Duration) ([]*program, error) {
	server, err := exec.LookPath("prometheus")
	if err != nil {
		return nil
	}
	exporter, err := lookPath("blackbox_exporter", "prometheus-blackbox-exporter")
	if err != nil {
		return nil
	}
	return func(ctx context.Context, name string, urls []string, interval time.Duration) ([]*program, error) {
		modules, err := b.write(name+"-blackbox.yml", "modules:\n  http_2xx:\n    prober: http\n    http: {preferred_ip_protocol: ip4}\n")
		if err != nil {
			return nil, err
		}
		at, err := freeAddress(ctx)
		if err != nil {
			return nil, err
		}
		var config strings.Builder
		fmt.Fprintf(&config, `global: {scrape_interval: %dms, scrape_timeout: %dms}
scrape_configs:
  - job_name: blackbox
    metrics_path: /probe
    params: {module: [http_2xx]}
    relabel_configs:
      - {source_labels: [__address__], target_label: __param_target}
      - {source_labels: [__param_target], target_label: instance}
      - {target_label: __address__, replacement: %q}
    static_configs:
      - targets:
`, interval.Milliseconds(), interval.Milliseconds()*9/10, at)
		for _, url := range urls {
			fmt.Fprintf(&config, "          - %s\n", url)
		}
		file, err := b.write(name+"-prometheus.yml", config.String())
		if err != nil {
			return nil, err
		}
		blackbox, err := b.launch(ctx, "blackbox_exporter", exporter, []string{"--config.file=" + modules, "--web.listen-address=" + at, "--log.level=error"}, nil)
		if err != nil {
			return nil, err
		}
		listen, err := freeAddress(ctx)
		if err != nil {
			return []*program{blackbox}, err
		}
		scraper, err := b.launch(ctx, "prometheus", server, []string{
			"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(b.dir, name), "--web.listen-address=" + listen,
		}, nil)
		if err != nil {
			return []*program{blackbox}, err
		}
		err = scraper.said(ctx, prometheusLine, time.Minute)
		return []*program{blackbox, scraper}, err
	}
}

var prometheusLine = regexp.MustCompile(`(Server is ready)`)

func lookPath(names ...string) (file string, err error) {
	for _, name := range names {
		if file, err = exec.LookPath(name); err == nil {
			return file, nil
		}
	}
	return "", err
}
