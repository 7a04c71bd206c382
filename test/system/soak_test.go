package system_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/test/fleetsim"
)

// family is the faults of one thing that can break.
type family struct {
	name   string
	faults []fault
	// besides says that another family's fault may happen at the same time.
	besides bool
}

// soakFamilies are what the soak draws from. When two are broken at once they are broken in this order, and mended in it: what
// others need comes first.
func soakFamilies(d deployment) []family {
	return []family{
		{"database", databaseFaults(), true},
		{"nats", natsFaults(), true},
		{"replicas", replicaFaults(), false},
		{"kill", killFaults(d), true},
	}
}

// killFaults are kill -9 of each process.
func killFaults(d deployment) []fault {
	var faults []fault
	for name := range processes(d) {
		faults = append(faults, fault{name + " is killed", nil, func(_ *testing.T, d deployment) func() {
			d.kill(name)
			return d.start
		}})
	}
	slices.SortFunc(faults, func(a, b fault) int { return strings.Compare(a.name, b.name) })
	return faults
}

const (
	// soakAudit is how much time passes between audits.
	soakAudit = 5 * time.Minute
	// soakWell bounds how long everything may take to be well again: messages of a killed writer come again after a minute.
	soakWell = 5 * time.Minute
)

// TestSoak breaks a loaded deployment at random for PICKET_SOAK, one thing or two at a time and for as long as a second or
// PICKET_FAULT_SECONDS, while servers fail and recover; between the rounds all must be well again by itself. It ends in the
// audit, and wants no program to have grown. PICKET_SOAK_SEED repeats the choices of a run, PICKET_SOAK_DEPLOYMENT is where.
func TestSoak(t *testing.T) {
	length := os.Getenv("PICKET_SOAK")
	if length == "" {
		t.Skip("NOT RUN: the soak takes an hour; make soak, or PICKET_SOAK=10m")
	}
	t.Parallel()
	lasts, err := time.ParseDuration(length)
	if err != nil {
		t.Fatalf("PICKET_SOAK: %v", err)
	}
	name := os.Getenv("PICKET_SOAK_DEPLOYMENT")
	if name == "" {
		name = "many processes"
	}
	deploy, ok := breakable()[name]
	if !ok {
		t.Fatalf("PICKET_SOAK_DEPLOYMENT: there is no %q", name)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("PICKET_SOAK_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PICKET_SOAK_SEED: %v", err)
		}
	}

	f, config := fleet(t, fleetsim.Options{Servers: 100, Degraded: 0.05, Hanging: 0.03, MetricsInterval: 2 * time.Second}, time.Second, "")
	dir := shortDir(t)
	path := filepath.Join(dir, "picket.yaml")
	writeFile(t, path, config)
	d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
	if m, ok := d.(*many); ok {
		addSpares(m)
	}
	d.start()
	o := observe(t, d)
	s := &soak{
		t: t, d: d, o: o, fleet: f, healthy: healthyServers(f), incidents: map[string]int{}, began: time.Now(),
		random: rand.New(rand.NewPCG(seed, 0)), most: faultLength(t), counts: map[string]int{}, audited: time.Now(),
	}
	awaitAll(t, o, f)
	s.well()
	before := s.footprints()
	t.Logf("soak of %s for %s: PICKET_SOAK_SEED=%d, faults of %s at most", name, lasts, seed, s.most)
	for s.rounds == 0 || time.Since(s.began) < lasts {
		s.round()
		if time.Since(s.audited) >= soakAudit {
			s.audit(s.audited)
		}
		if t.Failed() {
			break // what is wrong is to be seen as it is
		}
	}
	s.audit(s.began)
	auditFigures(t, d)
	s.compare(before, s.footprints())
	s.report()
}

// soak is a deployment and what has been done to it.
type soak struct {
	t         *testing.T
	d         deployment
	o         *observer
	fleet     *fleetsim.Fleet
	healthy   []int
	next      int            // of healthy, to fail
	incidents map[string]int // by server
	began     time.Time
	audited   time.Time
	random    *rand.Rand
	most      time.Duration
	rounds    int
	counts    map[string]int // faults by name
}

// round breaks something, and waits until all is well again.
func (s *soak) round() {
	s.t.Helper()
	s.rounds++
	faults := s.draw()
	length := s.length()
	names := make([]string, len(faults))
	for i, f := range faults {
		names[i] = f.name
		s.counts[f.name]++
	}
	s.t.Logf("%s round %d: %s, for %s", time.Since(s.began).Round(time.Second), s.rounds, strings.Join(names, "; "), length.Round(100*time.Millisecond))
	ending := s.fail()
	s.await(ending, "opened")
	var mends []func()
	for _, f := range faults {
		mends = append(mends, f.inject(s.t, s.d))
	}
	injected := time.Now()
	beginning := s.fail()
	s.fleet.Set(ending, fleetsim.Healthy)
	rest(s.t, length-time.Since(injected))
	for _, mend := range mends {
		mend()
	}
	mended := time.Now()
	s.well()
	s.await(beginning, "opened")
	s.fleet.Set(beginning, fleetsim.Healthy)
	s.await(beginning, "closed")
	s.await(ending, "closed")
	s.t.Logf("%s round %d: all well after %s", time.Since(s.began).Round(time.Second), s.rounds, time.Since(mended).Round(100*time.Millisecond))
}

// draw takes one fault, or at times one of each of two families.
func (s *soak) draw() []fault {
	s.t.Helper()
	var families []family
	for _, one := range soakFamilies(s.d) {
		one.faults = slices.DeleteFunc(one.faults, func(f fault) bool {
			return !f.wanted(s.t) || f.possible != nil && !f.possible(s.d)
		})
		if len(one.faults) > 0 {
			families = append(families, one)
		}
	}
	if len(families) == 0 {
		s.t.Fatal("no fault to choose from")
	}
	first := s.random.IntN(len(families))
	picked := []int{first}
	if second := s.random.IntN(len(families)); s.random.IntN(4) == 0 && second != first && families[first].besides && families[second].besides {
		picked = append(picked, second)
		slices.Sort(picked)
	}
	var faults []fault
	for _, i := range picked {
		faults = append(faults, families[i].faults[s.random.IntN(len(families[i].faults))])
	}
	return faults
}

// length is how long a fault lasts: mostly seconds, at times as long as can be.
func (s *soak) length() time.Duration {
	x := s.random.Float64()
	return time.Duration(float64(time.Second) * math.Pow(s.most.Seconds(), x*x))
}

// fail has the next server fail.
func (s *soak) fail() (server int) {
	server = s.healthy[s.next%len(s.healthy)]
	s.next++
	s.incidents[s.fleet.Name(server)]++
	s.fleet.Set(server, fleetsim.Critical)
	return server
}

// await waits for what is told last of a server, and wants all of it to be one alert for each incident.
func (s *soak) await(server int, last string) {
	s.t.Helper()
	name := s.fleet.Name(server)
	var expected []string
	for range s.incidents[name] {
		expected = append(expected, "opened", "closed")
	}
	if last == "opened" {
		expected = expected[:len(expected)-1]
	}
	s.eventually("the alert of "+name+" is "+last, func() error { return want(s.told(name), expected...) })
}

// told is what happened to the incidents of a server's check `health`, in order. That one was pending before is left out, as
// the alerter leaves it out when the result that opens an alert is the first that it has of a location.
func (s *soak) told(server string) []string {
	s.t.Helper()
	return query[string](s.t, s.d, `SELECT e.transition FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
		WHERE a.fingerprint = 'system-health:' || $1::text AND a.opened_at IS NOT NULL AND e.transition IN ('opened', 'closed')
		ORDER BY e.noted_at, e.stream_epoch, e.stream_seq`, server)
}

// eventually is for what may wait for messages that come again.
func (s *soak) eventually(what string, ask func() error) {
	s.t.Helper()
	deadline := time.Now().Add(soakWell)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within %s: %v", what, soakWell, err)
		}
		<-ticker.C
	}
}

// well waits until every program is ready and every server is looked at.
func (s *soak) well() {
	s.t.Helper()
	s.eventually("all are ready", func() error {
		for name, err := range readiness(s.t, s.d) {
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	since := time.Now()
	s.eventually("every server is looked at", func() error {
		for i := range s.fleet.Len() {
			if r := s.o.latest(s.fleet.Name(i), "health"); r == nil || r.GetScheduledAt().AsTime().Before(since) {
				return fmt.Errorf("newest of %s: %v", s.fleet.Name(i), r)
			}
		}
		return nil
	})
}

// audit is that of the ticks since from, and of all alerts.
func (s *soak) audit(from time.Time) {
	s.t.Helper()
	s.audited = time.Now()
	coverage := audit(s.t, s.d, s.o, from)
	for reason, n := range coverage.Explained {
		s.t.Logf("missed and explained: %d by %s", n, reason)
	}
	for _, doubled := range query[string](s.t, s.d, `SELECT a.server || ': ' || e.transition || ' ' || count(*)
		FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
		GROUP BY a.id, a.server, e.transition HAVING count(*) > 1 AND e.transition <> 'updated'`) {
		s.t.Errorf("told more than once: %s", doubled)
	}
	for _, other := range query[string](s.t, s.d, `SELECT fingerprint || ' ' || kind || ' at ' || opened_at FROM system_alerts
		WHERE server LIKE 'sim-%' AND opened_at IS NOT NULL AND kind = 'critical'`) {
		name, _, _ := strings.Cut(strings.TrimPrefix(other, "system-health:"), " ")
		if s.incidents[name] == 0 {
			s.t.Errorf("alert of a server that nobody touched: %s", other)
		}
	}
	s.o.forget(from)
}

// forget drops results that nobody asks for any more.
func (o *observer) forget(before time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, r := range o.results {
		if r.GetScheduledAt().AsTime().After(before) {
			o.results = append(o.results[:0:0], o.results[i:]...)
			return
		}
	}
}

// footprint is what a program takes.
type footprint struct {
	memory     int64 // resident bytes
	files      int
	goroutines int
}

// footprints are those of all programs, from /proc and from what they say themselves.
func (s *soak) footprints() map[string]footprint {
	s.t.Helper()
	prints := map[string]footprint{}
	for name, p := range processes(s.d) {
		proc := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
		files, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			s.t.Logf("NOT JUDGED here: what programs take: %v", err)
			return nil
		}
		statm, err := os.ReadFile(filepath.Join(proc, "statm")) // pages; the second is what is resident, proc(5)
		if err != nil {
			s.t.Fatal(err)
		}
		pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		goroutines, ok := goFigures(s.t, p)["go_goroutines"]
		if !ok {
			s.t.Fatalf("%s does not say how many goroutines it has", name)
		}
		prints[name] = footprint{pages * int64(os.Getpagesize()), len(files), int(goroutines)}
	}
	return prints
}

// compare wants nothing to have grown beyond what differs from one minute to the next.
func (s *soak) compare(before, after map[string]footprint) {
	s.t.Helper()
	const memory, files, goroutines = 96 << 20, 64, 100
	for name, now := range after {
		was := before[name]
		s.t.Logf("%s: %d MB, %d files, %d goroutines; at first %d MB, %d, %d", name,
			now.memory>>20, now.files, now.goroutines, was.memory>>20, was.files, was.goroutines)
		if now.memory > 2*was.memory+memory || now.files > was.files+files || now.goroutines > was.goroutines+goroutines {
			s.t.Errorf("%s has grown: %+v, at first %+v", name, now, was)
		}
	}
}

// report says what was done.
func (s *soak) report() {
	s.t.Helper()
	faults := 0
	for _, n := range s.counts {
		faults += n
	}
	s.t.Logf("%d rounds, %d faults, %d incidents in %s", s.rounds, faults, s.next, time.Since(s.began).Round(time.Second))
	for _, family := range soakFamilies(s.d) {
		for _, f := range family.faults {
			if n := s.counts[f.name]; n > 0 {
				s.t.Logf("%4d %s", n, f.name)
			}
		}
	}
}
