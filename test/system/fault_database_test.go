package system_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
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
	sample := sample{fault: "the outcome of COMMIT is unknown", in: "many processes"}
	for name, deploy := range breakable() {
		t.Run(name, func(t *testing.T) {
			sample.only(t, name)
			t.Parallel()
			f, config := fleet(t, fleetsim.Options{Servers: crowd(100), Degraded: 0.05, Hanging: 0.03, MetricsInterval: 2 * time.Second}, time.Second, "")
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
				if !sample.wants(t, fault.fault) {
					continue
				}
				if fault.possible != nil && !fault.possible(d) {
					t.Logf("NOT TRIED here: %s", fault.name)
					continue
				}
				p.survives(t, fault)
			}
			if asked() {
				audit(t, d, o, began)
			}
			auditFigures(t, d)
			p.incidents.audit(t, d)
			if gaps := query[string](t, d, `SELECT stream || ' ' || reason FROM stream_gaps WHERE reason <> 'blind'`); len(gaps) > 0 {
				t.Errorf("gaps in streams that nobody touched: %v", gaps)
			}
		})
	}
}
