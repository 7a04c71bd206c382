package system_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

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
