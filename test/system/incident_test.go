package system_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestOneIncidentOneAlert: a server from the environment goes down, everything
// is killed and started again in the middle, the server comes back; that is one
// alert, opened once and closed once.
func TestOneIncidentOneAlert(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	env := []string{"HEALTH_CHECK_INTERVAL=5", "CHECKOUT_HEALTH_URL=" + tg.url()}
	for name, deploy := range deployments() {
		t.Run(name, func(t *testing.T) {
			// One after the other: both watch the same target.
			d := deploy(t, env, shortDir(t))
			d.start()
			o := observe(t, d)
			began := time.Now()
			o.awaitStatus(t, "checkout", picketv1.Status_STATUS_HEALTHY, time.Time{})

			stopped := time.Now()
			tg.stop()
			down := o.awaitStatus(t, "checkout", picketv1.Status_STATUS_UNREACHABLE, time.Time{})
			if down.GetReason() != "refused" {
				t.Errorf("reason %q, want refused", down.GetReason())
			}
			eventually(t, "the alert opens", func() error { return want(o.transitions("checkout"), "pending", "opened") })
			opened := o.event("checkout", "opened")
			// Two bad ticks of a 5 s interval, and a moment: promised are 15 s.
			if took := opened.GetAt().AsTime().Sub(stopped); took > 15*time.Second {
				t.Errorf("opened %s after the server stopped", took)
			}
			if opened.GetKind() != "unreachable" || opened.GetSeverity() != "critical" || len(opened.GetEvidence()) == 0 {
				t.Errorf("opened with %v", opened)
			}

			for _, part := range d.parts() {
				d.kill(part)
			}
			d.start()
			o.awaitStatus(t, "checkout", picketv1.Status_STATUS_UNREACHABLE, time.Now())
			if states := query[string](t, d, `SELECT state FROM system_alerts WHERE server = 'checkout'`); !slices.Equal(states, []string{"open"}) {
				t.Errorf("alerts after the restart: %v, want one that is open", states)
			}

			tg.start()
			o.awaitStatus(t, "checkout", picketv1.Status_STATUS_HEALTHY, time.Time{})
			eventually(t, "the alert closes", func() error { return want(o.transitions("checkout"), "pending", "opened", "closed") })
			if states := query[string](t, d, `SELECT state || ' ' || reason FROM system_alerts WHERE server = 'checkout'`); !slices.Equal(states, []string{"closed recovered"}) {
				t.Errorf("alerts in the end: %v, want one, closed because it recovered", states)
			}
			if events := query[string](t, d, `SELECT e.transition FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
				WHERE a.server = 'checkout' ORDER BY e.stream_seq`); !slices.Equal(events, []string{"pending", "opened", "closed"}) {
				t.Errorf("history %v", events)
			}
			audit(t, d, o, began)
		})
	}
}

func want(got []string, words ...string) error {
	if !slices.Equal(got, words) {
		return fmt.Errorf("got %v, want %v", got, words)
	}
	return nil
}

// TestFileEdits: adding and removing servers takes an edit and no restart, and
// an edit with a mistake changes nothing.
func TestFileEdits(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	file := func(names ...string) string {
		text := "defaults: {interval: 1s}\nservers:\n"
		for _, name := range names {
			text += fmt.Sprintf("  - name: %s\n    url: %s\n", name, tg.url())
		}
		return text
	}
	inAll(t, options{config: file("a", "b")}, func(t *testing.T, d deployment, path string) {
		o := observe(t, d)
		o.awaitStatus(t, "a", picketv1.Status_STATUS_HEALTHY, time.Time{})
		o.awaitStatus(t, "b", picketv1.Status_STATUS_HEALTHY, time.Time{})

		writeFile(t, path, file("a", "c"))
		o.awaitStatus(t, "c", picketv1.Status_STATUS_HEALTHY, time.Time{})
		eventually(t, "b is not probed any more", func() error {
			a, b := o.latest("a", "health"), o.latest("b", "health")
			if since := a.GetScheduledAt().AsTime().Sub(b.GetScheduledAt().AsTime()); since < 3*time.Second {
				return fmt.Errorf("b was probed %s before a", since)
			}
			return nil
		})

		writeFile(t, path, file("a")+"  - name: d\n    urll: x\n")
		broken := time.Now()
		o.awaitStatus(t, "a", picketv1.Status_STATUS_HEALTHY, broken.Add(12*time.Second))
		o.awaitStatus(t, "c", picketv1.Status_STATUS_HEALTHY, broken.Add(12*time.Second))
		if o.latest("d", "health") != nil {
			t.Error("a server of a refused file is probed")
		}
		if !refused(d, `picket.yaml:6:5`) {
			t.Error("the log does not say where the mistake is")
		}

		writeFile(t, path, file("a", "d"))
		o.awaitStatus(t, "d", picketv1.Status_STATUS_HEALTHY, broken)
	})
}

// TestStopsCleanly: a stop that is asked for ends with exit code 0 and loses nothing that was started.
func TestStopsCleanly(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	inAll(t, options{config: "defaults: {interval: 1s}\nservers:\n  - {name: a, url: " + tg.url() + "}\n"}, func(t *testing.T, d deployment, _ string) {
		o := observe(t, d)
		o.awaitStatus(t, "a", picketv1.Status_STATUS_HEALTHY, time.Time{})
		for name, p := range processes(d) {
			if err := p.terminate(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if late, ok := o.lastMissed("a"); ok {
			t.Errorf("missed: %v", late)
		}
	})
}

func (o *observer) lastMissed(server string) (*picketv1.ProbeResult, bool) {
	r := o.latest(server, "health")
	return r, r != nil && r.GetStatus() == picketv1.Status_STATUS_UNKNOWN
}
