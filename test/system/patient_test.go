package system_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

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
	runs, statuses, strain := runsOf(p.d), p.statuses(t), measureStrain()
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
	busy := strain.over(t)
	for reason, n := range coverage.Explained {
		// Servers that are down are not collected from, and of its partitions the writer can say no more than that.
		honest := []string{"missed_critical", "missed_unreachable", "database_unavailable"}
		if !slices.Contains(honest, reason) && (!busy || !wantOfTime(reason)) {
			t.Errorf("%s: %d ticks missed, which is no fault of the database: %s", fault.name, n, reason)
		}
	}
	for server, status := range p.statuses(t) {
		// What was seen may change a status, also when what was seen is a machine too busy to answer; the database may not.
		if status != statuses[server] && !p.o.saw(server, status, since.Add(-5*time.Second)) {
			t.Errorf("%s: %s was %s and is %s, which nobody saw", fault.name, server, statuses[server], status)
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

// saw reports whether a look since then said so of a server.
func (o *observer) saw(server, status string, since time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range slices.Backward(o.results) {
		if r.GetServer() == server && r.GetScheduledAt().AsTime().After(since) && statusWord(r.GetStatus()) == status {
			return true
		}
	}
	return false
}

// statusWord is a status as the database has it.
func statusWord(s picketv1.Status) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATUS_"))
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
