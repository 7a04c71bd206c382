package system_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/test/fleetsim"
)

// TestNATSFaults breaks NATS below a loaded deployment in all the ways that it can break, one after the other, while servers
// fail and recover: looking goes on, everybody says within two seconds that NATS is away and comes back without a restart,
// nothing that was acknowledged is missing unless NATS itself has thrown it away, which is a recorded gap, and every check
// stays with its prober.
func TestNATSFaults(t *testing.T) {
	t.Parallel()
	sample := sample{fault: "the stream PICKET_EVENTS is deleted before it is read", in: "one process"}
	for name, deploy := range breakable() {
		t.Run(name, func(t *testing.T) {
			sample.only(t, name)
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{Servers: 40, Degraded: 0.05, MetricsInterval: 2 * time.Second}, time.Second, "")
			dir := shortDir(t)
			path := filepath.Join(dir, "picket.yaml")
			writeFile(t, path, config)
			d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
			if m, ok := d.(*many); ok {
				m.add("prober-2", "prober")
				m.add("collector-2", "collector")
			}
			d.start()
			o := observe(t, d)
			began := time.Now()
			awaitAll(t, o, f)
			b := &broken{patient: &patient{d: d, o: o, fleet: f, length: faultLength(t)}, healthy: healthyServers(f), failures: map[string]int{}}
			allowed := map[string]bool{}
			for _, fault := range natsFaultsKnown() {
				if !sample.wants(t, fault.fault) {
					continue
				}
				if fault.possible != nil && !fault.possible(d) {
					t.Logf("NOT TRIED here: %s", fault.name)
					continue
				}
				b.survives(t, fault)
				for _, stream := range fault.loses {
					allowed[stream] = true
				}
			}
			if asked() {
				audit(t, d, o, began)
			}
			b.oneAlertEach(t)
			for _, gap := range query[[]string](t, d, `SELECT ARRAY[stream, consumer, reason] FROM stream_gaps WHERE reason <> 'blind'`) {
				if !allowed[gap[0]] {
					t.Errorf("a gap in a stream that nobody touched: %v", gap)
				}
			}
		})
	}
}

// broken is a deployment under load whose NATS is broken. What came of it is read in the database: streams lose their
// messages here.
type broken struct {
	*patient
	healthy  []int
	next     int
	failures map[string]int // how often a server has failed
}

// survives breaks it once and holds it to its promises.
func (b *broken) survives(t *testing.T, fault natsFault) {
	t.Helper()
	runs, strain := runsOf(b.d), measureStrain()
	since := time.Now()
	ending := b.fail()
	b.await(t, ending, 1)
	t.Logf("%s: %s", time.Now().Format("15:04:05"), fault.name)
	mend := fault.inject(t, b.d)
	injected := time.Now()
	beginning := b.fail()
	b.fleet.Set(ending, fleetsim.Healthy)
	if fault.dark {
		b.saysSo(t, injected)
	}
	if fault.mute {
		eventually(t, "who publishes says that nothing is kept", func() error {
			for name, err := range readiness(t, b.d) {
				if err == nil && (strings.HasPrefix(name, "prober") || name == "picket up") {
					return errors.New(name + " is ready")
				}
			}
			return nil
		})
	}
	if fault.lasts {
		rest(t, b.length-time.Since(injected))
	}
	mend()
	mended := time.Now()
	eventually(t, "all are ready again", func() error {
		for name, err := range readiness(t, b.d) {
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	t.Logf("ready again after %s", time.Since(mended).Round(time.Millisecond))
	b.await(t, beginning, 1)
	b.fleet.Set(beginning, fleetsim.Healthy)
	b.await(t, ending, 0)
	b.await(t, beginning, 0)
	if now := runsOf(b.d); !maps.Equal(now, runs) {
		t.Errorf("%s: something was started anew: %v, before %v", fault.name, now, runs)
	}
	coverage := b.coverage(t, since, time.Now())
	t.Logf("%+v", coverage)
	busy := strain.over(t)
	lost := coverage.Missed
	for reason, n := range coverage.Explained {
		switch {
		case busy && (wantOfTime(reason) || reason == "missed_takeover"): // who is not let run is not heard, and counts as gone
			lost -= n
		// Servers that are down are not collected from. When NATS comes back looks that hung on it may come in one heap, and
		// a few are skipped.
		case !slices.Contains([]string{"missed", "missed_critical", "missed_unreachable"}, reason) && len(fault.loses) == 0:
			t.Errorf("%s: %d ticks missed: %s", fault.name, n, reason)
		}
	}
	if most := coverage.Due / 50; len(fault.loses) == 0 && lost > most {
		t.Errorf("%s: of %d ticks %d were missed, at most %d expected", fault.name, coverage.Due, lost, most)
	}
	for _, moved := range query[string](t, b.d, `SELECT s.name || '/' || c.name || ' by ' || string_agg(DISTINCT h.instance, ', ')
		FROM server_health_checks h JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
		WHERE h.scheduled_at > $1 AND NOT h.missed AND NOT h.on_demand
		GROUP BY s.name, c.name HAVING count(DISTINCT h.instance) > 1 LIMIT 5`, since) {
		if busy && lost < coverage.Missed {
			t.Logf("%s: who was not let run counts as gone: %s", fault.name, moved)
			continue
		}
		t.Errorf("%s: a check went from one to another: %s", fault.name, moved)
	}
	b.figures(t, since)
}

// figures wants those of every collection since then, or a gap of their stream in their place.
func (b *broken) figures(t *testing.T, since time.Time) {
	t.Helper()
	eventually(t, "figures are stored, or lost in a recorded gap", func() error {
		lost := query[string](t, b.d, `SELECT s.name || ' at ' || h.scheduled_at FROM server_health_checks h
			JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
			WHERE c.kind = 'metrics' AND h.status = 1 AND NOT h.missed AND h.scheduled_at > $1 AND h.scheduled_at < now() - interval '5 s'
			AND NOT EXISTS (SELECT FROM server_metrics_aggregated m
				WHERE m.check_id = h.check_id AND m.location = h.location AND m.scheduled_at = h.scheduled_at)
			AND NOT EXISTS (SELECT FROM stream_gaps g WHERE g.stream = $2 AND g.consumer = 'writer-metrics'
				AND h.scheduled_at BETWEEN g.from_time - interval '1 min' AND g.to_time) LIMIT 5`, since, bus.StreamMetrics)
		if len(lost) > 0 {
			return fmt.Errorf("without: %v", lost)
		}
		return nil
	})
}

// fail has a server fail.
func (b *broken) fail() (server int) {
	server = b.healthy[b.next%len(b.healthy)]
	b.next++
	b.failures[b.fleet.Name(server)]++
	b.fleet.Set(server, fleetsim.Critical)
	return server
}

// await waits until so many alerts of a server are open.
func (b *broken) await(t *testing.T, server int, open int64) {
	t.Helper()
	name := b.fleet.Name(server)
	eventually(t, fmt.Sprintf("%d alerts of %s are open", open, name), func() error {
		now := query[int64](t, b.d, `SELECT count(*) FROM system_alerts
			WHERE fingerprint = 'system-health:' || $1 AND opened_at IS NOT NULL AND closed_at IS NULL`, name)[0]
		if now != open {
			return fmt.Errorf("%d are", now)
		}
		return nil
	})
}

// oneAlertEach wants an alert for each incident and for nothing else.
func (b *broken) oneAlertEach(t *testing.T) {
	t.Helper()
	for i := range b.fleet.Len() {
		name := b.fleet.Name(i)
		opened := query[int64](t, b.d, `SELECT count(*) FROM system_alerts
			WHERE fingerprint = 'system-health:' || $1 AND opened_at IS NOT NULL`, name)[0]
		want := int64(b.failures[name])
		if b.fleet.Behaviour(i) == fleetsim.Degraded {
			want = min(opened, 1) // it depends on the rules whether that is one; it is one at most
		}
		if opened != want {
			t.Errorf("%s: %d alerts of %d incidents", name, opened, want)
		}
	}
}

// saysSo wants everybody to say that NATS is away. Promised are two seconds; the rest is for a slow machine.
func (b *broken) saysSo(t *testing.T, since time.Time) {
	t.Helper()
	const promised, slack = 2 * time.Second, 2 * time.Second
	eventually(t, "readiness says that NATS is away", func() error {
		for name, err := range readiness(t, b.d) {
			if err == nil {
				return errors.New(name + " is ready")
			}
		}
		return nil
	})
	if took := time.Since(since); took > promised+slack {
		t.Errorf("readiness said it after %s", took)
	}
}
