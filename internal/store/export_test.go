package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

const exportLease = time.Hour

func newExport(t testing.TB, s *Store, change ...func(*NewExport)) Export {
	t.Helper()
	n := NewExport{Org: "default", Type: "health_checks", CreatedBy: "tester"}
	for _, f := range change {
		f(&n)
	}
	e, err := s.CreateExport(t.Context(), n, Idempotency{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func claimExport(t testing.TB, s *Store, id uuid.UUID) ExportClaim {
	t.Helper()
	claim, err := s.ClaimExport(t.Context(), id, "one", exportLease, 3)
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

// lapse lets the lease of an export run out.
func lapse(t testing.TB, s *Store, id uuid.UUID) {
	t.Helper()
	exec(t, s, `UPDATE export_jobs SET lease_until = clock_timestamp() - interval '1 ms' WHERE id = $1`, id)
}

func exportStatus(t testing.TB, s *Store, id uuid.UUID) string {
	t.Helper()
	e, err := s.Export(t.Context(), "default", id)
	if err != nil {
		t.Fatal(err)
	}
	return e.Status
}

func TestExportLife(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := newExport(t, s, func(n *NewExport) {
		n.Format, n.Compression, n.CallbackURL = "ndjson", "zstd", "https://example.org/done"
	})
	if e.Status != ExportPending || e.Key != e.ID.String()+".ndjson.zst" || !e.ExpiresAt.IsZero() {
		t.Errorf("made %+v", e)
	}
	claim := claimExport(t, s, e.ID)
	if claim.Attempt != 1 || claim.Export.Status != ExportProcessing || claim.Export.StartedAt.IsZero() {
		t.Errorf("claimed %+v", claim)
	}
	var busy *ExportBusyError
	if _, err := s.ClaimExport(t.Context(), e.ID, "two", exportLease, 3); !errors.As(err, &busy) || busy.For <= 0 || busy.For > exportLease {
		t.Errorf("claimed what another holds: %v", err)
	}
	if err := s.RenewExport(t.Context(), claim, exportLease, 42); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Export(t.Context(), "default", e.ID); got.ProgressRows != 42 {
		t.Errorf("progress %d, want 42", got.ProgressRows)
	}
	committed := false
	if err := s.CommitExport(t.Context(), claim, time.Minute, exportLease, func(context.Context) error { committed = true; return nil }); err != nil || !committed {
		t.Fatal(committed, err)
	}
	result := ExportResult{Rows: 50, Bytes: 1000, SHA256: "abcd"}
	for range 2 { // the second time stands for an outcome that was not known
		if err := s.CompleteExport(t.Context(), claim, result, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Export(t.Context(), "default", e.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != ExportCompleted || got.Rows != 50 || got.Bytes != 1000 || got.SHA256 != "abcd" || got.CallbackState != CallbackPending {
		t.Errorf("completed %+v", got)
	}
	if keep := got.ExpiresAt.Sub(got.CompletedAt); keep != time.Hour {
		t.Errorf("kept for %v after completion, want 1h", keep)
	}
	if _, err := s.ClaimExport(t.Context(), e.ID, "two", exportLease, 3); !errors.Is(err, ErrExportState) {
		t.Errorf("claimed a completed one: %v", err)
	}

	// The time is over: it reads so before anybody looks after it.
	if _, err := s.CancelExport(t.Context(), "default", e.ID, nil); err != nil {
		t.Fatal(err)
	}
	if status := exportStatus(t, s, e.ID); status != ExportExpired {
		t.Errorf("status %s after the end of its time", status)
	}
	broken := errors.New("store is away")
	if _, err := s.ExpireExport(t.Context(), func(context.Context, Export) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if raw := query[string](t, s, `SELECT status FROM export_jobs`); raw != ExportCompleted {
		t.Errorf("row says %s though its object is there", raw)
	}
	removed := ""
	if found, err := s.ExpireExport(t.Context(), func(_ context.Context, e Export) error { removed = e.Key; return nil }); err != nil || !found || removed != e.Key {
		t.Error(found, err, removed)
	}
	if found, err := s.ExpireExport(t.Context(), func(context.Context, Export) error { return nil }); err != nil || found {
		t.Error("expired twice", err)
	}
	if got, want := phases(t, s), []string{"requested", "work", "started", "completed", "expired"}; !slices.Equal(got, want) {
		t.Errorf("outbox has %v, want %v", got, want)
	}
}

// phases relays the outbox and says what was in it.
func phases(t testing.TB, s *Store) []string {
	t.Helper()
	var all []string
	_, err := s.RelayExports(t.Context(), 1000, func(_ context.Context, rows []ExportOutbox) error {
		for _, row := range rows {
			all = append(all, row.Phase)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A process that was stopped past its lease can do nothing any more, whatever it does next.
func TestExportFence(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := newExport(t, s)
	stale := claimExport(t, s, e.ID)
	lapse(t, s, e.ID)
	fresh := claimExport(t, s, e.ID)
	if fresh.Attempt != 2 {
		t.Fatalf("attempt %d, want 2", fresh.Attempt)
	}
	if err := s.RenewExport(t.Context(), stale, exportLease, 1); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("renewed: %v", err)
	}
	err := s.CommitExport(t.Context(), stale, time.Minute, exportLease, func(context.Context) error { t.Error("object committed"); return nil })
	if !errors.Is(err, ErrLeaseLost) {
		t.Errorf("committed: %v", err)
	}
	if err := s.CompleteExport(t.Context(), stale, ExportResult{SHA256: "stale"}, time.Hour); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("completed: %v", err)
	}
	if _, err := s.EndAttempt(t.Context(), stale, AttemptEnd{Error: "late", MaxTries: 3}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("ended: %v", err)
	}
	if err := s.CompleteExport(t.Context(), fresh, ExportResult{SHA256: "fresh"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.CompleteExport(t.Context(), stale, ExportResult{SHA256: "fresh"}, time.Hour); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("completed after the other: %v", err)
	}
}

// While an object is put in its place nobody can begin a new attempt, and a process that is stopped in the midst of it
// keeps others out for no longer than the time-out.
func TestExportCommitHoldsTheRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := newExport(t, s)
	claim := claimExport(t, s, e.ID)
	const timeout = 2 * time.Second
	inside, result := make(chan struct{}), make(chan error, 1)
	stopped := make(chan struct{})
	go func() {
		// A stopped process sees no deadline: so neither does this one.
		result <- s.CommitExport(t.Context(), claim, timeout, exportLease, func(context.Context) error {
			close(inside)
			<-stopped
			return nil
		})
	}()
	<-inside
	exec(t, s, `SELECT 1`)
	started := time.Now()
	_, err := s.CancelExport(t.Context(), "default", e.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(started); waited < timeout/2 || waited > 4*timeout {
		t.Errorf("waited %v for the row, want about %v", waited, timeout)
	}
	close(stopped)
	if err := <-result; err == nil {
		t.Error("the commit of a process that was stopped went well")
	}
}

func TestExportTries(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := newExport(t, s, func(n *NewExport) { n.CallbackURL = "https://example.org/" })
	end := func(claim ExportClaim, end AttemptEnd) string {
		end.MaxTries = 3
		status, err := s.EndAttempt(t.Context(), claim, end)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	for range 5 { // a stop of the service costs no try
		if status := end(claimExport(t, s, e.ID), AttemptEnd{Error: "stopped", Uncounted: true}); status != ExportPending {
			t.Fatal(status)
		}
	}
	if status := end(claimExport(t, s, e.ID), AttemptEnd{Error: "no room"}); status != ExportPending {
		t.Fatal(status)
	}
	claimExport(t, s, e.ID)
	lapse(t, s, e.ID)
	claimExport(t, s, e.ID)
	lapse(t, s, e.ID)
	// Three tries are gone, two without a word: whoever looks first says so.
	if _, err := s.ClaimExport(t.Context(), e.ID, "two", exportLease, 3); !errors.Is(err, ErrExportState) {
		t.Fatal(err)
	}
	got, err := s.Export(t.Context(), "default", e.ID)
	if err != nil || got.Status != ExportFailed || got.Error != "gave up: 3 attempts ended without a result; last: no room" ||
		got.CallbackState != CallbackPending {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.RetryExport(t.Context(), "default", e.ID, nil); err != nil {
		t.Fatal(err)
	}
	claim := claimExport(t, s, e.ID)
	if claim.Attempt != 9 || claim.Export.Error != "" || claim.Export.CallbackState != CallbackNone {
		t.Errorf("retried %+v", claim)
	}
	if status := end(claim, AttemptEnd{Error: "bad row", Final: true}); status != ExportFailed {
		t.Error(status)
	}
	if got, _ := s.Export(t.Context(), "default", e.ID); got.Error != "bad row" {
		t.Errorf("error %q", got.Error)
	}
}

func TestExportSweepFindsTheStuck(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	stuck, spent, lost, fine, held := newExport(t, s), newExport(t, s), newExport(t, s), newExport(t, s), newExport(t, s)
	claimExport(t, s, stuck.ID)
	claimExport(t, s, spent.ID)
	claimExport(t, s, held.ID)
	lapse(t, s, stuck.ID)
	lapse(t, s, spent.ID)
	exec(t, s, `UPDATE export_jobs SET tries = 3 WHERE id = $1`, spent.ID)
	requeue := func(lost time.Duration) map[uuid.UUID]Requeued {
		found, err := s.RequeueExports(t.Context(), lost, 3)
		if err != nil {
			t.Fatal(err)
		}
		byID := map[uuid.UUID]Requeued{}
		for _, r := range found {
			byID[r.ID] = r
		}
		return byID
	}
	want := map[uuid.UUID]Requeued{
		stuck.ID: {ID: stuck.ID, Owner: "one", Attempt: 1}, spent.ID: {ID: spent.ID, Owner: "one", Attempt: 1, Failed: true},
	}
	if diff := cmp.Diff(want, requeue(time.Nanosecond)); diff != "" {
		t.Errorf("work that was never queued was lost, or: %s", diff)
	}
	for id, want := range map[uuid.UUID]string{
		stuck.ID: ExportPending, spent.ID: ExportFailed, held.ID: ExportProcessing, fine.ID: ExportPending,
	} {
		if got := exportStatus(t, s, id); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	phases(t, s) // everything is queued now
	exec(t, s, `UPDATE export_jobs SET queued_at = clock_timestamp() - interval '1 hour' WHERE id = $1`, lost.ID)
	if diff := cmp.Diff(map[uuid.UUID]Requeued{lost.ID: {ID: lost.ID}}, requeue(time.Minute)); diff != "" {
		t.Error(diff)
	}
	if got := phases(t, s); !slices.Equal(got, []string{"work"}) {
		t.Errorf("outbox has %v", got)
	}
	if again := requeue(time.Minute); len(again) > 0 {
		t.Errorf("requeued again: %v", again)
	}
}

func TestExportSettled(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := newExport(t, s)
	none := func(context.Context, Export) error { t.Error("called"); return nil }
	if _, err := s.SettleExport(t.Context(), 0, none); err != nil {
		t.Fatal(err)
	}
	if err := s.WithExportLocked(t.Context(), e.ID, none); !errors.Is(err, ErrExportState) {
		t.Errorf("an export that waits is not over: %v", err)
	}
	if err := s.WithExportLocked(t.Context(), uuid.New(), none); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.CancelExport(t.Context(), "default", e.ID, nil); err != nil {
		t.Fatal(err)
	}
	if found, err := s.SettleExport(t.Context(), time.Hour, none); err != nil || found {
		t.Error("settled before the time of grace", err)
	}
	seen := 0
	for range 2 {
		if _, err := s.SettleExport(t.Context(), 0, func(context.Context, Export) error { seen++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if seen != 1 {
		t.Errorf("settled %d times", seen)
	}
	if n, err := s.ForgetExports(t.Context(), time.Hour); err != nil || n != 0 {
		t.Error(n, err)
	}
	if n, err := s.ForgetExports(t.Context(), 0); err != nil || n != 1 {
		t.Error(n, err)
	}
}

func TestExportIdempotency(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := NewExport{Org: "default", Type: "alerts", CreatedBy: "me", Filters: ExportFilters{Severity: []string{"critical"}}}
	once := Idempotency{Org: "default", Key: "k1", Fingerprint: sha256.Sum256([]byte("critical"))}
	first, err := s.CreateExport(t.Context(), n, once, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.CreateExport(t.Context(), n, once, nil)
	if replay, ok := errors.AsType[*ReplayError](err); !ok || replay.Resource != first.ID.String() {
		t.Errorf("second request: %v", err)
	}
	once.Fingerprint = sha256.Sum256([]byte("warning"))
	if _, err := s.CreateExport(t.Context(), n, once, nil); !errors.Is(err, ErrKeyReused) {
		t.Errorf("the key of another request: %v", err)
	}
	// A request that was refused has used up nothing.
	once.Key, n.Filters.Servers = "k2", []string{"nobody"}
	if _, err := s.CreateExport(t.Context(), n, once, nil); !errors.As(err, new(Faults)) {
		t.Fatal(err)
	}
	n.Filters.Servers = nil
	if _, err := s.CreateExport(t.Context(), n, once, nil); err != nil {
		t.Error(err)
	}
	if n := query[int](t, s, `SELECT count(*) FROM export_jobs`); n != 2 {
		t.Errorf("%d exports, want 2", n)
	}
}

func TestExportsAreTheirOrganizations(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	exec(t, s, `INSERT INTO organizations (slug) VALUES ('acme')`)
	e := newExport(t, s)
	for name, do := range map[string]func() error{
		"read":   func() error { _, err := s.Export(t.Context(), "acme", e.ID); return err },
		"cancel": func() error { _, err := s.CancelExport(t.Context(), "acme", e.ID, nil); return err },
		"retry":  func() error { _, err := s.RetryExport(t.Context(), "acme", e.ID, nil); return err },
	} {
		if err := do(); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := s.Exports(t.Context(), ExportQuery{Org: "acme", Limit: 10}); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

func TestExportList(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var want []uuid.UUID
	for range 5 {
		want = append(want, newExport(t, s).ID)
	}
	slices.Reverse(want)
	exec(t, s, `UPDATE export_jobs SET created_at = '2026-01-01' WHERE id = ANY ($1)`, want[3:]) // the same instant
	slices.SortFunc(want[3:], func(a, b uuid.UUID) int { return -slices.Compare(a[:], b[:]) })
	var got []uuid.UUID
	q := ExportQuery{Org: "default", Limit: 2}
	for {
		page, err := s.Exports(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			got = append(got, e.ID)
		}
		last := page[len(page)-1]
		q.Before, q.BeforeID = last.CreatedAt, last.ID
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExportRelay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newExport(t, s)
	broken := errors.New("nats is away")
	if _, err := s.RelayExports(t.Context(), 10, func(context.Context, []ExportOutbox) error { return broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	_, err := s.RelayExports(t.Context(), 10, func(ctx context.Context, rows []ExportOutbox) error {
		if len(rows) != 2 {
			t.Errorf("%d rows", len(rows))
		}
		// Another process must not send what this one is about to.
		n, err := s.RelayExports(ctx, 10, func(context.Context, []ExportOutbox) error { t.Error("two at a time"); return nil })
		if n != 0 {
			t.Errorf("relayed %d", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if left := phases(t, s); len(left) > 0 {
		t.Errorf("left in the outbox: %v", left)
	}
}

func TestExportCallbackState(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := newExport(t, s, func(n *NewExport) { n.CallbackURL = "https://example.org/" })
	if _, found, err := s.ClaimCallback(t.Context(), time.Hour); err != nil || found {
		t.Error("due before the end", err)
	}
	if _, err := s.EndAttempt(t.Context(), claimExport(t, s, e.ID), AttemptEnd{Error: "bad", Final: true, MaxTries: 3}); err != nil {
		t.Fatal(err)
	}
	due, found, err := s.ClaimCallback(t.Context(), time.Hour)
	if err != nil || !found || due.CallbackAttempts != 1 {
		t.Fatal(due, found, err)
	}
	if _, found, _ := s.ClaimCallback(t.Context(), time.Hour); found {
		t.Error("two at a time")
	}
	if err := s.EndCallback(t.Context(), due, "refused", time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	second, found, err := s.ClaimCallback(t.Context(), time.Hour)
	if err != nil || !found || second.CallbackAttempts != 2 || second.CallbackError != "refused" {
		t.Fatal(second, found, err)
	}
	if err := s.EndCallback(t.Context(), due, "late", 0); err != nil { // the first one's word comes too late
		t.Fatal(err)
	}
	if err := s.EndCallback(t.Context(), second, "", 0); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Export(t.Context(), "default", e.ID); got.CallbackState != CallbackDelivered || got.CallbackError != "" {
		t.Errorf("%+v", got)
	}
}
