package system_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/test/fleetsim"
)

// TestReplicaFaults breaks one replica of several, or half of them, in all the ways there are, and has a server fail and
// recover each time: the others do the work, who was away finds out and does no harm, and the audit ends it.
func TestReplicaFaults(t *testing.T) {
	t.Parallel()
	sample := sample{fault: "the alerter that folds hangs", in: "many processes"}
	for name, deploy := range breakable() {
		t.Run(name, func(t *testing.T) {
			sample.only(t, name)
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{Servers: crowd(100), Degraded: 0.05, Hanging: 0.03, MetricsInterval: 2 * time.Second}, time.Second, "")
			dir := shortDir(t)
			path := dir + "/picket.yaml"
			writeFile(t, path, config)
			d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
			m, isMany := d.(*many)
			switch {
			case isMany && asked():
				addSpares(m)
			case isMany:
				m.add("alerter-2", "alerter")
			}
			d.start()
			o := observe(t, d)
			began := time.Now()
			awaitAll(t, o, f)
			length := faultLength(t)

			// A writer that hangs until what it held has gone to the other takes longer than the others.
			frozen, thaw := time.Now(), func() {}
			if processes(d)["writer-2"] != nil {
				thaw = hold(t, d, "writer-2")
			} else {
				frozen = time.Time{}
			}
			incidents := newIncidents(o, f)
			type window struct {
				fault
				from, to time.Time
				busy     bool
			}
			var windows []window
			for _, one := range replicaFaults() {
				if !sample.wants(t, one) {
					continue
				}
				if one.possible != nil && !one.possible(d) {
					continue
				}
				w := window{fault: one, from: time.Now()}
				t.Logf("%s: %s", w.from.Format("15:04:05"), one.name)
				strain := measureStrain()
				mend := one.inject(t, d)
				injected := time.Now()
				server := incidents.begin()
				if !strings.HasPrefix(one.name, "the process") && !strings.HasPrefix(one.name, "no alerter") {
					incidents.awaitOpen(t, server) // without waiting for it to be mended
				}
				rest(t, length-time.Since(injected))
				mend()
				incidents.awaitOpen(t, server)
				incidents.end(t, server)
				if processes(d)["prober-2"] != nil {
					eventually(t, "all probers work", func() error { return o.works("prober", "prober-2", "prober-3", "prober-4") })
				}
				w.to, w.busy = time.Now(), strain.over(t)
				windows = append(windows, w)
			}
			rest(t, ackWait+silence-time.Since(frozen))
			thaw()

			if asked() {
				coverage := audit(t, d, o, began)
				for reason, n := range coverage.Explained {
					t.Logf("missed and explained: %d by %s", n, reason)
				}
			} else {
				(&patient{d: d, o: o}).coverage(t, began, time.Now())
			}
			auditFigures(t, d)
			incidents.audit(t, d)
			if gaps := query[string](t, d, `SELECT stream || ' ' || reason FROM stream_gaps WHERE reason <> 'blind'`); len(gaps) > 0 {
				t.Errorf("gaps in streams that nobody touched: %v", gaps)
			}
			db := openStore(t, d)
			for _, w := range windows {
				span, err := db.Coverage(testContext(t), store.CoverageFilter{}, w.from, w.to)
				if err != nil {
					t.Fatal(err)
				}
				for reason, n := range span.Explained { // of servers that are down nothing is collected, by intention
					if reason == "missed_critical" || reason == "missed_unreachable" || w.busy && wantOfTime(reason) {
						span.Missed -= n
					}
				}
				share, within := lostBy(w.fault, length)
				most := int64(share * float64(span.Due) * within.Seconds() / w.to.Sub(w.from).Seconds())
				t.Logf("%s: %d of %d ticks missed in %s, at most %d expected", w.name, span.Missed, span.Due, w.to.Sub(w.from).Round(time.Second), most)
				if span.Missed > most {
					t.Errorf("%s: %d ticks missed, at most %d expected: %v", w.name, span.Missed, most, span.Explained)
				}
			}
		})
	}
}

// works wants something of the last seconds from each instance.
func (o *observer) works(instances ...string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := map[string]int{}
	for _, r := range slices.Backward(o.results) {
		if time.Since(r.GetScheduledAt().AsTime()) > 5*time.Second {
			break
		}
		seen[r.GetInstance()]++
	}
	for _, name := range instances {
		if seen[name] == 0 {
			return fmt.Errorf("nothing of %s: %v", name, seen)
		}
	}
	return nil
}
