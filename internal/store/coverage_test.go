package store

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// addCheck puts a server with one check into the catalog, due each interval at the locations from an instant on.
func addCheck(t testing.TB, s *Store, n int, interval time.Duration, from time.Time, locations ...string) CheckInfo {
	t.Helper()
	name := fmt.Sprintf("server-%d", n)
	server := query[uuid.UUID](t, s, `INSERT INTO managed_servers (org, name, managed_by) VALUES ('default', $1, 'api')
		ON CONFLICT (org, name) DO UPDATE SET revision = managed_servers.revision RETURNING id`, name)
	checks := query[int](t, s, `SELECT count(*) FROM checks WHERE server_id = $1`, server)
	check := "health"
	if checks > 0 {
		check = fmt.Sprintf("check-%d", checks)
	}
	id := query[uuid.UUID](t, s, `INSERT INTO checks (server_id, revision, interval_ms, timeout_ms, name, kind, locations, spec)
		VALUES ($1, 1, $2, 1, $3, 'http', $4, '{}') RETURNING id`, server, interval.Milliseconds(), check, locations)
	schedule(t, s, id, 1, interval, from, locations...)
	info, err := s.FindCheck(t.Context(), "default", name, check)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func schedule(t testing.TB, s *Store, id uuid.UUID, revision int, interval time.Duration, from time.Time, locations ...string) {
	t.Helper()
	exec(t, s, `INSERT INTO check_schedules (check_id, revision, interval_ms, effective_at, locations) VALUES ($1, $2, $3, $4, $5)`,
		id, revision, interval.Milliseconds(), from, locations)
}

// due are the results of every due tick of a check at a location, in order.
func due(info CheckInfo, location string, from, to time.Time) []Result {
	var rows []Result
	for at, revision := range info.At(location).Due(info.Serial, location, from.UnixMilli(), to.UnixMilli()) {
		row := outcome(1, time.UnixMilli(at))
		row.CheckID, row.Location, row.Server, row.Check = info.ID, location, info.Server, info.Name
		row.Revision = int32(revision)
		rows = append(rows, row)
	}
	return rows
}

func TestCoverage(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	from := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	to := from.Add(10 * time.Minute)
	a := addCheck(t, s, 1, 30*time.Second, from.Add(-time.Hour), "east", "west")
	// From the middle on only at one place, and less often.
	schedule(t, s, a.ID, 2, time.Minute, from.Add(5*time.Minute), "east")
	b := addCheck(t, s, 2, 10*time.Second, from.Add(-time.Hour), "west")
	// Removed: never due any more.
	schedule(t, s, b.ID, 2, 0, from.Add(time.Minute), "west")
	a, _ = s.FindCheck(t.Context(), "default", "server-1", "health")
	b, _ = s.FindCheck(t.Context(), "default", "server-2", "health")

	east, west, other := due(a, "east", from, to), due(a, "west", from, to), due(b, "west", from, to)
	if len(east) != 15 || len(west) != 10 || len(other) != 6 {
		t.Fatalf("due %d, %d, %d, want 15, 10, 6", len(east), len(west), len(other))
	}
	east[3] = missed(east[3], time.Time{}) // one marker
	east[3].Reason = "clock"
	span := missed(due(a, "west", from.Add(-2*time.Minute), from)[1], west[2].ScheduledAt) // begins before the window
	span.Reason = "dropped"
	undue := other[0]
	undue.ScheduledAt = undue.ScheduledAt.Add(time.Second)
	onDemand := undue
	onDemand.ScheduledAt, onDemand.OnDemand = undue.ScheduledAt.Add(time.Second), true

	write(t, w, east[:14]) // the last one is nowhere
	write(t, w, slices.Concat(west[3:], []Result{span}))
	write(t, w, []Result{other[0], other[1], other[5], undue, onDemand}) // 2, 3 and 4 fell into a hole of the stream
	err := s.RecordGap(t.Context(), StreamGap{
		Stream: "PICKET_EVENTS", Consumer: "writer", StreamEpoch: 1, FromSeq: 5, ToSeq: 9, Reason: "overrun",
		From: other[2].ScheduledAt, To: other[4].ScheduledAt,
	})
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		filter CoverageFilter
		want   Coverage
	}{
		{CoverageFilter{Server: "server-1", Location: "east"}, Coverage{Due: 15, Seen: 13, Missed: 2, Unexplained: 1, Explained: map[string]int64{"clock": 1}}},
		{CoverageFilter{Server: "server-1", Location: "west"}, Coverage{Due: 10, Seen: 7, Missed: 3, Explained: map[string]int64{"dropped": 3}}},
		{CoverageFilter{Server: "server-2"}, Coverage{Due: 6, Seen: 3, Missed: 3, Undue: 1, Explained: map[string]int64{"stream_overrun": 3}}},
		{CoverageFilter{Org: "default"}, Coverage{Due: 31, Seen: 23, Missed: 8, Unexplained: 1, Undue: 1, Explained: map[string]int64{"clock": 1, "dropped": 3, "stream_overrun": 3}}},
		{CoverageFilter{Org: "nobody"}, Coverage{}},
	} {
		got, findings, err := s.Audit(t.Context(), test.filter, from, to, 10)
		if err != nil {
			t.Fatal(err)
		}
		if got.Due != test.want.Due || got.Seen != test.want.Seen || got.Missed != test.want.Missed ||
			got.Unexplained != test.want.Unexplained || got.Undue != test.want.Undue || !maps.Equal(got.Explained, test.want.Explained) {
			t.Errorf("%+v: %+v, want %+v", test.filter, got, test.want)
		}
		if len(findings) != int(test.want.Unexplained+test.want.Undue) {
			t.Errorf("%+v: findings %+v", test.filter, findings)
		}
		for _, finding := range findings {
			want, server := undue.ScheduledAt, "server-2"
			if !finding.Undue {
				want, server = east[14].ScheduledAt, "server-1"
			}
			if !finding.At.Equal(want) || finding.Server != server {
				t.Errorf("finding %+v, want %v of %s", finding, want, server)
			}
		}
	}
}

func TestLastResult(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	if at, err := s.LastResult(t.Context(), checkID(1), "local", time.Now()); err != nil || !at.IsZero() {
		t.Errorf("without results: %v, %v", at, err)
	}
	at := time.Now().UTC().Truncate(time.Second)
	write(t, w, []Result{outcome(1, at), missed(outcome(1, at.Add(time.Second)), at.Add(9*time.Second))})
	for until, want := range map[time.Duration]time.Duration{0: 0, time.Second: 9 * time.Second, time.Hour: 9 * time.Second} {
		if got, err := s.LastResult(t.Context(), checkID(1), "local", at.Add(until)); err != nil || !got.Equal(at.Add(want)) {
			t.Errorf("last up to %v: %v, %v, want %v", until, got, err, at.Add(want))
		}
	}
}

func TestServersFollow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	at := time.Now().UTC().Truncate(time.Second)
	first := addCheck(t, s, 1, time.Minute, at, "local")
	second := addCheck(t, s, 1, time.Minute, at, "local")
	disabled := addCheck(t, s, 1, time.Minute, at, "local")
	exec(t, s, `UPDATE checks SET enabled = false WHERE id = $1`, disabled.ID)
	w := s.NewResultWriter()

	row := func(info CheckInfo, status picketv1.Status, at time.Time) Result {
		row := outcome(1, at)
		row.CheckID, row.Check, row.Status = info.ID, info.Name, status
		row.Missed = status == picketv1.Status_STATUS_UNKNOWN
		return row
	}
	for i, test := range []struct {
		first, second picketv1.Status
		want          string
		seen          bool
	}{
		{picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_HEALTHY, "healthy", true},
		{picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_UNKNOWN, "healthy", true},
		{picketv1.Status_STATUS_DEGRADED, picketv1.Status_STATUS_HEALTHY, "degraded", true},
		{picketv1.Status_STATUS_UNREACHABLE, picketv1.Status_STATUS_DEGRADED, "unreachable", true},
		{picketv1.Status_STATUS_UNREACHABLE, picketv1.Status_STATUS_CRITICAL, "critical", true},
		{picketv1.Status_STATUS_UNREACHABLE, picketv1.Status_STATUS_UNREACHABLE, "unreachable", false},
		{picketv1.Status_STATUS_UNKNOWN, picketv1.Status_STATUS_UNKNOWN, "unknown", false},
	} {
		now := at.Add(time.Duration(i) * time.Minute)
		before := query[*time.Time](t, s, `SELECT last_seen_at FROM managed_servers`)
		write(t, w, []Result{
			row(first, test.first, now), row(second, test.second, now), row(disabled, picketv1.Status_STATUS_CRITICAL, now),
		})
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query[string](t, s, `SELECT health_status FROM managed_servers`); got != test.want {
			t.Errorf("%v and %v make %s, want %s", test.first, test.second, got, test.want)
		}
		seen := query[*time.Time](t, s, `SELECT last_seen_at FROM managed_servers`)
		if moved := before == nil || !seen.Equal(*before); moved != test.seen {
			t.Errorf("%v and %v: last_seen_at moved %v, want %v", test.first, test.second, moved, test.seen)
		}
	}
	looked := query[time.Time](t, s, `SELECT last_health_check_at FROM managed_servers`)
	if want := at.Add(5 * time.Minute); !looked.Equal(want) {
		t.Errorf("last_health_check_at %v, want %v: an unknown is no look", looked, want)
	}
}

// The rate is that of the newest schedules: what was removed or slowed down does not count any more.
func TestDueRate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	rate := func() float64 {
		t.Helper()
		perSecond, err := s.DueRate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return perSecond
	}
	if got := rate(); got != 0 {
		t.Errorf("%v a second with nothing to do", got)
	}
	every := func(d time.Duration, locations ...string) func(*catalog.Server) {
		return func(s *catalog.Server) { s.Checks[0].Interval, s.Checks[0].Locations = d, locations }
	}
	a := declared(catalog.SourceFile, "a", every(10*time.Second, "eu", "us"))
	b := declared(catalog.SourceFile, "b", every(4*time.Second, "eu"))
	become(t, s, catalog.SourceFile, a, b)
	if got, want := rate(), 0.45; math.Abs(got-want) > 1e-9 {
		t.Errorf("%v a second, want %v", got, want)
	}
	become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", every(20*time.Second, "eu")))
	if got, want := rate(), 0.05; math.Abs(got-want) > 1e-9 {
		t.Errorf("%v a second after a removal, want %v", got, want)
	}
}

// Ticks are whole milliseconds, the spans that people ask for are not: a tick is within one or it is not, for the schedule as
// for the rows.
func TestCoverageBetweenMilliseconds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	info := addCheck(t, s, 1, 10*time.Second, start.Add(-time.Hour), "local")
	rows := due(info, "local", start, start.Add(time.Minute))
	write(t, s.NewResultWriter(), rows)
	first, last := rows[1].ScheduledAt, rows[4].ScheduledAt
	for _, test := range []struct {
		from, to time.Time
		want     int64
	}{
		{first, last, 3},
		{first.Add(time.Microsecond), last, 2},
		{first.Add(999 * time.Microsecond), last, 2},
		{first.Add(-time.Microsecond), last, 3},
		{first, last.Add(time.Nanosecond), 4},
		{first, last.Add(-time.Microsecond), 3},
	} {
		got, findings, err := s.Audit(t.Context(), CoverageFilter{}, test.from, test.to, 10)
		if err != nil {
			t.Fatal(err)
		}
		if got.Due != test.want || got.Seen != test.want || len(findings) > 0 {
			t.Errorf("from %s to %s: due %d, seen %d, %+v, want %d of both", test.from, test.to, got.Due, got.Seen, findings, test.want)
		}
	}
}
