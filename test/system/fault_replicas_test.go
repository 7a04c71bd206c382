package system_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

const (
	// silence is how long a prober is heard of before it counts as gone.
	silence = 5 * time.Second
	// ackWait is when a message that a writer has not acknowledged goes to another.
	ackWait = 60 * time.Second
	// leaseOf the alerter and of the catalog, by default.
	alerterLease, catalogLease = 5 * time.Second, 10 * time.Second
)

// spares are the replicas of a deployment of many processes that the faults of this family play with.
func spares() map[string]string {
	return map[string]string{
		"prober-2": "prober", "prober-3": "prober", "prober-4": "prober", "collector-2": "collector",
		"writer-2": "writer", "alerter-2": "alerter", "catalog-2": "catalog", "api-2": "api",
	}
}

// addSpares adds them, and the wires to the database of the alerters that can be stalled one by one.
func addSpares(m *many) {
	for name, service := range spares() {
		m.add(name, service)
	}
	if m.postgres == nil {
		return
	}
	for _, name := range []string{"alerter", "alerter-2"} {
		wire := embeddedtest.FaultProxy(m.t, m.postgres.proxy.Addr())
		m.databaseWires[name] = wire
		m.databaseOver(name, wire.Addr())
	}
}

// with says that a deployment runs these processes.
func with(names ...string) func(deployment) bool {
	return func(d deployment) bool {
		procs := processes(d)
		return !slices.ContainsFunc(names, func(name string) bool { return procs[name] == nil })
	}
}

// and is for what several conditions must allow.
func and(conditions ...func(deployment) bool) func(deployment) bool {
	return func(d deployment) bool {
		return !slices.ContainsFunc(conditions, func(c func(deployment) bool) bool { return !c(d) })
	}
}

func wired(d deployment) bool { return d.nats() != nil }

// hang stops processes where they are until they are mended.
func hang(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		return hold(t, d, names...)
	}
}

// hold is hang at once.
func hold(t *testing.T, d deployment, names ...string) (mend func()) {
	t.Helper()
	mend = func() {
		for _, name := range names {
			processes(d)[name].signal(syscall.SIGCONT)
		}
	}
	for _, name := range names {
		processes(d)[name].signal(syscall.SIGSTOP)
	}
	t.Cleanup(mend) // nothing can be stopped that hangs
	return mend
}

// flap stops processes and lets them go on, every second, until they are mended.
func flap(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ticker := time.NewTicker(time.Second)
			defer ticker.Stop()
			for stopped := false; ; stopped = !stopped {
				signal := syscall.SIGSTOP
				if stopped {
					signal = syscall.SIGCONT
				}
				for _, name := range names {
					processes(d)[name].signal(signal)
				}
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return
				}
			}
		}()
		mend := func() {
			stop()
			<-ended
			for _, name := range names {
				processes(d)[name].signal(syscall.SIGCONT)
			}
		}
		t.Cleanup(mend)
		return mend
	}
}

// crash kills a process; it is started again when it is mended.
func crash(name string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		d.kill(name)
		return func() { revive(t, d, name) }
	}
}

// revive starts one process anew; unlike [deployment.start] it asks nothing of the others, which may hang.
func revive(t *testing.T, d deployment, name string) {
	t.Helper()
	p := processes(d)[name]
	began := len(p.tail(math.MaxInt))
	p.start()
	eventually(t, name+" is ready", func() error {
		for _, line := range p.tail(math.MaxInt)[began:] {
			if match := adminLine.FindStringSubmatch(line); match != nil {
				return ready(t, "http://"+match[1])
			}
		}
		return errors.New("has not said where it is")
	})
}

// retire has a process stop as its operator would have it.
func retire(name string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		if err := processes(d)[name].terminate(); err != nil {
			t.Errorf("%s asked to stop: %v", name, err)
		}
		return func() { revive(t, d, name) }
	}
}

// strand has nothing pass between processes and NATS, without a word to either side.
func strand(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		d.nats().stall(names...)
		return func() { d.nats().flow(names...) }
	}
}

// disconnect breaks the connections between processes and NATS, and lets none come up.
func disconnect(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		d.nats().stall(names...)
		d.nats().cut(names...)
		return func() { d.nats().flow(names...) }
	}
}

// holder is the replica that has a lease.
func holder(t *testing.T, d deployment, sql string) string {
	t.Helper()
	var name string
	eventually(t, "somebody has the lease", func() error {
		owners := query[string](t, d, sql)
		if len(owners) == 0 {
			return errors.New("nobody has it")
		}
		name, _, _ = strings.Cut(owners[0], "/")
		return nil
	})
	return name
}

func activeAlerter(t *testing.T, d deployment) string {
	t.Helper()
	return holder(t, d, `SELECT lease_owner FROM alerter_state WHERE lease_until > clock_timestamp()`)
}

func activeCatalog(t *testing.T, d deployment) string {
	t.Helper()
	return holder(t, d, `SELECT owner FROM leases WHERE name = 'catalog' AND expires_at > clock_timestamp()`)
}

// replicaFaults are those of one replica among several. Those of a single process are what every deployment has.
func replicaFaults() []fault {
	probers, alerters := with("prober-2", "prober-3", "prober-4"), with("alerter", "alerter-2")
	return []fault{
		{"the process hangs", with("picket up"), hang("picket up")},
		{"the process hangs every other second", with("picket up"), flap("picket up")},
		{"a prober goes and comes", probers, retire("prober-2")},
		{"a prober is killed", probers, crash("prober-3")},
		{"a prober hangs", probers, hang("prober-2")},
		{"a prober hangs every other second", probers, flap("prober-3")},
		{"two probers hang, one is killed", probers, func(t *testing.T, d deployment) func() {
			t.Helper()
			mend := hold(t, d, "prober-2", "prober-3")
			d.kill("prober-4")
			return func() { mend(); revive(t, d, "prober-4") }
		}},
		{"a prober hears nothing", and(probers, wired), strand("prober-2")},
		{"a prober is cut off", and(probers, wired), disconnect("prober-3")},
		{"half of the probers are cut off", and(probers, wired), disconnect("prober-2", "prober-4")},
		{"a collector is killed", with("collector", "collector-2"), crash("collector-2")},
		{"a collector hangs", with("collector", "collector-2"), hang("collector")},
		{"the catalog that leads hangs", with("catalog", "catalog-2"), func(t *testing.T, d deployment) func() {
			t.Helper()
			leader := activeCatalog(t, d)
			mend := hold(t, d, leader)
			return func() {
				eventually(t, "another catalog leads", func() error {
					if now := activeCatalog(t, d); now == leader {
						return errors.New("the one that hangs holds the lease still")
					}
					return nil
				})
				mend()
			}
		}},
		{"an api hangs", with("api", "api-2"), hang("api-2")},
		{"the alerter that folds hangs", alerters, outlive(func(t *testing.T, d deployment, leader string) func() {
			t.Helper()
			return hold(t, d, leader)
		})},
		{"the alerter that folds hangs, the next is killed", alerters, func(t *testing.T, d deployment) func() {
			t.Helper()
			first := activeAlerter(t, d)
			mend := hold(t, d, first)
			second := awaitTakeover(t, d, first)
			d.kill(second)
			mend()
			return func() { revive(t, d, second) }
		}},
		{"the alerter that folds has no database", and(alerters, ownWires), outlive(func(_ *testing.T, d deployment, leader string) func() {
			wire := d.(*many).databaseWires[leader] //nolint:forcetypeassert // ownWires
			wire.Freeze()
			return wire.Thaw
		})},
		{"no alerter has a database", and(alerters, ownWires), func(_ *testing.T, d deployment) func() {
			for _, wire := range d.(*many).databaseWires { //nolint:forcetypeassert // ownWires
				wire.Freeze()
			}
			return func() {
				for _, wire := range d.(*many).databaseWires {
					wire.Thaw()
				}
			}
		}},
		{"the alerter that folds hears nothing", and(alerters, wired), func(t *testing.T, d deployment) func() {
			t.Helper()
			return strand(activeAlerter(t, d))(t, d)
		}},
	}
}

// ownWires says that each alerter has a wire to the database that can be broken.
func ownWires(d deployment) bool {
	m, ok := d.(*many)
	return ok && len(m.databaseWires) > 0
}

// outlive breaks the alerter that folds, and mends it only when another has taken over.
func outlive(hurt func(t *testing.T, d deployment, leader string) (mend func())) func(*testing.T, deployment) func() {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		leader := activeAlerter(t, d)
		mend := hurt(t, d, leader)
		return func() { awaitTakeover(t, d, leader); mend() }
	}
}

func awaitTakeover(t *testing.T, d deployment, from string) (to string) {
	t.Helper()
	eventually(t, "another alerter folds", func() error {
		if to = activeAlerter(t, d); to == from {
			return errors.New(from + " has the lease still")
		}
		return nil
	})
	return to
}

// lostBy is how much of the fleet's ticks may be lost by a fault: those of the share that had to move, until its silence
// counts, half an interval on, and as much again for when it comes back.
func lostBy(f fault, length time.Duration) (share float64, within time.Duration) {
	const slack = 3 * time.Second
	once := silence + slack
	switch {
	case f.name == "the process hangs", f.name == "the process hangs every other second":
		return 1, length + slack
	case strings.HasPrefix(f.name, "a prober goes"):
		return 0.25, slack
	case strings.Contains(f.name, "every other second"):
		return 0.25, length + slack
	case strings.HasPrefix(f.name, "two probers"):
		return 0.75, 2 * once
	case strings.HasPrefix(f.name, "half"):
		return 0.5, once
	case strings.HasPrefix(f.name, "a prober"):
		return 0.25, once
	case strings.HasPrefix(f.name, "a collector"):
		return 0.5, 2 * once
	default: // nobody who looks is touched
		return 0.05, slack
	}
}

// TestReplicaFaults breaks one replica of several, or half of them, in all the ways there are, and has a server fail and
// recover each time: the others do the work, who was away finds out and does no harm, and the audit ends it.
func TestReplicaFaults(t *testing.T) {
	t.Parallel()
	inFamily(t)
	for name, deploy := range breakable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{Servers: 100, Degraded: 0.05, Hanging: 0.03, MetricsInterval: 2 * time.Second}, time.Second, "")
			dir := shortDir(t)
			path := dir + "/picket.yaml"
			writeFile(t, path, config)
			d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
			m, isMany := d.(*many)
			if isMany {
				addSpares(m)
			}
			d.start()
			o := observe(t, d)
			began := time.Now()
			awaitAll(t, o, f)
			length := faultLength(t)

			// A writer that hangs until what it held has gone to the other takes longer than the others.
			frozen, thaw := time.Now(), func() {}
			if isMany {
				thaw = hold(t, d, "writer-2")
			}
			incidents := newIncidents(o, f)
			type window struct {
				fault
				from, to time.Time
			}
			var windows []window
			for _, one := range replicaFaults() {
				if one.possible != nil && !one.possible(d) {
					continue
				}
				w := window{fault: one, from: time.Now()}
				t.Logf("%s: %s", w.from.Format("15:04:05"), one.name)
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
				if isMany {
					eventually(t, "all probers work", func() error { return o.works("prober", "prober-2", "prober-3", "prober-4") })
				}
				w.to = time.Now()
				windows = append(windows, w)
			}
			rest(t, ackWait+silence-time.Since(frozen))
			thaw()

			coverage := audit(t, d, o, began)
			for reason, n := range coverage.Explained {
				t.Logf("missed and explained: %d by %s", n, reason)
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
					if reason == "missed_critical" || reason == "missed_unreachable" {
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

// rest lets time pass.
func rest(t *testing.T, d time.Duration) {
	t.Helper()
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// incidents has one server after the other fail and recover, and knows what must be told of it.
type incidents struct {
	o       *observer
	fleet   *fleetsim.Fleet
	healthy []int
	next    int
	want    map[string][]string // by server
}

func newIncidents(o *observer, f *fleetsim.Fleet) *incidents {
	return &incidents{o: o, fleet: f, healthy: healthyServers(f), want: map[string][]string{}}
}

// begin has a server fail.
func (i *incidents) begin() (server int) {
	server = i.healthy[i.next%len(i.healthy)]
	i.next++
	i.fleet.Set(server, fleetsim.Critical)
	return server
}

func (i *incidents) awaitOpen(t *testing.T, server int) {
	t.Helper()
	name := i.fleet.Name(server)
	eventually(t, "the alert of "+name+" opens", func() error {
		return want(i.o.incidents(name), append(slices.Clip(i.want[name]), "opened")...)
	})
}

// end has it recover.
func (i *incidents) end(t *testing.T, server int) {
	t.Helper()
	name := i.fleet.Name(server)
	i.o.awaitStatus(t, name, picketv1.Status_STATUS_CRITICAL, time.Time{})
	i.fleet.Set(server, fleetsim.Healthy)
	i.want[name] = append(i.want[name], "opened", "closed")
	eventually(t, "the alert of "+name+" closes", func() error { return want(i.o.incidents(name), i.want[name]...) })
}

// incidents returns when alerts of a server's check health opened and closed, in order. One that never opened is no incident.
func (o *observer) incidents(server string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var words []string
	told := map[string]bool{} // an alerter that dies may tell again what it has told
	for _, event := range o.alerts {
		word := event.GetTransition()
		if event.GetFingerprint() != "system-health:"+server || event.GetOpenedAt() == nil || told[event.GetEventId()] ||
			word != "opened" && word != "closed" {
			continue
		}
		told[event.GetEventId()] = true
		words = append(words, word)
	}
	return words
}

// audit wants one alert per incident, nothing told twice, and no alert of what nobody touched.
func (i *incidents) audit(t *testing.T, d deployment) {
	t.Helper()
	for name, words := range i.want {
		if err := want(i.o.incidents(name), words...); err != nil {
			t.Errorf("incidents of %s: %v\n%s", name, err, strings.Join(query[string](t, d, `
				SELECT e.at || ' ' || e.noted_at || ' ' || e.stream_seq || ' ' || e.transition || ' ' || coalesce(e.evidence::text, '')
				FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id WHERE a.server = $1 ORDER BY e.stream_seq`, name), "\n"))
		}
	}
	for _, doubled := range query[string](t, d, `SELECT a.server || ': ' || e.transition || ' ' || count(*)
		FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
		GROUP BY a.id, a.server, e.transition HAVING count(*) > 1 AND e.transition <> 'updated'`) {
		t.Errorf("told more than once: %s", doubled)
	}
	published := map[string]int{}
	i.o.mu.Lock()
	for _, event := range i.o.alerts {
		published[event.GetEventId()]++
	}
	i.o.mu.Unlock()
	for id, n := range published {
		if n > 1 {
			t.Errorf("event %s published %d times", id, n)
		}
	}
	victims := slices.Collect(maps.Keys(i.want))
	for _, doubled := range query[string](t, d, `SELECT server || ': ' || count(*) FROM system_alerts
		WHERE server LIKE 'sim-%' AND fingerprint = 'system-health:' || server AND opened_at IS NOT NULL AND NOT server = ANY ($1)
		GROUP BY server HAVING count(*) > 1`, victims) {
		t.Errorf("more than one alert for one incident: %s", doubled)
	}
	for _, gone := range query[string](t, d, `SELECT fingerprint || ' since ' || since FROM system_alerts
		WHERE kind = 'prober_gone' AND opened_at IS NOT NULL`) {
		t.Errorf("alert of probers that were there: %s", gone)
	}
	for _, other := range query[string](t, d, `SELECT fingerprint || ' ' || kind FROM system_alerts
		WHERE server LIKE 'sim-%' AND opened_at IS NOT NULL AND kind = 'critical' AND NOT server = ANY ($1)`, victims) {
		t.Errorf("alert of a server that nobody touched: %s", other)
	}
	fmt.Fprint(t.Output(), i.next, " incidents\n")
}
