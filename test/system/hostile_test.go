package system_test

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

const (
	// hostileEvery is how often each is looked at who means harm: one in seven looks takes as long as it may, as so many
	// never answer.
	hostileEvery = 10 * time.Second
	// goodServers stand beside them and must not notice.
	goodServers = 50
	goodEvery   = time.Second
	// hostilePages is of how many of each hostile kind figures are collected too.
	hostilePages = 8
)

// hostileServers is how many mean harm: PICKET_HOSTILE_TARGETS, else twenty of each kind.
func hostileServers(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PICKET_HOSTILE_TARGETS")
	if text == "" {
		return 20 * len(fleetsim.Hostile())
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < len(fleetsim.Hostile()) {
		t.Fatalf("PICKET_HOSTILE_TARGETS=%s is less than one of each kind", text)
	}
	return n
}

// TestHostile has hundreds of targets at once, thousands where asked for, that never end, lie, fall silent, send bombs and garbage, and then messages
// of every kind on every subject that anybody may publish on: each is one result with a reason, or one dead letter, memory,
// goroutines and files are bounded, and who behaves well does not notice. It ends in the audit.
func TestHostile(t *testing.T) {
	t.Parallel()
	inFamily(t)
	for name, deploy := range map[string]func(*testing.T, []string, string) deployment{
		"one process": oneProcess,
		// Its NATS is a process of its own too: the fleet in ours must not be what it waits for.
		"many processes": func(t *testing.T, env []string, dir string) deployment {
			return newMany(&many{t: t, dir: dir, server: newNATSServer(t), dsn: embeddedtest.Postgres(t).URL, env: env})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newHostileWorld(t)
			dir := shortDir(t)
			env, _ := options{config: w.config(), env: []string{"FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}}.in(t, dir)
			w.d = deploy(t, env, dir)
			w.d.start()
			began := time.Now()
			w.awaitAll()
			w.watchTargets(w.baseline())
			w.calm()
			w.hostileMessages()
			w.hostileHeartbeats()
			w.replay()
			audit(t, w.d, &observer{}, began)
		})
	}
}

// hostileWorld is a deployment among hostile targets.
type hostileWorld struct {
	t     *testing.T
	d     deployment
	fleet *fleetsim.Fleet
	// deaf is where connections are never accepted, and no more fit into the queue of those that wait.
	deaf string
}

func newHostileWorld(t *testing.T) *hostileWorld {
	t.Helper()
	f, _ := fleet(t, fleetsim.Options{Servers: goodServers + hostileServers(t)}, goodEvery, "")
	w := &hostileWorld{t: t, fleet: f}
	w.attack() // who is behind TLS says so by its address
	w.deaf = deafAddress(t)
	return w
}

// attack has the fleet do what it is there for.
func (w *hostileWorld) attack() {
	for i := range w.fleet.Len() {
		w.fleet.Set(i, w.kind(i))
	}
}

// baseline is how the good servers fare on this machine while everybody behaves.
func (w *hostileWorld) baseline() fare {
	w.t.Helper()
	w.calm()
	defer w.attack()
	from := query[time.Time](w.t, w.d, "SELECT now()")[0]
	w.holdTo(10 * time.Second)
	to := query[time.Time](w.t, w.d, "SELECT now()")[0]
	settle(w.t, w.d, to)
	return w.fare(from, to)
}

// kind is how a server behaves, by its number.
func (w *hostileWorld) kind(i int) fleetsim.Behaviour {
	if i < goodServers {
		return fleetsim.Healthy
	}
	kinds := fleetsim.Hostile()
	return kinds[(i-goodServers)%len(kinds)]
}

func (w *hostileWorld) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "defaults:\n  interval: %s\nservers:\n", hostileEvery)
	for i := range w.fleet.Len() {
		interval := hostileEvery
		if i < goodServers {
			interval = goodEvery
		}
		fmt.Fprintf(&b, "  - name: %s\n    checks:\n      - {name: health, kind: http, url: %q, interval: %s, follow_redirects: true}\n",
			w.fleet.Name(i), w.fleet.URL(i), interval)
		if i < goodServers+hostilePages*len(fleetsim.Hostile()) {
			fmt.Fprintf(&b, "    metrics: {url: %q, interval: %s}\n", w.fleet.MetricsURL(i), interval)
		}
	}
	// Names that no name server knows, or that it never answers for: which of the two is the machine's.
	for i := range 20 {
		fmt.Fprintf(&b, "  - {name: nameless-%d, url: 'http://nameless-%d.picket.invalid/health'}\n", i, i)
		fmt.Fprintf(&b, "  - {name: deaf-%d, url: 'http://%s/health'}\n", i, w.deaf)
	}
	return b.String()
}

// deafAddress listens and never accepts; what fits into the queue of those that wait is in it.
func deafAddress(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	for range 4 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			break // the queue is full
		}
		t.Cleanup(func() { conn.Close() })
	}
	return address
}

// awaitAll waits until every check has a row.
func (w *hostileWorld) awaitAll() {
	w.t.Helper()
	eventually(w.t, "every server was looked at", func() error {
		seen := query[int64](w.t, w.d, `SELECT count(DISTINCT s.id) FROM check_states k JOIN checks c ON c.id = k.check_id
			JOIN managed_servers s ON s.id = c.server_id WHERE s.managed_by = 'file' AND s.name LIKE 'sim-%' AND c.name = 'health'`)[0]
		if servers := int64(w.fleet.Len()); seen < servers {
			return fmt.Errorf("%d of %d", seen, servers)
		}
		return nil
	})
}

// Bounds on what one process may hold among up to 2,000 hostile targets that have hundreds of looks under way. The heap is what Go
// has in use, stacks included, which a race detector does not change much: the prober's 64 MiB for long answers, the
// collector's 128 MiB, each up to twice while a buffer grows, and some 100 KB for each look under way.
const (
	mostHeap = 768 << 20
	// For each target, beside what there is without any.
	mostGoroutines, goroutinesBeside = 6, 1000
	mostFiles, filesBeside           = 2, 300
)

// watchTargets looks on for a while and then holds every result, and what the processes held, to what is promised.
func (w *hostileWorld) watchTargets(before fare) {
	w.t.Helper()
	strain := measureStrain()
	from := query[time.Time](w.t, w.d, "SELECT now()")[0]
	length := max(20*time.Second, faultFor(w.t))
	w.holdTo(length)
	to := query[time.Time](w.t, w.d, "SELECT now()")[0]
	// On a busy machine it takes some more looks until each kind was seen for what it is.
	for unseen := w.unseen(from, to); len(unseen) > 0 && time.Since(from) < patience; unseen = w.unseen(from, to) {
		w.holdTo(5 * time.Second)
		to = query[time.Time](w.t, w.d, "SELECT now()")[0]
	}
	settle(w.t, w.d, to)
	w.judge(from, to)
	for _, kind := range w.unseen(from, to) {
		w.t.Errorf("no result of %s says what is wrong with it", kind)
	}
	now := w.fare(from, to)
	w.t.Logf("good servers: before %+v, among hostile ones %+v", before, now)
	if strain.over(w.t) { // then it is the fleet, in one process with the test, that does not answer
		return
	}
	if now.answered < before.answered-0.05 {
		w.t.Errorf("%.1f %% of the ticks of good servers have their answer, %.1f %% before", 100*now.answered, 100*before.answered)
	}
	if now.late > before.late+goodEvery/2 {
		w.t.Errorf("one look in a hundred at good servers begins %s late, %s before", now.late, before.late)
	}
}

// holdTo samples the processes that meet targets once a second.
func (w *hostileWorld) holdTo(length time.Duration) {
	w.t.Helper()
	most := map[string]float64{}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-ticker.C {
		for name, p := range processes(w.d) {
			if name != "prober" && name != "collector" && name != "picket up" {
				continue
			}
			figures := goFigures(w.t, p)
			for what, value := range map[string]float64{
				"heap":       figures["go_memstats_heap_inuse_bytes"] + figures["go_memstats_stack_inuse_bytes"],
				"goroutines": figures["go_goroutines"], "files": figures["process_open_fds"],
			} {
				key := name + ": " + what
				most[key] = max(most[key], value)
			}
		}
	}
	targets := float64(w.fleet.Len())
	bounds := map[string]float64{
		"heap": mostHeap, "goroutines": mostGoroutines*targets + goroutinesBeside, "files": mostFiles*targets + filesBeside,
	}
	for key, value := range most {
		w.t.Logf("most of %s: %.0f", key, value)
		_, what, _ := strings.Cut(key, ": ")
		if bound := bounds[what]; value > bound {
			w.t.Errorf("%s is %.0f, at most %.0f is promised", key, value, bound)
		}
	}
}

// verdicts are what is said of each hostile kind: `status reason`. Whatever the kind, a machine that is busy may give up
// in time, and a long answer may find no room.
func verdicts(kind fleetsim.Behaviour) []string {
	switch kind {
	case fleetsim.Healthy, fleetsim.Cookies, fleetsim.LongBody:
		return []string{"healthy "}
	case fleetsim.LargeBody, fleetsim.EndlessBody:
		return []string{"healthy ", "unknown own_fault"} // cut at the limit, which is no fault
	case fleetsim.ResetAtAccept, fleetsim.ResetMidBody:
		return []string{"unreachable reset", "unreachable closed"}
	case fleetsim.StallingBody:
		return []string{"unreachable timeout", "unknown own_fault"}
	case fleetsim.DrippingBody, fleetsim.DrippingHeaders, fleetsim.TLSHanging:
		return []string{"unreachable timeout"}
	case fleetsim.EndlessHeaders, fleetsim.LargeHeader, fleetsim.EndlessContinue, fleetsim.HeaderNoise, fleetsim.BadChunks,
		fleetsim.TwoLengths, fleetsim.BadStatus, fleetsim.HTTP09, fleetsim.Garbage:
		return []string{"unreachable protocol", "unreachable reset", "unreachable closed"}
	case fleetsim.RedirectLoop:
		return []string{"unreachable too_many_redirects"}
	case fleetsim.SwitchProtocols:
		return []string{"degraded http_101"}
	case fleetsim.GzipBomb:
		return []string{"healthy ", "degraded bad_body", "unknown own_fault"}
	case fleetsim.BadGzip, fleetsim.BadEncoding, fleetsim.DeepJSON:
		return []string{"degraded bad_body", "unknown own_fault"}
	case fleetsim.ShortBody:
		return []string{"unreachable closed"}
	case fleetsim.OddStatus:
		return []string{"critical http_999"}
	case fleetsim.TerminalJSON:
		return []string{"critical component"}
	case fleetsim.TLSGarbage, fleetsim.PlainOnTLS:
		return []string{"unreachable tls", "unreachable protocol", "unreachable reset"}
	case fleetsim.AbsurdDates:
		return []string{"unreachable certificate_invalid", "unreachable certificate_expired"}
	default:
		return nil
	}
}

// row is what is stored of some results that are alike.
type row struct {
	server, check, said string
	count               int64
}

func (w *hostileWorld) results(from, to time.Time) []row {
	w.t.Helper()
	var rows []row
	words := "CASE h.status"
	for number, word := range map[picketv1.Status]string{
		picketv1.Status_STATUS_HEALTHY: "healthy", picketv1.Status_STATUS_DEGRADED: "degraded", picketv1.Status_STATUS_CRITICAL: "critical",
		picketv1.Status_STATUS_UNREACHABLE: "unreachable", picketv1.Status_STATUS_UNKNOWN: "unknown",
	} {
		words += fmt.Sprintf(" WHEN %d THEN '%s'", number, word)
	}
	for _, line := range query[string](w.t, w.d, `
		SELECT s.name || '|' || c.name || '|' || `+words+` END || ' ' || h.reason || '|' || count(*)
		FROM server_health_checks h JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
		WHERE s.managed_by = 'file' AND h.scheduled_at BETWEEN $1 AND $2 GROUP BY s.name, c.name, h.status, h.reason`, from, to) {
		parts := strings.Split(line, "|")
		r := row{server: parts[0], check: parts[1], said: parts[2]}
		if _, err := fmt.Sscan(parts[3], &r.count); err != nil {
			w.t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return rows
}

// judge wants every result to be one of those that its target can have.
func (w *hostileWorld) judge(from, to time.Time) {
	w.t.Helper()
	kinds := map[string]fleetsim.Behaviour{}
	for i := range w.fleet.Len() {
		kinds[w.fleet.Name(i)] = w.kind(i)
	}
	said := map[string]int64{}
	for _, r := range w.results(from, to) {
		kind, known := kinds[r.server]
		status, reason, _ := strings.Cut(r.said, " ")
		word := kind.String()
		good := []string{"unreachable timeout"}
		switch {
		case r.check == "metrics":
			// A collection that fails never says that its server is down.
			word += "/metrics"
			if status == "unreachable" || status == "critical" || status == "degraded" && reason == "" {
				w.t.Errorf("%s: collection %s", r.server, r.said)
			}
			said[word+": "+r.said] += r.count
			continue
		case strings.HasPrefix(r.server, "nameless-"):
			word, good = "nameless", []string{"unreachable dns", "unreachable dns_timeout", "unreachable dns_not_found", "unreachable timeout"}
		case strings.HasPrefix(r.server, "deaf-"):
			word = "deaf"
		case known:
			good = append(good, verdicts(kind)...)
		}
		said[word+": "+r.said] += r.count
		if !slices.Contains(good, r.said) && !strings.HasPrefix(reason, "missed") {
			w.t.Errorf("%s (%s) is %q, expected one of %q", r.server, word, r.said, good)
		}
	}
	for _, line := range slices.Sorted(keys(said)) {
		w.t.Logf("%6d × %s", said[line], line)
	}
}

// unseen are the hostile kinds of which no result says what is wrong with them.
func (w *hostileWorld) unseen(from, to time.Time) []fleetsim.Behaviour {
	w.t.Helper()
	said := map[string][]string{} // by server
	for _, r := range w.results(from, to) {
		if r.check == "health" {
			said[r.server] = append(said[r.server], r.said)
		}
	}
	seen := map[fleetsim.Behaviour]bool{}
	for i := range w.fleet.Len() {
		kind := w.kind(i)
		seen[kind] = seen[kind] || slices.ContainsFunc(said[w.fleet.Name(i)], func(s string) bool { return slices.Contains(verdicts(kind), s) })
	}
	return slices.DeleteFunc(fleetsim.Hostile(), func(kind fleetsim.Behaviour) bool { return seen[kind] })
}

func keys(m map[string]int64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// fare is how the good servers are looked at: which share of the due ticks has the answer that is true, and how late all
// but one look in a hundred begin.
type fare struct {
	answered float64
	late     time.Duration
}

func (w *hostileWorld) fare(from, to time.Time) fare {
	w.t.Helper()
	const of = ` FROM server_health_checks h JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
		WHERE s.name < $3 AND s.managed_by = 'file' AND s.name LIKE 'sim-%' AND c.name = 'health' AND h.scheduled_at > $1 AND h.scheduled_at <= $2`
	last := w.fleet.Name(goodServers)
	answered := query[int64](w.t, w.d, `SELECT count(*)`+of+` AND h.status = 1`, from, to, last)[0]
	late := query[float64](w.t, w.d, `SELECT coalesce(percentile_cont(0.99) WITHIN GROUP
		(ORDER BY extract(epoch FROM h.started_at - h.scheduled_at)), 0)::float8`+of+` AND NOT h.missed`, from, to, last)[0]
	due := to.Sub(from).Seconds() / goodEvery.Seconds() * goodServers
	return fare{float64(answered) / due, time.Duration(late * float64(time.Second))}
}

// calm has the fleet behave, as far as it can, so that what follows has the machine for itself.
func (w *hostileWorld) calm() {
	for i := range w.fleet.Len() {
		if !strings.HasPrefix(w.fleet.URL(i), "https") {
			w.fleet.Set(i, fleetsim.Healthy)
		}
	}
}
