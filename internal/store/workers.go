package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// WorkerTotals is what one process did in one life, by its own words. Counts only grow.
type WorkerTotals struct {
	Service, Location, Instance            string
	StartedAt                              time.Time
	Performed, Successful, Failed, Samples int64
	IntervalSeconds, LastDurationSeconds   float64
	LastRun                                time.Time // zero: it finished no cycle
}

// Later merges two words of one process: counts only grow, and the newer cycle is the last.
func (t WorkerTotals) Later(other WorkerTotals) WorkerTotals {
	if other.LastRun.After(t.LastRun) {
		t.LastRun, t.IntervalSeconds, t.LastDurationSeconds = other.LastRun, other.IntervalSeconds, other.LastDurationSeconds
	}
	t.Performed, t.Successful = max(t.Performed, other.Performed), max(t.Successful, other.Successful)
	t.Failed, t.Samples = max(t.Failed, other.Failed), max(t.Samples, other.Samples)
	return t
}

// SaveWorkerTotals writes down what processes said. It may be said in any order, twice, and by several at once.
func (s *Store) SaveWorkerTotals(ctx context.Context, totals []WorkerTotals) error {
	if len(totals) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	// In one order, so that replicas that write the same wait for each other and never in a circle.
	slices.SortFunc(totals, func(a, b WorkerTotals) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Location, b.Location), cmp.Compare(a.Instance, b.Instance),
			a.StartedAt.Compare(b.StartedAt))
	})
	batch := &pgx.Batch{}
	for _, t := range totals {
		batch.Queue(`
			INSERT INTO worker_totals AS w (service, location, instance, started_at, performed, successful, failed, samples,
			    interval_seconds, last_run, last_duration_seconds)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			ON CONFLICT (service, location, instance, started_at) DO UPDATE SET
			    performed = greatest(w.performed, excluded.performed), successful = greatest(w.successful, excluded.successful),
			    failed = greatest(w.failed, excluded.failed), samples = greatest(w.samples, excluded.samples),
			    interval_seconds = CASE WHEN excluded.last_run >= coalesce(w.last_run, '-infinity') THEN excluded.interval_seconds ELSE w.interval_seconds END,
			    last_duration_seconds = CASE WHEN excluded.last_run >= coalesce(w.last_run, '-infinity') THEN excluded.last_duration_seconds ELSE w.last_duration_seconds END,
			    last_run = greatest(w.last_run, excluded.last_run), heard_at = clock_timestamp()`,
			t.Service, t.Location, t.Instance, t.StartedAt, t.Performed, t.Successful, t.Failed, t.Samples, t.IntervalSeconds,
			toNull(t.LastRun), t.LastDurationSeconds)
	}
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("save figures of workers: %w", err)
	}
	return nil
}

// WorkerTotals returns what every process did, merged ones as one of no instance.
func (s *Store) WorkerTotals(ctx context.Context) ([]WorkerTotals, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT service, location, instance, started_at, performed, successful, failed, samples,
		interval_seconds, last_run, last_duration_seconds FROM worker_totals`)
	if err != nil {
		return nil, fmt.Errorf("read figures of workers: %w", err)
	}
	totals, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (WorkerTotals, error) {
		var (
			t    WorkerTotals
			last *time.Time
		)
		err := row.Scan(&t.Service, &t.Location, &t.Instance, &t.StartedAt, &t.Performed, &t.Successful, &t.Failed, &t.Samples,
			&t.IntervalSeconds, &last, &t.LastDurationSeconds)
		t.StartedAt, t.LastRun = t.StartedAt.UTC(), fromNull(last)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("read figures of workers: %w", err)
	}
	return totals, nil
}

// MergeWorkerTotals adds the figures of processes that were not heard of for keep to one row of each service and
// location, so that the table does not grow for ever. keep must be longer than anybody remembers a dead process, or its
// figures would be added twice.
func (s *Store) MergeWorkerTotals(ctx context.Context, keep time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		WITH gone AS (
		    DELETE FROM worker_totals WHERE instance <> '' AND heard_at < clock_timestamp() - $1::interval RETURNING *)
		INSERT INTO worker_totals AS w (service, location, instance, started_at, performed, successful, failed, samples)
		SELECT service, location, '', 'epoch', sum(performed), sum(successful), sum(failed), sum(samples)
		FROM gone GROUP BY service, location ORDER BY service, location
		ON CONFLICT (service, location, instance, started_at) DO UPDATE SET
		    performed = w.performed + excluded.performed, successful = w.successful + excluded.successful,
		    failed = w.failed + excluded.failed, samples = w.samples + excluded.samples`, keep)
	if err != nil {
		return fmt.Errorf("merge figures of workers: %w", err)
	}
	return nil
}
