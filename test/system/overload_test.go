package system_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

// TestOverload: every server hangs, so that far more is due than one prober may
// have in flight. Servers of high priority are looked at on time all the same;
// the others share what is left, oldest first; what is not looked at is counted,
// nothing grows, and when servers answer again all is as before.
func TestOverload(t *testing.T) {
	t.Parallel()
	// Each look takes the timeout of 0.9 s: there is room for not quite 18 a second, and 10 of them are urgent.
	const servers, urgentEvery, inFlight = 80, 8, 16
	for name, deploy := range deployments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{Servers: servers}, time.Second, "")
			for i := range servers {
				if urgent(i, urgentEvery) {
					config = strings.Replace(config, "    url: "+f.URL(i)+"\n", "    checks: [{name: health, priority: 5, url: "+f.URL(i)+"}]\n", 1)
				}
			}
			dir := shortDir(t)
			path := dir + "/picket.yaml"
			writeFile(t, path, config)
			d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "PICKET_PROBER_CONCURRENCY=" + strconv.Itoa(inFlight)}, dir)
			d.start()
			o := observe(t, d)
			began := time.Now()
			awaitAll(t, o, f)
			eventually(t, "everything is looked at", func() error { return o.keepsUp(f) })

			overloaded := time.Now()
			for i := range servers {
				f.Set(i, fleetsim.Hanging)
			}
			looks := watch(t, d, max(faultLength(t), 20*time.Second))
			mended := time.Now()
			for i := range servers {
				f.Set(i, fleetsim.Healthy)
			}
			eventually(t, "everything is looked at again", func() error { return o.keepsUp(f) })

			coverage := audit(t, d, o, began)
			if coverage.Seen+coverage.Missed != coverage.Due || coverage.Explained["missed"] == 0 {
				t.Errorf("skipped and not counted: %+v", coverage)
			}
			bounded(t, looks, servers, inFlight)

			// At the edges what began before ends, and what was skipped is behind.
			from, to := overloaded.Add(3*time.Second), mended.Add(-2*time.Second)
			due := to.Sub(from).Seconds()
			least, most, sum := servers*int(due), 0, 0
			for i, n := range lookedAt(t, d, f, from, to) {
				if urgent(i, urgentEvery) {
					if float64(n) < 0.8*due {
						t.Errorf("%s of high priority was looked at %d times in %.0f s", f.Name(i), n, due)
					}
					continue
				}
				least, most, sum = min(least, n), max(most, n), sum+n
			}
			if others := float64(servers - servers/urgentEvery); sum == 0 || float64(sum) > 0.5*due*others {
				t.Errorf("the others were looked at %d times of %.0f: none waited, or none was looked at", sum, due*others)
			}
			// One more or less by where the window falls, and one for a machine that is slow itself.
			if most-least > 2 {
				t.Errorf("of equals one was looked at %d times and another %d times", least, most)
			}
		})
	}
}

func urgent(i, every int) bool { return i%every == 0 }

// keepsUp wants a healthy result for every tick of the newest seconds, and no marker.
func (o *observer) keepsUp(f *fleetsim.Fleet) error {
	const span = 4 * time.Second
	to := time.Now().Add(-2 * time.Second)
	from := to.Add(-span)
	healthy := map[string]int{}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range slices.Backward(o.results) {
		at := r.GetScheduledAt().AsTime()
		if at.Before(from.Add(-30 * time.Second)) {
			break
		}
		if at.Before(from) || !at.Before(to) || !strings.HasPrefix(r.GetServer(), "sim-") {
			continue
		}
		if r.GetStatus() != picketv1.Status_STATUS_HEALTHY {
			return fmt.Errorf("%s was %s (%s) at %s", r.GetServer(), r.GetStatus(), r.GetReason(), at)
		}
		healthy[r.GetServer()]++
	}
	for i := range f.Len() {
		if n := healthy[f.Name(i)]; n < int(span/time.Second) {
			return fmt.Errorf("%s has %d results of %s", f.Name(i), n, span)
		}
	}
	return nil
}

// figures that would grow if anything did.
var growing = []string{
	"fleet_probe_in_flight", "fleet_probe_waiting", "fleet_publish_queued_messages", "go_goroutines", "go_memstats_heap_alloc_bytes",
}

// watch reads the prober's figures twice a second for a while.
func watch(t *testing.T, d deployment, length time.Duration) []map[string]float64 {
	t.Helper()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	var looks []map[string]float64
	for end := time.Now().Add(length); time.Now().Before(end); <-ticker.C {
		looks = append(looks, figuresOf(t, d))
	}
	return looks
}

// figuresOf reads those of the process that probes; where several parts share one, the prober's own.
func figuresOf(t *testing.T, d deployment) map[string]float64 {
	t.Helper()
	p := processes(d)["prober"]
	if p == nil {
		p = processes(d)["picket up"]
	}
	families := metricsOf(t, p)
	found := map[string]float64{}
	for _, name := range growing {
		for _, m := range families[name].GetMetric() {
			others := slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
				return l.GetName() == "part" && l.GetValue() != "prober"
			})
			if !others {
				found[name] = m.GetGauge().GetValue()
			}
		}
		if _, ok := found[name]; !ok {
			t.Fatalf("no figure %s", name)
		}
	}
	return found
}

// bounded wants what was seen under overload to have a bound, and the second half to be like the first.
func bounded(t *testing.T, looks []map[string]float64, servers, inFlight int) {
	t.Helper()
	early, late := looks[:len(looks)/2], looks[len(looks)/2:]
	of := func(looks []map[string]float64, name string) []float64 {
		var values []float64
		for _, look := range looks {
			values = append(values, look[name])
		}
		return values
	}
	for name, bound := range map[string]int{"fleet_probe_in_flight": inFlight, "fleet_probe_waiting": servers} {
		if most := slices.Max(of(looks, name)); most > float64(bound) {
			t.Errorf("%s: %.0f, the bound is %d", name, most, bound)
		}
	}
	if slices.Max(of(looks, "fleet_probe_in_flight")) < float64(inFlight) {
		t.Error("the bound was never reached: there was no overload")
	}
	// A queue that is worked off is short in some moment of each half; so are garbage and goroutines.
	for name, slack := range map[string]float64{"fleet_publish_queued_messages": 2 * float64(servers), "go_goroutines": 20, "go_memstats_heap_alloc_bytes": 16 << 20} {
		first, second := slices.Min(of(early, name)), slices.Min(of(late, name))
		if second > first+slack {
			t.Errorf("%s grows: at least %.0f in the first half, %.0f in the second", name, first, second)
		}
	}
}

// lookedAt is how often each server was looked at in a span, by what is stored.
func lookedAt(t *testing.T, d deployment, f *fleetsim.Fleet, from, to time.Time) []int {
	t.Helper()
	counts := make([]int, f.Len())
	for _, line := range query[string](t, d, `SELECT s.name || ' ' || count(*) FROM server_health_checks h
		JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
		WHERE s.name LIKE 'sim-%' AND NOT h.missed AND h.scheduled_at >= $1 AND h.scheduled_at < $2 GROUP BY s.name`, from, to) {
		var i, n int
		if _, err := fmt.Sscanf(line, "sim-%d %d", &i, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		counts[i] = n
	}
	return counts
}
