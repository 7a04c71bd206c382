package system_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/test/fleetsim"
)

// databaseFault is a fault, and what is promised while it lasts.
type databaseFault struct {
	fault
	// brief says that it is over when inject returns.
	brief func(d deployment) bool
	// dark: nothing answers meanwhile, and everybody who needs the database says so within two seconds.
	dark bool
	// unstored: the database answers, rows are not taken, and the writer says so.
	unstored bool
}

// keptUp is for databases that come back by themselves.
func keptUp(d deployment) bool { return d.database().kept }

func always(deployment) bool { return true }

func never(deployment) bool { return false }

// databaseFaults are those that soak draws from.
func databaseFaults() []fault {
	var faults []fault
	for _, f := range databaseFaultsKnown() {
		faults = append(faults, f.fault)
	}
	return faults
}

func databaseFaultsKnown() []databaseFault {
	return []databaseFault{
		{
			fault: fault{"the database is stopped", nil, func(_ *testing.T, d deployment) func() {
				d.database().stop()
				return d.database().start
			}}, brief: keptUp, dark: true,
		},
		{
			fault: fault{"the database is killed", processesAreSeen, func(_ *testing.T, d deployment) func() {
				d.database().kill()
				return d.database().start
			}}, brief: always,
		},
		{
			fault: fault{"a process of the database is killed", nil, func(_ *testing.T, d deployment) func() {
				d.database().crashBackend()
				return d.database().awaitAnswer
			}}, brief: always,
		},
		{
			fault: fault{"the database is frozen", processesAreSeen, func(_ *testing.T, d deployment) func() {
				d.database().freeze()
				return d.database().thaw
			}}, brief: never, dark: true,
		},
		{
			fault: fault{"the wire to the database is frozen", behindProxy, func(_ *testing.T, d deployment) func() {
				d.database().stall()
				return d.database().flow
			}}, brief: never, dark: true,
		},
		{
			fault: fault{"all connections to the database are cut", nil, func(_ *testing.T, d deployment) func() {
				d.database().cut()
				return func() {}
			}}, brief: always,
		},
		{fault: fault{"connections are cut in the middle of a COPY", behindProxy, cutInCopy}, brief: always},
		{fault: fault{"who copies is sent away by the database", nil, terminateInCopy}, brief: always},
		{fault: fault{"the outcome of COMMIT is unknown", behindProxy, loseCommits}, brief: always},
		{fault: fault{"a lock on the results is held", nil, lockResults}, brief: never, unstored: true},
		{fault: fault{"the disk of the results is full", canMount, fillDisk}, brief: never, unstored: true},
	}
}

// hits is how often what has to be hit in its middle is hit.
const hits = 10

// cutInCopy cuts connections behind half of a piece of a COPY, hits times.
func cutInCopy(t *testing.T, d deployment) (mend func()) {
	t.Helper()
	signature := []byte("PGCOPY\n\xff\r\n\x00")
	var cut atomic.Int32
	wire := d.database().proxy
	mend = func() { wire.Inspect(nil) }
	wire.Inspect(func(from embeddedtest.Side, data []byte) int {
		at := bytes.Index(data, signature)
		if from != embeddedtest.Client || at < 0 || cut.Load() >= hits {
			return len(data)
		}
		cut.Add(1)
		return (at + len(data)) / 2
	})
	eventually(t, "COPYs are cut", func() error { return reached(&cut) })
	return mend
}

func reached(n *atomic.Int32) error {
	if n := n.Load(); n < hits {
		return fmt.Errorf("%d of %d", n, hits)
	}
	return nil
}

// terminateInCopy has a COPY wait for a lock and ends its session there, and then the statement that takes its place when
// the batch comes again.
func terminateInCopy(t *testing.T, d deployment) (mend func()) {
	t.Helper()
	for _, statement := range []string{"COPY server_health_checks", "INSERT INTO server_health_checks"} {
		unlock := lockResults(t, d)
		conn := d.database().connect()
		eventually(t, "a "+statement+" waits and is ended", func() error {
			var ended int
			err := conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE wait_event_type = 'Lock' AND starts_with(ltrim(query, E' \n'), $1)`, statement).Scan(&ended)
			if err == nil && ended == 0 {
				err = errors.New("none waits")
			}
			return err
		})
		conn.Close(context.Background())
		unlock()
	}
	return func() {}
}

// loseCommits keeps the answer of one COMMIT in four from its client, though it is carried out, and one COMMIT in four from
// the server: the client can not know which.
func loseCommits(t *testing.T, d deployment) (mend func()) {
	t.Helper()
	request, answer := []byte("commit\x00"), []byte("COMMIT\x00")
	var asked, carried, dropped atomic.Int32
	wire := d.database().proxy
	wire.Inspect(func(from embeddedtest.Side, data []byte) int {
		switch {
		case from == embeddedtest.Client && bytes.HasSuffix(data, request):
			if asked.Add(1)%4 == 0 {
				dropped.Add(1)
				return len(data) - len(request) - 5 // the message is cut off with its head
			}
		case from == embeddedtest.Server && bytes.Contains(data, answer):
			if asked.Load()%4 == 2 {
				carried.Add(1)
				return 0
			}
		}
		return len(data)
	})
	eventually(t, "answers of COMMIT are lost", func() error { return errors.Join(reached(&carried), reached(&dropped)) })
	return func() { wire.Inspect(nil) }
}

// lockResults holds the strongest lock on the table of results.
func lockResults(t *testing.T, d deployment) (mend func()) {
	t.Helper()
	conn := d.database().connect()
	mend = func() { conn.Close(context.Background()) } // which rolls back
	for _, statement := range []string{"BEGIN", "LOCK TABLE server_health_checks IN ACCESS EXCLUSIVE MODE"} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	t.Cleanup(mend)
	return mend
}

// canMount reports whether a small disk can be made here, which takes root.
func canMount(deployment) bool {
	dir, err := os.MkdirTemp("", "pkt-mount-")
	if err != nil {
		return false
	}
	err = mountDisk(dir, 1<<20)
	if err == nil {
		err = unmountDisk(dir)
	}
	return errors.Join(err, os.Remove(dir)) == nil
}

// fillDisk moves the results to a small disk of their own and fills it.
func fillDisk(t *testing.T, d deployment) (mend func()) {
	t.Helper()
	dir := filepath.Join(shortDir(t), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const room = 16 << 20
	used := query[int64](t, d, `SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = 'server_health_checks'::regclass`)[0]
	if err := mountDisk(dir, used+room); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unmountDisk(dir); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	space := filepath.Join(dir, "space")
	owner, err := os.Stat(filepath.Join(d.database().dir, "cluster"))
	if err != nil {
		t.Fatal(err)
	}
	server, ok := owner.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	if err := errors.Join(os.Mkdir(space, 0o700), os.Chown(space, int(server.Uid), int(server.Gid))); err != nil {
		t.Fatal(err)
	}
	name := "small_" + strings.ToLower(filepath.Base(filepath.Dir(dir)))[len("pkt-sys-"):]
	tables := query[string](t, d, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'server_health_checks'::regclass`)
	move := func(to string) {
		for _, table := range tables {
			d.database().execute("ALTER TABLE " + table + " SET TABLESPACE " + to)
		}
	}
	d.database().execute("CREATE TABLESPACE " + name + " LOCATION '" + space + "'")
	move(name)
	filler := filepath.Join(dir, "filler")
	if err := fill(filler); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	return func() {
		if err := os.Remove(filler); err != nil {
			t.Error(err)
		}
		move("pg_default")
		d.database().execute("DROP TABLESPACE " + name)
	}
}

func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for piece := make([]byte, 4096); err == nil; {
		_, err = file.Write(piece)
	}
	return err
}

// TestDatabaseFaults breaks the database of a loaded deployment in all the ways that it can break, one after the other,
// while servers fail and recover: looking and publishing go on, who needs it says within two seconds that it is away, no
// status changes and no alert opens because of it, every row is there afterwards, once, and nothing is restarted.
func TestDatabaseFaults(t *testing.T) {
	t.Parallel()
	for name, deploy := range breakable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{Servers: 100, Degraded: 0.05, Hanging: 0.03, MetricsInterval: 2 * time.Second}, time.Second, "")
			dir := shortDir(t)
			path := filepath.Join(dir, "picket.yaml")
			writeFile(t, path, config)
			d := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
			d.start()
			o := observe(t, d)
			began := time.Now()
			awaitAll(t, o, f)
			p := &patient{d: d, o: o, fleet: f, incidents: newIncidents(o, f), length: faultLength(t)}
			eventually(t, "every server has a status", func() error {
				if without := query[string](t, d, `SELECT name FROM managed_servers WHERE name LIKE 'sim-%' AND health_status = 'unknown'`); len(without) > 0 {
					return fmt.Errorf("none: %v", without)
				}
				return nil
			})
			for _, fault := range databaseFaultsKnown() {
				if !fault.wanted(t) {
					continue
				}
				if fault.possible != nil && !fault.possible(d) {
					t.Logf("NOT TRIED here: %s", fault.name)
					continue
				}
				p.survives(t, fault)
			}
			audit(t, d, o, began)
			auditFigures(t, d)
			p.incidents.audit(t, d)
			if gaps := query[string](t, d, `SELECT stream || ' ' || reason FROM stream_gaps WHERE reason <> 'blind'`); len(gaps) > 0 {
				t.Errorf("gaps in streams that nobody touched: %v", gaps)
			}
		})
	}
}

// patient is a deployment under load whose database is broken.
type patient struct {
	d         deployment
	o         *observer
	fleet     *fleetsim.Fleet
	incidents *incidents
	length    time.Duration
}

// survives breaks it once and holds it to its promises.
func (p *patient) survives(t *testing.T, fault databaseFault) {
	t.Helper()
	runs, statuses := runsOf(p.d), p.statuses(t)
	ending := p.incidents.begin()
	p.incidents.awaitOpen(t, ending)
	since := time.Now()
	t.Logf("%s: %s", since.Format("15:04:05"), fault.name)
	mend := fault.inject(t, p.d)
	injected := time.Now()
	beginning := p.incidents.begin()
	p.incidents.recovers(ending)
	if !fault.brief(p.d) {
		switch {
		case fault.dark:
			p.saysSo(t, injected)
		case fault.unstored && p.length > store.TxTimeout:
			eventually(t, "the writer says that nothing is stored", func() error {
				if readiness(t, p.d)[writerOf(p.d)] == nil {
					return errors.New("it is ready")
				}
				return nil
			})
		}
		rest(t, p.length-time.Since(injected))
		p.looksOn(t, since)
	}
	mend()
	mended := time.Now()
	eventually(t, "all are ready again", func() error {
		for name, err := range readiness(t, p.d) {
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	p.incidents.awaitOpen(t, beginning)
	p.incidents.end(t, beginning)
	p.incidents.awaitClosed(t, ending)
	coverage := p.coverage(t, since, mended)
	t.Logf("all is well %s after %s", time.Since(mended).Round(100*time.Millisecond), fault.name)
	for reason, n := range coverage.Explained {
		// A machine that is too slow for both the test and its fleet may skip ticks, and servers that are down are not collected from.
		if !slices.Contains([]string{"missed", "missed_suspended", "missed_critical", "missed_unreachable"}, reason) {
			t.Errorf("%s: %d ticks missed, which is no fault of the database: %s", fault.name, n, reason)
		}
	}
	for server, status := range p.statuses(t) {
		if status != statuses[server] {
			t.Errorf("%s: %s was %s and is %s", fault.name, server, statuses[server], status)
		}
	}
	if now := runsOf(p.d); !maps.Equal(now, runs) {
		t.Errorf("%s: something was started anew: %v, before %v", fault.name, now, runs)
	}
}

// coverage is that of the fleet in a span. Picket's own checks, which come every half minute, are left to the audit in the end.
func (p *patient) coverage(t *testing.T, from, to time.Time) store.Coverage {
	t.Helper()
	eventually(t, "everything is stored", func() error {
		behind := query[string](t, p.d, `SELECT s.name || '/' || c.name FROM checks c JOIN managed_servers s ON s.id = c.server_id
			WHERE s.name LIKE 'sim-%' AND NOT EXISTS (SELECT FROM server_health_checks h
				WHERE h.check_id = c.id AND (h.scheduled_at > $1 OR h.missed_until > $1)) LIMIT 5`, to)
		if len(behind) > 0 {
			return fmt.Errorf("still behind: %v", behind)
		}
		return nil
	})
	db := openStore(t, p.d)
	var coverage store.Coverage
	var findings []store.Finding
	// The newest of each check is there, and what was given back meanwhile comes behind it.
	eventually(t, "no tick lacks an explanation", func() error {
		var err error
		if coverage, findings, err = db.Audit(testContext(t), store.CoverageFilter{}, from, to, 20); err != nil {
			return err
		}
		findings = slices.DeleteFunc(findings, func(f store.Finding) bool { return !strings.HasPrefix(f.Server, "sim-") })
		if len(findings) > 0 {
			return fmt.Errorf("%+v", findings)
		}
		return nil
	})
	return coverage
}

// saysSo wants everybody who needs the database to say that it is away. Promised are two seconds; the rest is for a slow machine.
func (p *patient) saysSo(t *testing.T, since time.Time) {
	t.Helper()
	const promised, slack = 2 * time.Second, 2 * time.Second
	eventually(t, "readiness says that the database is away", func() error {
		for name, err := range readiness(t, p.d) {
			if needs := name != "prober" && name != "collector"; needs == (err == nil) {
				return fmt.Errorf("%s: %v", name, err) //nolint:errorlint // it may be nil, which is what is wrong
			}
		}
		return nil
	})
	if took := time.Since(since); took > promised+slack {
		t.Errorf("readiness said it after %s", took)
	}
}

// looksOn wants results to have come in all the time.
func (p *patient) looksOn(t *testing.T, since time.Time) {
	t.Helper()
	const interval = time.Second
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	looks := 0
	for _, r := range slices.Backward(p.o.results) {
		if at := r.GetScheduledAt().AsTime(); at.After(since) && r.GetCheck() == "health" && r.GetReason() != "missed" {
			looks++
		}
	}
	due := p.fleet.Len() * int(time.Since(since)/interval)
	if looks < due*8/10 {
		t.Errorf("%d results of %d that were due while the database was broken", looks, due)
	}
}

// statuses are what servers read like that nobody has fail.
func (p *patient) statuses(t *testing.T) map[string]string {
	t.Helper()
	statuses := map[string]string{}
	for _, row := range query[[]string](t, p.d, `SELECT ARRAY[name, health_status::text] FROM managed_servers WHERE name LIKE 'sim-%'`) {
		if !p.incidents.failing(row[0]) {
			statuses[row[0]] = row[1]
		}
	}
	return statuses
}

// failing reports whether a server has been made to fail.
func (i *incidents) failing(server string) bool {
	for _, one := range i.healthy[:min(i.next, len(i.healthy))] {
		if i.fleet.Name(one) == server {
			return true
		}
	}
	return false
}

// recovers has a server be well again whose alert is open, without waiting for anything.
func (i *incidents) recovers(server int) {
	name := i.fleet.Name(server)
	i.fleet.Set(server, fleetsim.Healthy)
	i.want[name] = append(i.want[name], "opened", "closed")
}

// awaitClosed waits until that is told.
func (i *incidents) awaitClosed(t *testing.T, server int) {
	t.Helper()
	name := i.fleet.Name(server)
	eventually(t, "the alert of "+name+" closes", func() error { return want(i.o.incidents(name), i.want[name]...) })
}

// readiness asks every program whether it is ready.
func readiness(t *testing.T, d deployment) map[string]error {
	t.Helper()
	answers := map[string]error{}
	for name, p := range processes(d) {
		if address, ok := p.find(httpLine); ok { // picket up
			answers[name] = ready(t, address)
		} else if address, ok := p.find(adminLine); ok {
			answers[name] = ready(t, "http://"+address)
		} else {
			answers[name] = errors.New("has not said where it is")
		}
	}
	return answers
}

// writerOf is the program that writes.
func writerOf(d deployment) string {
	if _, ok := processes(d)["writer"]; ok {
		return "writer"
	}
	return "picket up"
}

// runsOf tells one run of each program from another, and of each service within a program.
func runsOf(d deployment) map[string]string {
	runs := map[string]string{}
	for name, p := range processes(d) {
		restarts := 0
		for _, line := range p.tail(math.MaxInt) {
			if strings.Contains(line, `"msg":"service failed, restarting"`) {
				restarts++
			}
		}
		runs[name] = fmt.Sprintf("process %d, %d restarts of a service", p.cmd.Process.Pid, restarts)
	}
	return runs
}
