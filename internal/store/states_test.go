package store

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

type stateSeen struct {
	status      string
	scheduled   time.Time
	since       time.Time
	checkedSeen string
}

func readState(t testing.TB, s *Store) stateSeen {
	t.Helper()
	var got stateSeen
	err := s.pool.QueryRow(t.Context(), `SELECT status, scheduled_at, since, concat(checked_at, ' ', seen_at)
		FROM v_check_states`).Scan(&got.status, &got.scheduled, &got.since, &got.checkedSeen)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestStatesGoWithTheBatch(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	at := time.Now().UTC().Truncate(time.Second)
	step := func(i int, status picketv1.Status) Result {
		row := outcome(1, at.Add(time.Duration(i)*time.Second))
		row.Status = status
		return row
	}
	healthy, critical := picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_CRITICAL

	write(t, w, []Result{step(0, healthy)})
	write(t, w, []Result{step(1, healthy)})
	if got := readState(t, s); !got.scheduled.Equal(at) {
		t.Errorf("an unchanged status was written with the batch: %+v", got)
	}
	write(t, w, []Result{step(2, healthy), step(3, critical)})
	if got := readState(t, s); got.status != "critical" || !got.since.Equal(at.Add(3*time.Second)) {
		t.Errorf("a changed status was not written with the batch: %+v", got)
	}
	write(t, w, []Result{step(4, critical)})
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := readState(t, s); !got.scheduled.Equal(at.Add(4*time.Second)) || !got.since.Equal(at.Add(3*time.Second)) {
		t.Errorf("after the flush: %+v", got)
	}
	// Old news, from this writer, from one that knows nothing, and from one that read the states.
	fresh, loaded := s.NewResultWriter(), s.NewResultWriter()
	if newest, err := loaded.LoadStates(t.Context()); err != nil || !newest.At.Equal(at.Add(4*time.Second)) || newest.Seq != 1 {
		t.Errorf("loaded up to %+v, %v", newest, err)
	}
	before := readState(t, s)
	for i, old := range []*ResultWriter{w, fresh, loaded} {
		row := step(1, healthy)
		row.Location, row.Reason = "local", fmt.Sprint(i)
		late := row
		late.ScheduledAt = row.ScheduledAt.Add(time.Duration(i+1) * time.Millisecond)
		write(t, old, []Result{late})
		if err := old.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := readState(t, s); got.status != before.status || !got.scheduled.Equal(before.scheduled) {
			t.Errorf("old news moved the state back: %+v, was %+v", got, before)
		}
	}
	// A person's look is history, not the state.
	ask := step(9, healthy)
	ask.OnDemand = true
	write(t, w, []Result{ask})
	if got := readState(t, s); got.status != "critical" {
		t.Errorf("an on-demand result changed the state to %s", got.status)
	}
}

// TestStatesOnlyForward lets several writers store the results of one check in any order and in any batches: the row
// ends at the newest outcome, and never went back.
func TestStatesOnlyForward(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	at := time.Now().UTC().Truncate(time.Second)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		n := rapid.IntRange(1, 12).Draw(rt, "results")
		rows := make([]Result, 0, 2*n)
		for i := range n {
			row := outcome(round, at.Add(time.Duration(i/2)*time.Second))
			row.Status = picketv1.Status(rapid.IntRange(1, 4).Draw(rt, "status"))
			if rapid.Bool().Draw(rt, "missed") {
				row = missed(row, time.Time{})
			}
			rows = append(rows, row)
		}
		writers := []*ResultWriter{s.NewResultWriter(), s.NewResultWriter()}
		var last stateRow
		for _, row := range rapid.Permutation(rows).Draw(rt, "order") {
			w := writers[rapid.IntRange(0, 1).Draw(rt, "writer")]
			if _, err := w.Write(t.Context(), []Result{row}, rapid.Bool().Draw(rt, "redelivered")); err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "flush") {
				if err := w.Flush(t.Context()); err != nil {
					rt.Fatal(err)
				}
			}
			now := stateOf(rt, s, t, round)
			if last.newer(&now) {
				rt.Fatalf("state went back from %v to %v", last, now)
			}
			last = now
		}
		for _, w := range writers {
			if err := w.Flush(t.Context()); err != nil {
				rt.Fatal(err)
			}
		}
		newest := slices.MaxFunc(rows, func(a, b Result) int {
			return cmp.Or(a.ScheduledAt.Compare(b.ScheduledAt), cmp.Compare(outcomes(&a), outcomes(&b)))
		})
		got := stateOf(rt, s, t, round)
		if !got.scheduledAt.Equal(newest.ScheduledAt) || got.missed != newest.Missed {
			rt.Fatalf("state at %v missed %v, want %v missed %v", got.scheduledAt, got.missed, newest.ScheduledAt, newest.Missed)
		}
	})
}

func outcomes(r *Result) int {
	if r.Missed {
		return 0
	}
	return 1
}

func stateOf(rt *rapid.T, s *Store, t *testing.T, n int) stateRow {
	var row stateRow
	err := s.pool.QueryRow(t.Context(), `SELECT scheduled_at, missed FROM check_states WHERE check_id = $1`, checkID(n)).
		Scan(&row.scheduledAt, &row.missed)
	if err != nil {
		rt.Fatal(err)
	}
	return row
}

func TestStatesAreBounded(t *testing.T) {
	t.Parallel()
	known := newStates()
	known.limit = 100
	for i := range 1000 {
		row := outcome(i, time.Now())
		known.commit(known.fold([]batchRow{newBatchRow(&row, 0)}))
		if len(known.known) > 100 {
			t.Fatalf("%d states known, limit 100", len(known.known))
		}
	}
}

// TestForeignResultsAreRefused: the first result of a tick stays, so that one sent for another organization's check would
// take the place of what its own prober saw.
func TestForeignResultsAreRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	at := time.Now().UTC().Truncate(time.Second)
	own := func(i int) Result { return outcome(1, at.Add(time.Duration(i)*time.Second)) }
	write(t, w, []Result{own(0)})
	forged := own(1)
	forged.Org = "other"
	written, err := w.Write(t.Context(), []Result{own(2), forged, own(3)}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(written.Refused) != 1 || written.Refused[0].Row != 1 || !errors.Is(written.Refused[0].Err, ErrForeign) || written.Rows != 2 || written.Duplicates != 0 {
		t.Errorf("%+v", written)
	}
	if written, err := w.Write(t.Context(), []Result{forged}, true); err != nil || len(written.Refused) != 1 || written.Rows != 0 {
		t.Errorf("%+v, %v", written, err)
	}
	if written := write(t, w, []Result{own(1)}); written.Rows != 1 {
		t.Errorf("its own result of that tick: %+v", written)
	}
	if n := query[int](t, s, `SELECT count(*) FROM server_health_checks WHERE org = 'other'`); n != 0 {
		t.Errorf("%d forged rows", n)
	}
}

// TestStatesOfATimeTakenBack: a state that was written while the stream's clock was ahead gives way as soon as that is
// right again, and not when the time has come; what is redelivered late moves nothing back.
func TestStatesOfATimeTakenBack(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	known, stranger := s.NewResultWriter(), s.NewResultWriter()
	now := time.Now().UTC().Truncate(time.Millisecond)
	one := ticks(1, now)[0]
	at := func(seq int64, scheduled, received time.Time) Result {
		r := one
		r.ScheduledAt, r.StreamEpoch, r.StreamSeq, r.Received = scheduled, 1, seq, received
		return r
	}
	state := func() (scheduled, seen time.Time) {
		t.Helper()
		err := s.pool.QueryRow(t.Context(), `SELECT scheduled_at, seen_at FROM check_states`).Scan(&scheduled, &seen)
		if err != nil {
			t.Fatal(err)
		}
		return scheduled, seen
	}
	for name, w := range map[string]*ResultWriter{"the writer that wrote it": known, "another": stranger} {
		exec(t, s, `DELETE FROM check_states`)
		ahead := now.Add(time.Hour)
		write(t, known, []Result{at(10, ahead, ahead)})
		if err := known.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		write(t, w, []Result{at(11, now, now)})
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if scheduled, seen := state(); !scheduled.Equal(now) || !seen.Equal(now) {
			t.Errorf("%s: the state is of %s, seen %s, want %s", name, scheduled, seen, now)
		}
		write(t, w, []Result{at(9, now.Add(-10*time.Minute), now.Add(-10*time.Minute))})
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if scheduled, _ := state(); !scheduled.Equal(now) {
			t.Errorf("%s: what was redelivered moved the state to %s", name, scheduled)
		}
	}
}

// TestStatesFlushedInParts: each part moves a share of the servers, all checks of a server together, and all parts move
// everything.
func TestStatesFlushedInParts(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	at := time.Now().UTC().Truncate(time.Second)
	const servers, parts = 40, 4
	for tick := range 2 { // the first makes the rows, the second is for the flush
		var rows []Result
		for i := range servers {
			health := outcome(i, at.Add(time.Duration(tick)*time.Minute))
			disk := health
			disk.CheckID, disk.Check = checkID(servers+i), "disk"
			rows = append(rows, health, disk)
		}
		write(t, w, rows)
	}
	var moved []string
	for part := range parts {
		if err := w.FlushPart(t.Context(), part, parts); err != nil {
			t.Fatal(err)
		}
		now := query[string](t, s, `SELECT coalesce(string_agg(DISTINCT server, ' '), '') FROM check_states WHERE scheduled_at > $1`, at)
		if halves := query[int](t, s, `SELECT count(*) FROM (SELECT FROM check_states GROUP BY server
			HAVING count(DISTINCT scheduled_at) > 1) halves`); halves > 0 {
			t.Errorf("part %d: of %d servers only one check has moved", part, halves)
		}
		moved = append(moved, now)
		if n := len(strings.Fields(now)); n < servers/parts/3*(part+1) {
			t.Errorf("after part %d only %d servers have moved", part, n)
		}
		if n := len(strings.Fields(now)); part < parts-1 && n > servers-servers/parts/3 {
			t.Errorf("after part %d already %d servers have moved", part, n)
		}
	}
	if n := len(strings.Fields(moved[parts-1])); n != servers {
		t.Errorf("%d servers have moved, not %d", n, servers)
	}
	if left := w.states.pending(0, 1); len(left) > 0 {
		t.Errorf("%d states are still to be moved", len(left))
	}
}
