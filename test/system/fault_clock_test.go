package system_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/test/fleetsim"
)

// clocks are what the programs of a deployment take for the time: one prober of several has its own, so have all services
// together, and so has NATS; one clock of the three may be nil, and is right then. PostgreSQL's is always right.
type clocks struct{ prober, services, nats *falseClock }

const year = 365 * 24 * time.Hour

// clockFaults are the ways in which the clocks are wrong.
func clockFaults(c clocks) []fault {
	set := func(clock *falseClock, ahead time.Duration) func(*testing.T, deployment) func() {
		return func(*testing.T, deployment) func() {
			clock.set(ahead)
			return clock.right
		}
	}
	drift := func(clock *falseClock, perMillion int64) func(*testing.T, deployment) func() {
		return func(*testing.T, deployment) func() {
			clock.drift(perMillion)
			return clock.right
		}
	}
	var faults []fault
	if c.prober != nil {
		for _, ahead := range []time.Duration{time.Hour, -time.Hour, 3 * year, -time.Second} {
			faults = append(faults, fault{fmt.Sprintf("one prober is off by %s", ahead), nil, set(c.prober, ahead)})
		}
		for _, perMillion := range []int64{500, -500, 50_000, -50_000} {
			faults = append(faults, fault{fmt.Sprintf("one prober gains %d µs a second", perMillion), nil, drift(c.prober, perMillion)})
		}
	}
	if c.nats != nil {
		for _, ahead := range []time.Duration{time.Hour, -time.Hour, -time.Second, 3 * year} {
			faults = append(faults, fault{fmt.Sprintf("nats is off by %s", ahead), nil, set(c.nats, ahead)})
		}
	}
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		faults = append(faults, fault{fmt.Sprintf("all services are off by %s", ahead), nil, set(c.services, ahead)})
	}
	return append(faults,
		fault{"all services repeat a second", nil, set(c.services, -time.Second)},
		fault{"all services gain 50 ms a second", nil, drift(c.services, 50_000)},
		fault{"all services are off by years, and what writes is started anew", nil, func(t *testing.T, d deployment) func() {
			t.Helper()
			rows := query[int64](t, d, `SELECT count(*) FROM server_health_checks`)[0]
			c.services.set(3 * year)
			if _, many := d.(*many); many {
				d.kill("writer")
				revive(t, d, "writer")
			}
			return func() {
				if left := query[int64](t, d, `SELECT count(*) FROM server_health_checks`)[0]; left < rows {
					t.Errorf("%d of %d rows left: a wrong clock deletes", left, rows)
				}
				c.services.right()
			}
		}},
	)
}

// TestClockFaults has clocks step, repeat themselves, run fast and slow, and be right again, while servers fail and recover:
// none of it makes a burst, a double, or an alert, and what was not looked at is said.
func TestClockFaults(t *testing.T) {
	t.Parallel()
	inFamily(t)
	for name, deploy := range map[string]func(*testing.T, []string, string) (deployment, clocks){
		"one process": func(t *testing.T, env []string, dir string) (deployment, clocks) {
			t.Helper()
			c := clocks{services: newFalseClock(t)}
			d := oneProcessOn(t, nil, env, dir)
			c.services.deceive(d.proc)
			return d, c
		},
		"many processes": func(t *testing.T, env []string, dir string) (deployment, clocks) {
			t.Helper()
			c := clocks{prober: newFalseClock(t), services: newFalseClock(t), nats: newFalseClock(t)}
			d := breakable()["many processes"](t, env, dir).(*many) //nolint:forcetypeassert // it is
			d.server.stop()
			c.nats.deceive(d.server.proc)
			d.server.start()
			d.add("prober-2", "prober")
			for name, p := range d.procs {
				if name == "prober-2" {
					c.prober.deceive(p)
				} else {
					c.services.deceive(p)
				}
			}
			return d, c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const servers = 60
			f, config := fleet(t, fleetsim.Options{Servers: servers, Degraded: 0.05, MetricsInterval: 2 * time.Second}, time.Second, "")
			dir := shortDir(t)
			path := dir + "/picket.yaml"
			writeFile(t, path, config)
			d, c := deploy(t, []string{"PICKET_CONFIG=" + path, "FLEET_HEALTH_BATCH_SIZE=0", "FLEET_METRICS_BATCH_SIZE=0"}, dir)
			d.start()
			o := observe(t, d)
			began := time.Now().Add(lead)
			awaitAll(t, o, f)
			incidents := newIncidents(o, f)
			for _, one := range clockFaults(c) {
				if !one.wanted(t) {
					continue
				}
				t.Logf("%s: %s", time.Now().Format("15:04:05"), one.name)
				before := len(f.Report().Slots)
				mend := one.inject(t, d)
				server := incidents.begin()
				incidents.awaitOpen(t, server)
				incidents.end(t, server)
				mend()
				server = incidents.begin()
				incidents.awaitOpen(t, server)
				incidents.end(t, server)
				if most, steady := busiestSecond(f.Report().Slots[before:]), uint32(servers+servers/2); most > 3*steady {
					t.Errorf("%s: %d requests in one second; the steady rate is %d", one.name, most, steady)
				}
			}
			until := time.Now().Add(lead)
			var coverage store.Coverage
			db := openStore(t, d)
			eventually(t, "every tick has a row or an explanation", func() error {
				var findings []store.Finding
				var err error
				if coverage, findings, err = db.Audit(testContext(t), store.CoverageFilter{}, began, until, 3); err != nil {
					return err
				}
				if coverage.Unexplained != 0 || coverage.Undue != 0 {
					return fmt.Errorf("%+v: %+v", coverage, findings)
				}
				return nil
			})
			t.Logf("audit: %+v", coverage)
			eventually(t, "what is shown is what is now", func() error {
				old := query[string](t, d, `SELECT server || '/' || check_name || ' of ' || scheduled_at FROM check_states
					WHERE server LIKE 'sim-%' AND scheduled_at NOT BETWEEN now() + $1::interval - interval '20 s' AND now() + $1::interval + interval '20 s' LIMIT 3`, lead)
				if len(old) > 0 {
					return fmt.Errorf("%v", old)
				}
				return nil
			})
			incidents.audit(t, d)
		})
	}
}

// busiestSecond is how many requests came in any ten slots in a row.
func busiestSecond(slots []uint32) (most uint32) {
	const second = int(time.Second / fleetsim.Slot)
	for i := range slots {
		sum := uint32(0)
		for _, n := range slots[i:min(i+second, len(slots))] {
			sum += n
		}
		most = max(most, sum)
	}
	return most
}
