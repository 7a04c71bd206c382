package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// RetentionLease is the lease under which [Store.Expire] runs.
const RetentionLease = "retention"

// Retention says how many days things are kept.
type Retention struct {
	Results             int // server_health_checks
	Metrics             int // server_metrics_aggregated
	Metrics5m           int // server_metrics_5m
	Metrics1h           int // server_metrics_1h
	Metrics1d           int // server_metrics_1d
	SystemMetrics       int // system_metrics
	SystemMetricsHourly int // system_metrics_hourly
	Alerts              int // closed alerts and their events
	Gaps                int // stream_gaps
	Audit               int // audit_log
}

// DefaultRetention returns the defaults, which are those of a new database.
func DefaultRetention() Retention {
	return Retention{
		Results: 400, Metrics: 90, Metrics5m: 400, Metrics1h: 800, Metrics1d: 1830,
		SystemMetrics: 7, SystemMetricsHourly: 400, Alerts: 400, Gaps: 400, Audit: 90,
	}
}

// LeastRetention is the least number of days that anything may be kept: late rows must not arrive where nothing is kept
// any more, and roll-ups reach back for four days.
const LeastRetention = 5

// series are the tables that expire as a whole stretch of time: the relation that TimescaleDB has a policy on, the
// partitioned table of plain mode, and the days.
func (r Retention) series() []struct {
	relation, table string
	days            int
} {
	return []struct {
		relation, table string
		days            int
	}{
		{resultsTable, resultsTable, r.Results},
		{metricsTable, metricsTable, r.Metrics},
		{"server_metrics_5m_sums", "server_metrics_5m_stored", r.Metrics5m},
		{"server_metrics_1h_sums", "server_metrics_1h_stored", r.Metrics1h},
		{"server_metrics_1d_sums", "server_metrics_1d_stored", r.Metrics1d},
		{samplesTable, samplesTable, r.SystemMetrics},
		{"system_metrics_hourly", "system_metrics_hourly_stored", r.SystemMetricsHourly},
	}
}

const (
	// expireRows is how many rows one transaction deletes.
	expireRows = 2000
	// expireBatches bounds one run; the next goes on.
	expireBatches = 500
	// dropWait is how long dropping a month waits for whoever uses its table. Everyone else waits behind it.
	dropWait = "200ms"
)

// expiries delete what is not in months, oldest first; $1 is the instant before which it goes, $2 how many at most. Only
// a closed alert has closed_at, and nothing opens it again; its events go with it.
func (r Retention) expiries() []struct {
	what string
	days int
	sql  string
} {
	return []struct {
		what string
		days int
		sql  string
	}{
		{"alerts", r.Alerts, `
			WITH old AS (
			    SELECT id FROM system_alerts WHERE state = 'closed' AND closed_at < $1
			    ORDER BY closed_at LIMIT $2 FOR UPDATE SKIP LOCKED),
			events AS (DELETE FROM alert_events USING old WHERE alert_id = old.id)
			DELETE FROM system_alerts a USING old WHERE a.id = old.id AND a.state = 'closed'`},
		{"stream gaps", r.Gaps, `DELETE FROM stream_gaps WHERE id IN (
			SELECT id FROM stream_gaps WHERE to_time < $1 ORDER BY to_time LIMIT $2 FOR UPDATE SKIP LOCKED)`},
		{"audit entries", r.Audit, `DELETE FROM audit_log WHERE id IN (
			SELECT id FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)`},
	}
}

// Expire removes what is older than its retention, in short transactions of which none makes a writer wait for longer
// than a fifth of a second. In plain mode time series go by whole months: the last day of a month decides. On
// TimescaleDB their policies are made to say the same. It may run at any time; what it does not get done, the next run
// does. The error matches [ErrLeaseLost] when another process has taken over the lease, which must be RetentionLease.
func (s *Store) Expire(ctx context.Context, lease Lease, keep Retention, now time.Time) error {
	mode, err := s.Mode(ctx)
	if err != nil {
		return err
	}
	var faults []error
	if mode == ModeTimescale {
		faults = append(faults, s.keepPolicies(ctx, lease, keep))
	} else {
		for _, series := range keep.series() {
			faults = append(faults, s.dropMonths(ctx, lease, series.table, now.AddDate(0, 0, -series.days)))
		}
	}
	for _, e := range keep.expiries() {
		faults = append(faults, s.deleteOld(ctx, lease, e.what, e.sql, now.AddDate(0, 0, -e.days)))
	}
	return errors.Join(faults...)
}

// dropMonths drops the months of a table that ended before an instant. Tables that do not have our names are not ours.
func (s *Store) dropMonths(ctx context.Context, lease Lease, table string, before time.Time) error {
	names, err := s.monthsOf(ctx, table)
	if err != nil {
		return err
	}
	for _, name := range names {
		month, err := time.Parse(table+"_2006_01", name)
		if err != nil || partitionOf(table, month).To.After(before) {
			continue
		}
		err = InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
			if err := holdLease(ctx, tx, lease); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+dropWait+`'`); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(partitionLock)); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+pgx.Identifier{name}.Sanitize())
			return err
		})
		if err != nil {
			return fmt.Errorf("drop month %s: %w", name, err)
		}
		s.log.InfoContext(ctx, "month older than its retention dropped", "partition", name)
	}
	return nil
}

func (s *Store) monthsOf(ctx context.Context, table string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass($1) ORDER BY 1`, table)
	if err != nil {
		return nil, fmt.Errorf("list months of %s: %w", table, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list months of %s: %w", table, err)
	}
	return names, nil
}

func (s *Store) deleteOld(ctx context.Context, lease Lease, what, sql string, before time.Time) error {
	total := int64(0)
	for range expireBatches {
		var n int64
		err := retried(ctx, s, func(ctx context.Context, tx pgx.Tx) error {
			if err := holdLease(ctx, tx, lease); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+dropWait+`'`); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, sql, before, expireRows)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return fmt.Errorf("delete %s: %w", what, err)
		}
		if n == 0 {
			break
		}
		total += n
	}
	if total > 0 {
		s.log.InfoContext(ctx, "rows older than their retention deleted", "what", what, "rows", total)
	}
	return nil
}

// keepPolicies makes TimescaleDB's retention policies say what the settings say.
func (s *Store) keepPolicies(ctx context.Context, lease Lease, keep Retention) error {
	for _, series := range keep.series() {
		after := fmt.Sprintf("%d days", series.days)
		err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
			if err := holdLease(ctx, tx, lease); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+dropWait+`'`); err != nil {
				return err
			}
			// A policy on a continuous aggregate is one on the hypertable that holds it.
			tag, err := tx.Exec(ctx, `
				SELECT alter_job(j.job_id, config => jsonb_set(j.config, '{drop_after}', to_jsonb($2::text)))
				FROM timescaledb_information.jobs j
				LEFT JOIN timescaledb_information.continuous_aggregates c ON c.materialization_hypertable_name = j.hypertable_name
				WHERE j.proc_name = 'policy_retention' AND coalesce(c.view_name, j.hypertable_name) = $1
				  AND (j.config ->> 'drop_after')::interval <> $2::interval`, series.relation, after)
			if err != nil {
				return err
			}
			if tag.RowsAffected() > 0 {
				s.log.InfoContext(ctx, "retention policy changed", "table", series.relation, "keep", after)
				return nil
			}
			// One that somebody removed comes back.
			_, err = tx.Exec(ctx, `SELECT add_retention_policy($1::regclass, $2::text::interval, if_not_exists => true)`, series.relation, after)
			return err
		})
		if err != nil {
			return fmt.Errorf("retention policy of %s: %w", series.relation, err)
		}
	}
	return nil
}
