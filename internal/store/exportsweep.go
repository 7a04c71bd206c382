package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Requeued is an export that the sweep found without anybody making it.
type Requeued struct {
	ID uuid.UUID
	// Owner and Attempt are of the attempt that ended without a word; none when there was no work item.
	Owner   string
	Attempt int
	// Failed: it had its last try.
	Failed bool
}

// RequeueExports puts back into the queue what a process left that ended without a word, and what has waited for longer
// than lost since its work item was queued (zero: none are looked for). It returns what it did.
func (s *Store) RequeueExports(ctx context.Context, lost time.Duration, maxTries int) ([]Requeued, error) {
	var found []Requeued
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, lease_owner, attempt, tries, tries >= $1 FROM export_jobs
			WHERE status = 'PROCESSING' AND lease_until < clock_timestamp() FOR UPDATE SKIP LOCKED`, maxTries)
		if err != nil {
			return err
		}
		var tries []int
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Requeued, error) {
			var r Requeued
			var n int
			err := row.Scan(&r.ID, &r.Owner, &r.Attempt, &n, &r.Failed)
			tries = append(tries, n)
			return r, err
		})
		if err != nil {
			return err
		}
		for i, r := range found {
			if r.Failed {
				err = failExport(ctx, tx, r.ID, gaveUp(tries[i]))
			} else {
				_, err = tx.Exec(ctx, `
					UPDATE export_jobs SET status = 'PENDING', work = work + 1, lease_until = NULL, queued_at = NULL,
					    error = 'attempt ' || attempt || ' of ' || lease_owner || ' ended without a word'
					WHERE id = $1`, r.ID)
			}
			if err != nil {
				return err
			}
		}
		if lost <= 0 {
			return nil
		}
		rows, err = tx.Query(ctx, `
			UPDATE export_jobs e SET work = work + 1, queued_at = NULL WHERE id IN (
			    SELECT id FROM export_jobs p
			    WHERE status = 'PENDING' AND queued_at < clock_timestamp() - $1::interval
			      AND NOT EXISTS (SELECT FROM export_outbox o WHERE o.export_id = p.id AND o.phase = 'work')
			    FOR UPDATE SKIP LOCKED)
			RETURNING id`, lost)
		if err != nil {
			return err
		}
		queued, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		for _, id := range queued {
			found = append(found, Requeued{ID: id})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("requeue exports: %w", err)
	}
	return found, nil
}

// ExpireExport takes one export whose time is over: remove, which deletes its object, is called first, and when that went
// well the row becomes EXPIRED. It reports false when there was none.
func (s *Store) ExpireExport(ctx context.Context, remove func(ctx context.Context, e Export) error) (bool, error) {
	found, err := s.withExport(ctx, `status = 'COMPLETED' AND expires_at <= clock_timestamp() ORDER BY expires_at`,
		`status = 'EXPIRED', swept_at = NULL`, nil, remove)
	if err != nil {
		return found, fmt.Errorf("expire export: %w", err)
	}
	return found, nil
}

// SettleExport takes one export that has been over for longer than grace and was not looked at since: clean makes sure that
// nothing unfinished of it is left in the store, and no object when it is not COMPLETED. Nobody can begin a new attempt
// meanwhile. It reports false when there was none.
func (s *Store) SettleExport(ctx context.Context, grace time.Duration, clean func(ctx context.Context, e Export) error) (bool, error) {
	found, err := s.withExport(ctx, `swept_at IS NULL AND status IN ('COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED')
		AND completed_at < clock_timestamp() - $1::interval ORDER BY completed_at`, `swept_at = clock_timestamp()`, []any{grace}, clean)
	if err != nil {
		return found, fmt.Errorf("settle export: %w", err)
	}
	return found, nil
}

// WithExportLocked calls do with an export that is over, while nobody can begin a new attempt at it. The error matches
// [ErrNotFound] when there is none of that id, and [ErrExportState] when it is not over.
func (s *Store) WithExportLocked(ctx context.Context, id uuid.UUID, do func(ctx context.Context, e Export) error) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+exportColumns+` FROM export_jobs WHERE id = $1 FOR UPDATE`, id)
		if err != nil {
			return err
		}
		export, err := oneExport(rows)
		if err != nil {
			return err
		}
		if export.Status == ExportPending || export.Status == ExportProcessing {
			return fmt.Errorf("%w: %s", ErrExportState, export.Status)
		}
		return do(ctx, export)
	})
	if err != nil {
		return fmt.Errorf("hold export %s: %w", id, err)
	}
	return nil
}

// withExport locks the first export that is picked, calls do, and sets what is to be set.
func (s *Store) withExport(
	ctx context.Context, picked, set string, args []any, do func(ctx context.Context, e Export) error,
) (found bool, err error) {
	err = InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+exportColumns+` FROM export_jobs WHERE `+picked+` LIMIT 1 FOR UPDATE SKIP LOCKED`, args...)
		if err != nil {
			return err
		}
		export, err := oneExport(rows)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		if err := do(ctx, export); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE export_jobs SET `+set+` WHERE id = $1`, export.ID)
		return err
	})
	return found, err
}

// ForgetExports deletes rows of exports that were over, and settled, before an instant, and returns how many.
func (s *Store) ForgetExports(ctx context.Context, age time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
		DELETE FROM export_jobs WHERE status IN ('FAILED', 'CANCELED', 'EXPIRED') AND completed_at < clock_timestamp() - $1::interval
		  AND swept_at IS NOT NULL AND callback_state <> 'pending'`, age)
	if err != nil {
		return 0, fmt.Errorf("forget exports: %w", err)
	}
	return tag.RowsAffected(), nil
}

// ExportStates counts the exports that are not over, and those that are stuck: PROCESSING behind their lease.
func (s *Store) ExportStates(ctx context.Context) (pending, processing, stuck int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE status = 'PENDING'), count(*) FILTER (WHERE status = 'PROCESSING'),
		       count(*) FILTER (WHERE status = 'PROCESSING' AND lease_until < clock_timestamp())
		FROM export_jobs WHERE status IN ('PENDING', 'PROCESSING')`).Scan(&pending, &processing, &stuck)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("count exports: %w", err)
	}
	return pending, processing, stuck, nil
}

// ExportKeys returns, of exports by id, the key of the object that each has or may yet have; nothing of one that is over
// without an object.
func (s *Store) ExportKeys(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]string, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT id, file_path FROM export_jobs WHERE id = ANY ($1) AND status IN ('PENDING', 'PROCESSING', 'COMPLETED')`, ids)
	if err != nil {
		return nil, fmt.Errorf("read keys of exports: %w", err)
	}
	keys := map[uuid.UUID]string{}
	var id uuid.UUID
	var key string
	_, err = pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		keys[id] = key
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read keys of exports: %w", err)
	}
	return keys, nil
}

// EndStaleReads ends the sessions that read for attempts which nobody holds any more, and returns how many. A process that
// was stopped, or a machine that is frozen, would else keep its snapshot, and with it every row that died since, for ever:
// while the server waits for the reader to take a row, no time-out of its own ends the session.
func (s *Store) EndStaleReads(ctx context.Context) (ended int, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid, 1000)) FROM pg_stat_activity a
		WHERE a.datname = current_database() AND a.usename = current_user AND starts_with(a.application_name, $1)
		  AND NOT EXISTS (SELECT FROM export_jobs e WHERE e.status = 'PROCESSING' AND e.lease_until > clock_timestamp()
		                  AND a.application_name = $1 || e.id::text || '/' || e.attempt::text)`, exportReader).Scan(&ended)
	if err != nil {
		return 0, fmt.Errorf("end stale reads of exports: %w", err)
	}
	return ended, nil
}
