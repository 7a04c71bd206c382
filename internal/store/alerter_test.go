package store

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const foldStream = "PICKET_EVENTS"

// acquire takes the lease for owner and expires it at once when asked, so that another may have it.
func acquire(t *testing.T, s *Store, owner string, expired bool) Lease {
	t.Helper()
	lease, err := s.AcquireAlerter(t.Context(), foldStream, owner, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if expired {
		exec(t, s, `UPDATE alerter_state SET lease_until = clock_timestamp() - interval '1 second'`)
	}
	return lease
}

var alertTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func alertWith(state string) Alert {
	a := Alert{
		ID: uuid.New(), Org: "default", Fingerprint: "system-health:srv", Kind: "critical", Severity: "critical", State: state,
		Server: "srv", CheckName: "health", CheckID: uuid.New(), Summary: "it is bad", Since: alertTime,
		PendingAt: alertTime.Add(time.Second), TriggerCount: 3, Details: json.RawMessage(`{"evidence": []}`),
	}
	if state == "closed" {
		a.Reason, a.ClosedAt = "recovered", alertTime.Add(time.Minute)
	}
	return a
}

func eventOf(a Alert, transition string) AlertEvent {
	id := uuid.New()
	return AlertEvent{
		EventID: id, AlertID: a.ID, Org: a.Org, At: alertTime, StreamEpoch: 7, StreamSeq: 1, Transition: transition,
		State: a.State, Kind: a.Kind, Severity: a.Severity, Summary: a.Summary, Evidence: json.RawMessage(`[]`),
		Message: &picketv1.AlertEvent{EventId: id.String(), Transition: transition},
	}
}

func commitOf(from, to int64, alerts ...Alert) AlerterCommit {
	c := AlerterCommit{From: StreamPosition{7, from}, To: StreamPosition{7, to}, EventAt: alertTime, Alerts: alerts}
	for _, a := range alerts {
		c.Events = append(c.Events, eventOf(a, a.State))
	}
	return c
}

func TestAlerterLease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	first := acquire(t, s, "one", false)
	if _, err := s.AcquireAlerter(t.Context(), foldStream, "two", time.Minute); !errors.Is(err, ErrLeaseLost) {
		t.Fatalf("second alerter: %v, want ErrLeaseLost", err)
	}
	// The same owner again is a new epoch: what it left under way is fenced off.
	again := acquire(t, s, "one", false)
	if again.Epoch != first.Epoch+1 {
		t.Errorf("epoch %d after %d", again.Epoch, first.Epoch)
	}
	if err := s.RenewAlerter(t.Context(), first, time.Minute); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("renewing an old epoch: %v", err)
	}
	if err := s.ReleaseAlerter(t.Context(), first); err != nil {
		t.Errorf("releasing what is lost: %v", err)
	}
	if _, err := s.AcquireAlerter(t.Context(), foldStream, "two", time.Minute); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("an old epoch released the lease: %v", err)
	}
	if err := s.RenewAlerter(t.Context(), again, time.Minute); err != nil {
		t.Error(err)
	}
	if err := s.ReleaseAlerter(t.Context(), again); err != nil {
		t.Error(err)
	}
	acquire(t, s, "two", true)
	acquire(t, s, "three", false)
}

// TestAlerterFence holds that whoever was replaced can change nothing at all.
func TestAlerterFence(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	stale := acquire(t, s, "stale", true)
	if err := s.MoveAlerter(t.Context(), stale, StreamPosition{}, StreamPosition{Epoch: 7}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitAlerter(t.Context(), stale, commitOf(0, 1, alertWith("pending"))); err != nil {
		t.Fatalf("an expired lease that nobody took: %v", err)
	}
	active := acquire(t, s, "active", false)
	before, err := s.LoadAlerter(t.Context(), active)
	if err != nil {
		t.Fatal(err)
	}
	outbox, err := s.Outbox(t.Context(), 10)
	if err != nil || len(outbox) != 1 {
		t.Fatalf("outbox %v, %v", outbox, err)
	}
	gap := &StreamGap{Stream: foldStream, Consumer: "alerter", FromSeq: 1, ToSeq: 1, Reason: "hole"}
	for what, attempt := range map[string]func() error{
		"load": func() error { _, err := s.LoadAlerter(t.Context(), stale); return err },
		"commit": func() error {
			other := alertWith("open")
			other.Fingerprint = "system-health:other"
			return s.CommitAlerter(t.Context(), stale, commitOf(1, 2, other))
		},
		"move": func() error {
			return s.MoveAlerter(t.Context(), stale, StreamPosition{7, 1}, StreamPosition{8, 0}, gap)
		},
		"snapshot": func() error {
			return s.SaveAlerterSnapshot(t.Context(), stale, StreamPosition{7, 1}, []SnapshotChunk{{1, []byte("x")}}, true)
		},
		"outbox": func() error { return s.ClearOutbox(t.Context(), stale, []int64{outbox[0].ID}) },
		"renew":  func() error { return s.RenewAlerter(t.Context(), stale, time.Minute) },
	} {
		if err := attempt(); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("%s by a stale alerter: %v, want ErrLeaseLost", what, err)
		}
	}
	after, err := s.LoadAlerter(t.Context(), active)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	if n := query[int](t, s, `SELECT count(*) FROM stream_gaps`); n != 0 {
		t.Errorf("%d gaps written by a stale alerter", n)
	}
	// A cursor that is not where the run began is the same thing.
	if err := s.CommitAlerter(t.Context(), active, commitOf(0, 2)); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("commit from an old cursor: %v", err)
	}
}

func TestAlerterCommit(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lease := acquire(t, s, "one", false)
	if err := s.MoveAlerter(t.Context(), lease, StreamPosition{}, StreamPosition{Epoch: 7}, nil); err != nil {
		t.Fatal(err)
	}
	// An alert that ends and the next one of its fingerprint, in one commit.
	first := alertWith("open")
	first.OpenedAt = alertTime.Add(2 * time.Second)
	if err := s.CommitAlerter(t.Context(), lease, commitOf(0, 5, first)); err != nil {
		t.Fatal(err)
	}
	ended := first
	ended.State, ended.Reason, ended.ClosedAt = "closed", "recovered", alertTime.Add(time.Minute)
	next := alertWith("pending")
	c := commitOf(5, 9, ended, next)
	c.Gaps = []StreamGap{{
		Stream: foldStream, Consumer: "alerter", StreamEpoch: 7, FromSeq: 6, ToSeq: 7, From: alertTime, To: alertTime, Reason: "hole",
	}}
	if err := s.CommitAlerter(t.Context(), lease, c); err != nil {
		t.Fatal(err)
	}
	memory, err := s.LoadAlerter(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	want := AlerterMemory{Cursor: StreamPosition{7, 9}, EventAt: alertTime, Snapshot: StreamPosition{7, 0}, Alerts: []Alert{next}}
	if diff := cmp.Diff(want, memory, cmpopts.EquateEmpty(), cmp.Transformer("text", func(m json.RawMessage) string { return string(m) })); diff != "" {
		t.Error(diff)
	}
	if got := query[string](t, s, `SELECT state || ' ' || reason || ' ' || (closed_at - opened_at) FROM system_alerts WHERE id = $1`, first.ID); got != "closed recovered 00:00:58" {
		t.Errorf("first alert: %s", got)
	}
	if gaps, err := s.Gaps(t.Context(), foldStream, "alerter", alertTime.Add(-time.Hour), alertTime.Add(time.Hour)); err != nil || len(gaps) != 1 {
		t.Errorf("gaps %v, %v", gaps, err)
	}
	outbox, err := s.Outbox(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	var ids []int64
	for _, out := range outbox {
		order, ids = append(order, out.Event.GetTransition()), append(ids, out.ID)
	}
	if diff := cmp.Diff([]string{"open", "closed", "pending"}, order); diff != "" {
		t.Error(diff)
	}
	if err := s.ClearOutbox(t.Context(), lease, ids[:2]); err != nil {
		t.Fatal(err)
	}
	if left, err := s.Outbox(t.Context(), 10); err != nil || len(left) != 1 || left[0].ID != ids[2] {
		t.Errorf("left in the outbox: %v, %v", left, err)
	}
	// All or nothing: a second alert of the fingerprint is refused, and the cursor stays.
	err = s.CommitAlerter(t.Context(), lease, commitOf(9, 10, alertWith("open")))
	if Classify(err) != Conflict {
		t.Errorf("two active alerts of one fingerprint: %v", err)
	}
	if seq := query[int64](t, s, `SELECT seq FROM alerter_state`); seq != 9 {
		t.Errorf("cursor at %d after a commit that failed, want 9", seq)
	}
	// The same events again add nothing.
	again := c
	again.From, again.To, again.Alerts, again.Gaps = StreamPosition{7, 9}, StreamPosition{7, 10}, []Alert{next}, c.Gaps
	if err := s.CommitAlerter(t.Context(), lease, again); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, s, `SELECT count(*) FROM alert_events`); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

func TestAlerterSnapshot(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lease := acquire(t, s, "one", false)
	if err := s.MoveAlerter(t.Context(), lease, StreamPosition{}, StreamPosition{Epoch: 7}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitAlerter(t.Context(), lease, commitOf(0, 100)); err != nil {
		t.Fatal(err)
	}
	save := func(seq int64, whole bool, chunks ...SnapshotChunk) error {
		return s.SaveAlerterSnapshot(t.Context(), lease, StreamPosition{7, seq}, chunks, whole)
	}
	check := func(cursor, snapshot StreamPosition, chunks ...SnapshotChunk) {
		t.Helper()
		memory, err := s.LoadAlerter(t.Context(), lease)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(AlerterMemory{Cursor: cursor, EventAt: alertTime, Snapshot: snapshot, Chunks: chunks, Alerts: memory.Alerts}, memory); diff != "" {
			t.Error(diff)
		}
	}
	a, b, c := SnapshotChunk{0, []byte("a")}, SnapshotChunk{1, []byte("b")}, SnapshotChunk{2, []byte("c")}
	if err := save(50, true, a, b, SnapshotChunk{ID: 3}); err != nil {
		t.Fatal(err)
	}
	check(StreamPosition{7, 100}, StreamPosition{7, 50}, a, b)
	if err := save(60, false, SnapshotChunk{0, []byte("A")}, SnapshotChunk{ID: 1}, c); err != nil {
		t.Fatal(err)
	}
	check(StreamPosition{7, 100}, StreamPosition{7, 60}, SnapshotChunk{0, []byte("A")}, c)
	if err := save(101, false, b); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a snapshot ahead of the cursor: %v", err)
	}
	if err := save(70, true, b); err != nil {
		t.Fatal(err)
	}
	check(StreamPosition{7, 100}, StreamPosition{7, 70}, b)

	move := func(from, to StreamPosition) {
		t.Helper()
		if err := s.MoveAlerter(t.Context(), lease, from, to, nil); err != nil {
			t.Fatal(err)
		}
	}
	move(StreamPosition{7, 100}, StreamPosition{7, 80}) // rolled back behind the snapshot's end
	check(StreamPosition{7, 80}, StreamPosition{7, 70}, b)
	move(StreamPosition{7, 80}, StreamPosition{7, 20}) // and before it
	check(StreamPosition{7, 20}, StreamPosition{7, 20}, b)
	move(StreamPosition{7, 20}, StreamPosition{9, 0}) // made anew
	check(StreamPosition{9, 0}, StreamPosition{9, 0}, b)
}
