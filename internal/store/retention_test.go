package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
)

func leaseOf(t testing.TB, s *Store, name string) Lease {
	t.Helper()
	lease, err := s.AcquireLease(t.Context(), name, "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func TestExpiredMonthsGo(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	w := s.NewResultWriter()
	now := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	lease := leaseOf(t, s, RetentionLease)
	// 400 days before lies in October 2025.
	write(t, w, ticks(5, time.Date(2025, 9, 30, 23, 0, 0, 0, time.UTC)))
	write(t, w, ticks(5, time.Date(2025, 10, 1, 1, 0, 0, 0, time.UTC)))
	for _, table := range partitioned() {
		for _, month := range []time.Time{now, now.AddDate(0, -1, 0), now.AddDate(-6, 0, 0)} {
			if err := s.makePartition(t.Context(), partitionOf(table, month)); err != nil {
				t.Fatal(err)
			}
		}
	}
	exec(t, s, `CREATE TABLE server_health_checks_2020_01_kept AS SELECT * FROM server_health_checks`)
	// Who writes and reads is not held up: a month that is in use stays until the next run.
	reader, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), `SELECT count(*) FROM server_health_checks`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.Expire(t.Context(), lease, DefaultRetention(), now); Classify(err) != Retry {
		t.Errorf("while its table is read: %v, want a lock that was not had", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("waited %v for a reader", took)
	}
	if n := count(t, s); n != 10 {
		t.Errorf("%d rows while the table is read, want all 10", n)
	}
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(t.Context(), lease, DefaultRetention(), now); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s); n != 5 {
		t.Errorf("%d rows, want the 5 of October", n)
	}
	if n := query[int](t, s, `SELECT count(*) FROM server_health_checks_2020_01_kept`); n != 10 {
		t.Errorf("a table that is no partition has %d rows, want 10", n)
	}
	for _, table := range partitioned() {
		names, err := s.monthsOf(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		has := map[string]bool{}
		for _, name := range names {
			has[name] = true
		}
		// System metrics are kept for a week: of them October is gone too.
		october := table != samplesTable
		if !has[partitionOf(table, now).Name] || has[partitionOf(table, now.AddDate(-6, 0, 0)).Name] || has[partitionOf(table, now.AddDate(0, -1, 0)).Name] != october {
			t.Errorf("%s has %v", table, names)
		}
	}
}

// TestExpireRows: what is not in months goes in batches, and nothing that is not closed ever does.
func TestExpireRows(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lease := leaseOf(t, s, RetentionLease)
	now := time.Now()
	old, young := now.AddDate(0, 0, -401), now.AddDate(0, 0, -399)
	const many = expireRows + 10
	alert := func(state string, closed any, n int) {
		exec(t, s, `
			WITH a AS (
			    INSERT INTO system_alerts (id, since, pending_at, closed_at, trigger_count, org, fingerprint, kind, severity, state,
			        server, check_name, location, reason, summary, details)
			    SELECT gen_random_uuid(), $1, $1, $3, 1, 'default', $2 || i, 'k', 'critical', $2, 's', 'c', 'l', '', '', '{}'
			    FROM generate_series(1, $4) i RETURNING id)
			INSERT INTO alert_events (event_id, alert_id, at, stream_epoch, stream_seq, org, transition, state, kind, severity, reason, summary, evidence)
			SELECT gen_random_uuid(), id, $1, 1, 1, 'default', 'x', $2, 'k', 'critical', '', '', '{}' FROM a, generate_series(1, 2)`,
			old, state, closed, n)
	}
	alert("closed", old, many)
	alert("closed", young, 3)
	for _, state := range []string{"pending", "open", "acknowledged"} {
		alert(state, nil, 4)
	}
	for i, to := range []time.Time{old, young} {
		gap := StreamGap{Stream: "x", Consumer: "y", FromSeq: int64(i), ToSeq: int64(i), From: to, To: to, Reason: "overrun"}
		if err := s.RecordGap(t.Context(), gap); err != nil {
			t.Fatal(err)
		}
	}
	// A closed alert that somebody holds is nobody's obstacle; it goes with the next run.
	alert("closed", old.Add(-time.Hour), 1)
	holder, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), `SELECT FROM system_alerts WHERE closed_at = $1 FOR UPDATE`, old.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(t.Context(), lease, DefaultRetention(), now); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, s, `SELECT count(*) FROM system_alerts WHERE state = 'closed'`); n != 4 {
		t.Errorf("%d closed alerts, want the 3 young ones and the one that is held", n)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(t.Context(), lease, DefaultRetention(), now); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, s, `SELECT count(*) FROM system_alerts WHERE state = 'closed'`); n != 3 {
		t.Errorf("%d closed alerts, want the 3 young ones", n)
	}
	if n := query[int](t, s, `SELECT count(*) FROM system_alerts WHERE state <> 'closed'`); n != 12 {
		t.Errorf("%d active alerts, want all 12, however old", n)
	}
	if n := query[int](t, s, `SELECT count(*) FROM alert_events`); n != 2*15 {
		t.Errorf("%d events, want those of 15 alerts", n)
	}
	if n := query[int](t, s, `SELECT count(*) FROM stream_gaps`); n != 1 {
		t.Errorf("%d gaps, want the young one", n)
	}
	if _, err := s.AcquireLease(t.Context(), "other", "test", time.Hour); err != nil {
		t.Fatal(err)
	}
	lost := lease
	lost.Owner = uuid.NewString()
	if err := s.Expire(t.Context(), lost, DefaultRetention(), now); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("without the lease: %v, want ErrLeaseLost", err)
	}
}

// TestRetentionPolicies: on TimescaleDB the policies follow the settings, and a policy that was removed comes back.
func TestRetentionPolicies(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	needTimescale(t, s)
	lease := leaseOf(t, s, RetentionLease)
	days := func() map[string]string {
		found := map[string]string{}
		rows, err := s.pool.Query(t.Context(), `
			SELECT coalesce(c.view_name, j.hypertable_name), (j.config ->> 'drop_after')::interval::text
			FROM timescaledb_information.jobs j
			LEFT JOIN timescaledb_information.continuous_aggregates c ON c.materialization_hypertable_name = j.hypertable_name
			WHERE j.proc_name = 'policy_retention'`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var relation, after string
			if err := rows.Scan(&relation, &after); err != nil {
				t.Fatal(err)
			}
			found[relation] = after
		}
		return found
	}
	check := func(when string, keep Retention) {
		t.Helper()
		got := days()
		for _, series := range keep.series() {
			if want := fmt.Sprintf("%d days", series.days); got[series.relation] != want {
				t.Errorf("%s: %s is kept for %q, want %q", when, series.relation, got[series.relation], want)
			}
		}
	}
	check("new database", DefaultRetention())
	keep := Retention{Results: 30, Metrics: 31, Metrics5m: 32, Metrics1h: 33, Metrics1d: 34, SystemMetrics: 35, SystemMetricsHourly: 36, Alerts: 37, Gaps: 38, Audit: 39}
	for range 2 {
		if err := s.Expire(t.Context(), lease, keep, time.Now()); err != nil {
			t.Fatal(err)
		}
		check("after a change", keep)
		exec(t, s, `SELECT remove_retention_policy('server_metrics_1h_sums')`)
		exec(t, s, `SELECT remove_retention_policy('system_metrics')`)
	}
}
