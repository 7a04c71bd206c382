package api

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

type ctxt = context.Context

// background returns a context that ends with the test, which waits for done.
func (w *world) background() (context.Context, chan struct{}) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.t.Cleanup(func() { cancel(); <-done })
	return ctx, done
}

// alertIn makes an alert as the alerter would.
func (w *world) alertIn(state, kind string) store.Alert {
	w.t.Helper()
	now := time.Now().UTC().Truncate(time.Millisecond)
	a := store.Alert{
		ID: uuid.New(), Org: "default", Fingerprint: "system-health:" + uuid.NewString(), Kind: kind, Severity: "critical", State: state,
		Server: "checkout", CheckName: "health", Summary: "checkout is " + kind, Since: now, PendingAt: now, TriggerCount: 2,
		Details: []byte(`{"evidence":[{"status":"critical"}]}`),
	}
	if state != "pending" {
		a.OpenedAt = now
	}
	if state == "closed" {
		a.ClosedAt, a.Reason = now, "recovered"
	}
	w.commit(a, "opened", "")
	return a
}

// commit writes an alert and a transition.
func (w *world) commit(a store.Alert, transition, actor string) {
	w.t.Helper()
	lease, err := w.store.AcquireAlerter(w.t.Context(), bus.StreamEvents, "test", time.Minute)
	if err != nil {
		w.t.Fatal(err)
	}
	memory, err := w.store.LoadAlerter(w.t.Context(), lease)
	if err != nil {
		w.t.Fatal(err)
	}
	to := memory.Cursor
	to.Seq++
	err = w.store.CommitAlerter(w.t.Context(), lease, store.AlerterCommit{From: memory.Cursor, To: to, EventAt: time.Now(), Alerts: []store.Alert{a}, Events: []store.AlertEvent{{
		EventID: uuid.New(), AlertID: a.ID, Org: a.Org, At: time.Now(), StreamEpoch: to.Epoch, StreamSeq: to.Seq, Transition: transition,
		State: a.State, Kind: a.Kind, Severity: a.Severity, Summary: a.Summary, Evidence: []byte(`[{"status":"critical"}]`), Actor: actor,
		Message: &picketv1.AlertEvent{},
	}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	open, closed := w.alertIn("open", "critical"), w.alertIn("closed", "unreachable")
	w.alertIn("pending", "degraded")
	var list alertList
	w.must(http.StatusOK, w.admin, "GET", base+"/alerts", "").into(t, &list)
	if list.Count != 1 || list.Alerts[0].ID != open.ID.String() {
		t.Errorf("open alerts %+v", list)
	}
	seen := map[string]bool{}
	for next := ""; ; {
		w.must(http.StatusOK, w.admin, "GET", base+"/alerts?state=all&limit=2"+next, "").into(t, &list)
		for _, a := range list.Alerts {
			seen[a.ID] = true
		}
		if list.Next == "" {
			break
		}
		next, list.Next = "&cursor="+list.Next, ""
	}
	if len(seen) != 3 {
		t.Errorf("%d alerts in pages of two", len(seen))
	}
	for query, want := range map[string]int{
		"state=closed": 1, "state=open,closed": 2, "state=all&kind=degraded": 1, "state=all&server=nobody": 0, "state=all&severity=warning": 0,
		"state=all&to=2020-01-01T00:00:00Z": 0,
	} {
		w.must(http.StatusOK, w.admin, "GET", base+"/alerts?"+query, "").into(t, &list)
		if list.Count != want {
			t.Errorf("%s: %d alerts, want %d", query, list.Count, want)
		}
	}
	var detail AlertDetail
	w.must(http.StatusOK, w.admin, "GET", base+"/alerts/"+closed.ID.String(), "").into(t, &detail)
	if detail.Reason != "recovered" || len(detail.Events) != 1 || detail.Evidence == nil {
		t.Errorf("alert %+v", detail)
	}
	w.must(http.StatusNotFound, w.token("other", store.Admin), "GET", base+"/alerts/"+open.ID.String(), "")
	w.must(http.StatusNotFound, w.admin, "GET", base+"/alerts/nonsense", "")
	w.must(http.StatusUnprocessableEntity, w.admin, "GET", base+"/alerts?state=dancing", "")
}

// TestAlertCommands: the command is in the stream with who and what; the answer is what came of it, or that it is on its way.
func TestAlertCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	alert := w.alertIn("open", "critical")
	path := base + "/alerts/" + alert.ID.String()
	operator := w.token("default", store.Operator)

	commands := make(chan *picketv1.Command, 10)
	ctx, done := w.background()
	go func() {
		defer close(done)
		_ = w.conn.Follow(ctx, bus.FollowOptions{Stream: bus.StreamEvents, From: 1, MaxBatch: 1, MaxWait: time.Millisecond, Handle: func(_ ctxt, batch []*bus.Msg) error {
			command := &picketv1.Command{}
			subject, err := bus.ParseSubject(batch[0].Subject)
			if err != nil || subject.Family != bus.FamilyCommand {
				return err
			}
			if err := batch[0].Decode(command); err != nil {
				return err
			}
			if err := bus.CheckCommand(subject, command); err != nil {
				return err
			}
			commands <- command
			return nil
		}})
	}()
	// Nobody folds: it is on its way.
	got := w.must(http.StatusAccepted, operator, "POST", path+"/acknowledge", `{"note":"on it"}`, "Idempotency-Key", "one")
	if got.header.Get("Location") != path {
		t.Errorf("location %q", got.header.Get("Location"))
	}
	command := <-commands
	if command.GetVerb() != "acknowledge" || command.GetAlertId() != alert.ID.String() || command.GetActor() != "test operator" || command.GetNote() != "on it" {
		t.Errorf("command %v", command)
	}
	// The alerter plays its part; the same request again is the same command.
	alert.State, alert.AcknowledgedBy, alert.AcknowledgedAt = "acknowledged", "test operator", time.Now()
	w.commit(alert, "acknowledged", "test operator")
	var shown Alert
	w.must(http.StatusOK, operator, "POST", path+"/acknowledge", `{"note":"on it"}`, "Idempotency-Key", "one").into(t, &shown)
	if shown.State != "acknowledged" || shown.AcknowledgedBy != "test operator" {
		t.Errorf("alert %+v", shown)
	}
	w.must(http.StatusConflict, operator, "POST", path+"/acknowledge", "")
	w.must(http.StatusForbidden, w.token("default", store.Viewer), "POST", path+"/close", "")
	w.must(http.StatusNotFound, w.token("other", store.Admin), "POST", path+"/close", "")
	gone := w.alertIn("open", "prober_gone")
	w.must(http.StatusConflict, operator, "POST", base+"/alerts/"+gone.ID.String()+"/close", "")
	over := w.alertIn("closed", "critical")
	w.must(http.StatusConflict, operator, "POST", base+"/alerts/"+over.ID.String()+"/close", "")
	entries, err := w.store.AuditLog(t.Context(), store.AuditQuery{Org: "default", Action: "alert.acknowledge", Limit: 10})
	if err != nil || len(entries) != 1 || entries[0].Target != alert.ID.String() {
		t.Errorf("record %v, %v", entries, err)
	}
}

// streams makes the streams.
func (w *world) streams() {
	w.t.Helper()
	w.waitFor("the streams", func() bool {
		return w.conn.Connected() && w.conn.EnsureStreams(w.t.Context(), bus.StreamLimits{MaxBytes: 64 << 20}) == nil
	})
}
