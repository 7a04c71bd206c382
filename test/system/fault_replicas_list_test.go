package system_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

const (
	// silence is how long a prober is heard of before it counts as gone.
	silence = 5 * time.Second
	// ackWait is when a message that a writer has not acknowledged goes to another: what internal/bus asks of the server.
	ackWait = 30 * time.Second
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
