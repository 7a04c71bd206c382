package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// checkID is the n-th check of these tests.
func checkID(n int) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	id[6], id[8] = 0x70, id[8]|0x80
	return id
}

// outcome is a healthy result of the n-th check.
func outcome(n int, at time.Time) Result {
	return Result{
		CheckID: checkID(n), Location: "local", ScheduledAt: at.UTC().Truncate(time.Millisecond),
		Status: picketv1.Status_STATUS_HEALTHY, Latency: 1234 * time.Microsecond, HTTPStatus: 200,
		StartedAt: at.UTC().Truncate(time.Millisecond).Add(3 * time.Millisecond), Instance: "test-1", Revision: 1,
		StreamEpoch: 1_700_000_000_000_000_000, StreamSeq: int64(n),
		Org: "default", Server: fmt.Sprintf("server-%d", n), Check: "health", Kind: "http",
	}
}

// ticks is one tick of n checks, not in key order.
func ticks(n int, at time.Time) []Result {
	rows := make([]Result, 0, n)
	for i := range n {
		rows = append(rows, outcome(n-i, at))
	}
	return rows
}

func missed(row Result, until time.Time) Result {
	row.Status, row.Missed, row.MissedUntil = picketv1.Status_STATUS_UNKNOWN, true, until
	row.Reason, row.StartedAt, row.Latency, row.HTTPStatus = "missed", time.Time{}, 0, 0
	return row
}

func write(t testing.TB, w *ResultWriter, rows []Result) Written {
	t.Helper()
	written, err := w.Write(t.Context(), rows, false)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

func count(t testing.TB, s *Store) int {
	t.Helper()
	return query[int](t, s, `SELECT count(*) FROM server_health_checks`)
}

func TestWriteKeepsEveryColumn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	at := time.Now().UTC().Truncate(time.Millisecond)
	row := outcome(1, at)
	row.Status, row.Reason, row.Message = picketv1.Status_STATUS_CRITICAL, "http_503", "Wartung — später"
	row.OnDemand, row.ConnectionReused = true, true
	row.HTTPStatus, row.Revision = 503, 7
	row.CertificateNotAfter = at.Add(720 * time.Hour)
	row.Details = []byte(`{"counters":{"rows":1.5}}`)

	// The two ways into the table encode the same row by different code.
	const all = `SELECT row_to_json(t)::jsonb - 'check_id' FROM server_health_checks t WHERE check_id = $1`
	write(t, s.NewResultWriter(), []Result{row})
	other := row
	other.CheckID = checkID(2)
	if _, err := s.NewResultWriter().Write(t.Context(), []Result{other}, true); err != nil {
		t.Fatal(err)
	}
	copied, upserted := query[string](t, s, all, row.CheckID), query[string](t, s, all, other.CheckID)
	if copied != upserted {
		t.Errorf("COPY and upsert differ:\n%s\n%s", copied, upserted)
	}
	for _, want := range []string{
		`"status": 3`, `"latency_us": 1234`, `"http_status": 503`, `"message": "Wartung — später"`, `"rows": 1.5`,
		`"on_demand": true`, `"connection_reused": true`, `"missed": false`, `"revision": 7`, `"missed_until": null`,
		`"stream_epoch": 1700000000000000000`, `"instance": "test-1"`, `"location": "local"`, `"org": "default"`,
	} {
		if !strings.Contains(copied, want) {
			t.Errorf("row lacks %s:\n%s", want, copied)
		}
	}
	read, err := s.History(t.Context(), HistoryQuery{CheckID: row.CheckID, From: at, To: at.Add(time.Second), Limit: 10})
	if err != nil || len(read) != 1 {
		t.Fatal(read, err)
	}
	// jsonb keeps the value, not its spelling; an on-demand result alone names nothing.
	row.Server, row.Check, row.Kind, row.Details = "", "", "", []byte(`{"counters": {"rows": 1.5}}`)
	if diff := cmp.Diff(row, read[0]); diff != "" {
		t.Errorf("read back, -want +got\n%s", diff)
	}
	var scheduled, started, ends time.Time
	err = s.pool.QueryRow(t.Context(), `SELECT scheduled_at, started_at, certificate_not_after FROM server_health_checks
		WHERE check_id = $1`, row.CheckID).Scan(&scheduled, &started, &ends)
	if err != nil || !scheduled.Equal(row.ScheduledAt) || !started.Equal(row.StartedAt) || !ends.Equal(row.CertificateNotAfter) {
		t.Errorf("times %v %v %v (%v), want %v %v %v", scheduled, started, ends, err, row.ScheduledAt, row.StartedAt, row.CertificateNotAfter)
	}
}

func TestViewSpeaksWords(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	write(t, s.NewResultWriter(), []Result{outcome(1, time.Now())})
	got := query[string](t, s, `SELECT concat_ws(' ', org, server, check_name, location, status, latency_ms::float8)
		FROM v_server_health_checks`)
	if want := "default server-1 health local healthy 1.234"; got != want {
		t.Errorf("view says %q, want %q", got, want)
	}
}

func TestWriteTwice(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	now := time.Now()
	first := ticks(100, now)
	if got := write(t, w, first); got.Rows != 100 || got.Duplicates != 0 {
		t.Fatalf("first %+v", got)
	}
	second := ticks(150, now)
	for i := range second {
		second[i].Reason = "second"
	}
	// Also twice within the batch.
	second = append(second, second[0])
	if got := write(t, w, second); got.Rows != 50 || got.Duplicates != 101 {
		t.Errorf("half duplicate batch: %+v, want 50 rows and 101 duplicates", got)
	}
	if n := query[int](t, s, `SELECT count(*) FROM server_health_checks WHERE reason = 'second'`); n != 50 {
		t.Errorf("%d rows of the second batch, want 50: a committed real outcome stays", n)
	}
	if got, err := w.Write(t.Context(), first, true); err != nil || got.Duplicates != 100 {
		t.Errorf("redelivered: %+v, %v", got, err)
	}
}

func TestMissedMarkers(t *testing.T) {
	t.Parallel()
	at := time.Now().UTC().Truncate(time.Minute)
	until := at.Add(5 * time.Minute)
	real1, real2 := outcome(1, at), outcome(1, at)
	real2.Reason = "second"
	marker, span := missed(outcome(1, at), time.Time{}), missed(outcome(1, at), until)
	for name, test := range map[string]struct {
		rows   []Result
		missed bool
		reason string
		until  time.Time
	}{
		"real then marker":          {[]Result{real1, marker}, false, "", time.Time{}},
		"marker then real":          {[]Result{marker, real1}, false, "", time.Time{}},
		"real then real":            {[]Result{real1, real2}, false, "", time.Time{}},
		"marker then span":          {[]Result{marker, span}, true, "missed", until},
		"span then marker":          {[]Result{span, marker}, true, "missed", until},
		"span then real":            {[]Result{span, real1}, false, "", until},
		"real then span":            {[]Result{real1, span}, false, "", until},
		"span, real, real":          {[]Result{span, real1, real2}, false, "", until},
		"marker, span, real, again": {[]Result{marker, span, real1, span}, false, "", until},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, one := range []bool{true, false} {
				s := newStore(t)
				w := s.NewResultWriter()
				for part := range slices.Chunk(test.rows, map[bool]int{true: 1, false: len(test.rows)}[one]) {
					write(t, w, part)
				}
				if n := count(t, s); n != 1 {
					t.Fatalf("%d rows, want 1", n)
				}
				var (
					gotMissed bool
					gotReason string
					gotUntil  *time.Time
				)
				err := s.pool.QueryRow(t.Context(), `SELECT missed, reason, missed_until FROM server_health_checks`).
					Scan(&gotMissed, &gotReason, &gotUntil)
				if err != nil {
					t.Fatal(err)
				}
				if gotMissed != test.missed || gotReason != test.reason {
					t.Errorf("missed %v %q, want %v %q", gotMissed, gotReason, test.missed, test.reason)
				}
				if (gotUntil == nil) != test.until.IsZero() || gotUntil != nil && !gotUntil.Equal(test.until) {
					t.Errorf("missed until %v, want %v", gotUntil, test.until)
				}
			}
		})
	}
}

func TestWriteMakesPartitions(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	march := time.Date(2026, 3, 31, 23, 59, 59, 0, time.UTC)
	rows := append(ticks(10, march), ticks(10, march.Add(2*time.Second))...)
	write(t, s.NewResultWriter(), rows)
	for name, want := range map[string]int{"server_health_checks_2026_03": 10, "server_health_checks_2026_04": 10} {
		if got := query[int](t, s, `SELECT count(*) FROM `+name); got != want {
			t.Errorf("%s has %d rows, want %d", name, got, want)
		}
	}
}

func TestEnsurePartitions(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	now := time.Date(2026, 11, 30, 23, 59, 0, 0, time.FixedZone("east", 3600))
	before, err := s.Partitions(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(before))
	for _, p := range before {
		names = append(names, p.Name)
		if p.Present {
			t.Errorf("%s is there already", p.Name)
		}
	}
	var want []string
	for _, table := range []string{
		"server_health_checks", "server_metrics_aggregated", "system_metrics",
		"server_metrics_5m_stored", "server_metrics_1h_stored", "server_metrics_1d_stored", "system_metrics_hourly_stored",
	} {
		want = append(want, table+"_2026_11", table+"_2026_12", table+"_2027_01")
	}
	if !slices.Equal(names, want) {
		t.Fatalf("partitions %v, want %v", names, want)
	}
	// A reader in a long transaction does not hold it up, and calls at once take turns.
	reader, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(t.Context())
	if _, err := reader.Exec(t.Context(), `SELECT count(*) FROM server_health_checks`); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := s.EnsurePartitions(t.Context(), now); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	after, err := s.Partitions(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range after {
		if !p.Present {
			t.Errorf("%s is missing", p.Name)
		}
	}
}

func TestBisect(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	rows := ticks(200, time.Now())
	rows[3].Message = "zero \x00 byte"
	rows[77].Details = []byte(`{"text":"\u0000"}`)
	rows[150].Status = 9
	written := write(t, s.NewResultWriter(), rows)
	if written.Rows != 197 || count(t, s) != 197 {
		t.Errorf("%d rows reported, %d there, want 197", written.Rows, count(t, s))
	}
	var refused []int
	for _, r := range written.Refused {
		refused = append(refused, r.Row)
		if Classify(r.Err) != Data {
			t.Errorf("row %d: class %v of %v, want data", r.Row, Classify(r.Err), r.Err)
		}
	}
	slices.Sort(refused)
	if !slices.Equal(refused, []int{3, 77, 150}) {
		t.Errorf("refused %v, want [3 77 150]", refused)
	}
	if n := query[int](t, s, `SELECT count(*) FROM check_states`); n != 197 {
		t.Errorf("%d states, want 197: a refused row makes none", n)
	}
}

// TestWritersTogether lets writers commit overlapping batches, in opposite order, as after a redelivery.
func TestWritersTogether(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const writers, rounds, checks = 3, 10, 300
	start := time.Now().Truncate(time.Second)
	var group sync.WaitGroup
	for n := range writers {
		group.Go(func() {
			w := s.NewResultWriter()
			for round := range rounds {
				rows := ticks(checks, start.Add(time.Duration(round)*time.Second))
				for i := range rows {
					if (i+n+round)%3 == 0 {
						rows[i].Status, rows[i].Reason = picketv1.Status_STATUS_CRITICAL, "http_500"
					}
				}
				if n%2 == 1 {
					slices.Reverse(rows)
				}
				if _, err := w.Write(t.Context(), rows, round%2 == 1); err != nil {
					t.Error(err)
				}
				if err := w.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := count(t, s); n != rounds*checks {
		t.Errorf("%d rows, want %d", n, rounds*checks)
	}
	if n := query[int](t, s, `SELECT count(*) FROM check_states WHERE scheduled_at = $1`, start.Add((rounds-1)*time.Second)); n != checks {
		t.Errorf("%d states at the last tick, want %d", n, checks)
	}
	if n := query[int](t, s, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for sql, want := range map[string]Class{
		`SELECT 1/0`:      Data,
		`SELECT 'x'::int`: Data,
		`INSERT INTO organizations (slug) VALUES ('default')`: Conflict,
		`INSERT INTO organizations (slug) VALUES ('worker')`:  Data,
		`INSERT INTO organizations (slug) VALUES (NULL)`:      Data,
		`SELECT nonsense`: Unknown,
		`SELECT pg_terminate_backend(pg_backend_pid())`: Unavailable,
		`SET statement_timeout = 1; SELECT pg_sleep(5)`: Unavailable,
	} {
		conn, err := s.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Conn().PgConn().Exec(t.Context(), sql).ReadAll()
		if got := Classify(err); got != want {
			t.Errorf("%s: %v for %v, want %v", sql, got, err, want)
		}
		_ = conn.Conn().Close(t.Context())
		conn.Release()
	}
	if got := Classify(fmt.Errorf("x: %w", ErrUnknownOutcome)); got != Unavailable {
		t.Errorf("unknown outcome is %v", got)
	}
	if got := Classify(errors.New("x")); got != Unknown {
		t.Errorf("an error of nobody is %v", got)
	}
}

// A read that comes after its COPY has ended, as pgconn's does when the connection is lost, takes nothing from the next.
func TestCopyReaderIsDetached(t *testing.T) {
	t.Parallel()
	encoder := &copyEncoder{buf: []byte(copyHeader)}
	late := &copyReader{encoder: encoder}
	late.detach()
	next := &copyReader{encoder: encoder}
	if n, err := late.Read(make([]byte, 100)); n != 0 || err == nil {
		t.Errorf("late read: %d bytes, %v", n, err)
	}
	piece := make([]byte, 100)
	if n, err := next.Read(piece); err != nil || string(piece[:n])[:len(copyHeader)] != copyHeader {
		t.Errorf("next read: %q, %v", piece[:n], err)
	}
}
