package system_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

// fleet starts a fleet and returns it with the picket.yaml that names it.
func fleet(t *testing.T, opts fleetsim.Options, interval time.Duration, extra string) (*fleetsim.Fleet, string) {
	t.Helper()
	f, err := fleetsim.Start(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Errorf("stop fleet: %v", err)
		}
	})
	var config bytes.Buffer
	if err := f.WriteConfig(&config, interval); err != nil {
		t.Fatal(err)
	}
	return f, config.String() + extra
}

// TestKill9 kills every part of a loaded deployment, one after the other, while
// servers fail and recover, and ends in the audit: one row per due tick or an
// explanation, none doubled, one alert per incident.
func TestKill9(t *testing.T) {
	t.Parallel()
	const servers = 100
	for name, deploy := range deployments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{
				Servers: servers, Degraded: 0.05, Flipping: 0, Hanging: 0.03, MetricsInterval: 2 * time.Second,
			}, time.Second, "")
			dir := shortDir(t)
			path := dir + "/picket.yaml"
			writeFile(t, path, config)
			d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
			d.start()
			o := observe(t, d)
			began := time.Now()
			healthy := healthyServers(f)
			awaitAll(t, o, f)

			var victims []string
			parts := d.parts()
			rounds := max(2, len(parts))
			for round := 0; round < rounds || time.Since(began) < faultFor(t); round++ {
				part := parts[round%len(parts)]
				victim := healthy[round%len(healthy)]
				name := f.Name(victim)
				victims = append(victims, name)
				t.Logf("round %d: %s fails, %s is killed", round, name, part)
				f.Set(victim, fleetsim.Critical)
				incident := []string{"opened"}
				for range round / len(healthy) {
					incident = append([]string{"opened", "closed"}, incident...)
				}
				eventually(t, "the alert of "+name+" opens", func() error { return want(o.incidents(name), incident...) })
				d.kill(part)
				d.start()
				o.awaitStatus(t, name, picketv1.Status_STATUS_CRITICAL, time.Now())
				f.Set(victim, fleetsim.Healthy)
				eventually(t, "the alert of "+name+" closes", func() error { return want(o.incidents(name), append(incident, "closed")...) })
			}

			coverage := audit(t, d, o, began)
			for reason, n := range coverage.Explained {
				t.Logf("missed and explained: %d by %s", n, reason)
			}
			auditFigures(t, d)
			for _, doubled := range query[string](t, d, `SELECT a.server || ': ' || e.transition || ' ' || count(*)
				FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
				GROUP BY a.id, a.server, e.transition HAVING count(*) > 1 AND e.transition <> 'updated'`) {
				t.Errorf("told more than once: %s", doubled)
			}
			// Servers that nobody touched have been degraded or silent from the start.
			for _, doubled := range query[string](t, d, `SELECT server || ': ' || count(*) FROM system_alerts
				WHERE server LIKE 'sim-%' AND fingerprint = 'system-health:' || server AND opened_at IS NOT NULL AND NOT server = ANY ($1)
				GROUP BY server HAVING count(*) > 1`, victims) {
				t.Errorf("more than one alert for one incident: %s", doubled)
			}
			if gaps := query[string](t, d, `SELECT stream || ' ' || reason FROM stream_gaps WHERE reason <> 'blind'`); len(gaps) > 0 {
				t.Errorf("gaps in streams that nobody touched: %v", gaps)
			}
		})
	}
}

func healthyServers(f *fleetsim.Fleet) []int {
	var healthy []int
	for i := range f.Len() {
		if f.Behaviour(i) == fleetsim.Healthy {
			healthy = append(healthy, i)
		}
	}
	return healthy
}

// awaitAll waits until every server of the fleet has been looked at.
func awaitAll(t *testing.T, o *observer, f *fleetsim.Fleet) {
	t.Helper()
	eventually(t, "every server has a result", func() error {
		seen := map[string]bool{}
		o.mu.Lock()
		for _, r := range o.results {
			seen[r.GetServer()] = true
		}
		o.mu.Unlock()
		missing := 0
		for i := range f.Len() {
			if !seen[f.Name(i)] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d have none", missing, f.Len())
		}
		return nil
	})
}

// TestProbersShare: a second and a third prober take their share within
// seconds; when one is killed, what it had runs elsewhere, no tick is lost
// beyond the five seconds until its silence counts, and the audit says which.
func TestProbersShare(t *testing.T) {
	t.Parallel()
	const servers = 120
	f, config := fleet(t, fleetsim.Options{Servers: servers}, time.Second, "")
	inSeparate(t, options{config: config, env: []string{"FLEET_HEALTH_BATCH_SIZE=0"}}, func(t *testing.T, m *many) {
		m.start()
		o := observe(t, m)
		began := time.Now()
		awaitAll(t, o, f)

		names := []string{"prober"}
		for _, name := range []string{"prober-2", "prober-3"} {
			m.add(name, "prober")
			names = append(names, name)
			m.start()
			eventually(t, fmt.Sprintf("%d probers share", len(names)), func() error { return o.shares(servers, names) })
		}

		killed := time.Now()
		m.kill("prober-2")
		names = []string{"prober", "prober-3"}
		eventually(t, "the others take over", func() error { return o.shares(servers, names) })
		coverage := audit(t, m, o, began)
		// The owner's last seconds may be explained as missed: a tick is taken over while
		// less than half its interval has passed, and the silence counts after 5 s.
		if most := int64(servers) * 8 / 3; coverage.Missed > most {
			t.Errorf("%d ticks missed by the death of one prober of three, at most %d expected", coverage.Missed, most)
		}
		// What writers report is not the probers'.
		late := query[string](t, m, `SELECT s.name || ' at ' || h.scheduled_at FROM server_health_checks h
			JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
			WHERE h.missed AND c.kind <> 'reported' AND (h.scheduled_at < $1 OR h.scheduled_at > $2) LIMIT 5`, killed.Add(-2*time.Second), killed.Add(8*time.Second))
		if len(late) > 0 {
			t.Errorf("ticks missed outside of the takeover: %s", strings.Join(late, ", "))
		}
	})
}

// shares wants the last second's results to come from the instances in about equal parts.
func (o *observer) shares(servers int, instances []string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	counts := map[string]int{}
	if len(o.results) == 0 {
		return errors.New("no results")
	}
	newest := o.results[len(o.results)-1].GetScheduledAt().AsTime()
	total := 0
	for _, r := range slices.Backward(o.results) {
		if newest.Sub(r.GetScheduledAt().AsTime()) > 3*time.Second {
			break
		}
		counts[r.GetInstance()]++
		total++
	}
	if total < 2*servers {
		return fmt.Errorf("only %d results in three seconds", total)
	}
	for _, name := range instances {
		if share := float64(counts[name]) / float64(total) * float64(len(instances)); share < 0.6 || share > 1.4 {
			return fmt.Errorf("shares %v of %d", counts, total)
		}
	}
	return nil
}
