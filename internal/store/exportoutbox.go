package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ExportPhaseWork is the phase of an outbox row that is a work item and no event.
const ExportPhaseWork = "work"

// ExportOutbox is a row to publish.
type ExportOutbox struct {
	ID          int64
	At          time.Time
	ExportID    uuid.UUID
	Org         string
	Phase       string // requested, started, completed, failed, canceled, expired; or ExportPhaseWork
	Type        string
	Format      string
	Rows, Bytes int64
	// Work counts the work items of the export.
	Work    int64
	Attempt int
	SHA256  string
	Key     string
	Error   string
}

// RelayExports hands the oldest rows of the outbox to publish, in order, and removes them when it returns nil. One process
// at a time does; another's call returns 0 at once. What is published and not removed comes again.
func (s *Store) RelayExports(ctx context.Context, limit int, publish func(ctx context.Context, rows []ExportOutbox) error) (int, error) {
	relayed := 0
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		var first bool
		// The lock ends with the transaction, and the transaction of a process that hangs ends by the idle time-out.
		err := tx.QueryRow(ctx, `SELECT set_config('idle_in_transaction_session_timeout', '10s', true) IS NOT NULL
		    AND pg_try_advisory_xact_lock(hashtextextended('picket_export_outbox', 0))`).Scan(&first)
		if err != nil || !first {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT id, at, export_id, org, phase, type, format, rows, bytes, work, attempt, sha256, key, error
			FROM export_outbox ORDER BY id LIMIT $1`, limit)
		if err != nil {
			return err
		}
		batch, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ExportOutbox])
		if err != nil || len(batch) == 0 {
			return err
		}
		ids := make([]int64, len(batch))
		for i := range batch {
			ids[i], batch[i].At = batch[i].ID, batch[i].At.UTC()
		}
		if err := publish(ctx, batch); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			WITH gone AS (DELETE FROM export_outbox WHERE id = ANY ($1) RETURNING export_id, phase)
			UPDATE export_jobs SET queued_at = clock_timestamp() WHERE id IN (SELECT export_id FROM gone WHERE phase = 'work')`, ids)
		relayed = len(batch)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("relay exports: %w", err)
	}
	return relayed, nil
}

// ClaimCallback takes the callback that is due for longest and lets nobody else have it for hold; CallbackAttempts counts
// this one. It reports false when none is due.
func (s *Store) ClaimCallback(ctx context.Context, hold time.Duration) (Export, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		UPDATE export_jobs SET callback_attempts = callback_attempts + 1, callback_next_at = clock_timestamp() + $1::interval
		WHERE id = (SELECT id FROM export_jobs WHERE callback_state = 'pending' AND callback_next_at <= clock_timestamp()
		            ORDER BY callback_next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING `+exportColumns, hold)
	if err != nil {
		return Export{}, false, fmt.Errorf("claim callback: %w", err)
	}
	export, err := oneExport(rows)
	if errors.Is(err, ErrNotFound) {
		return Export{}, false, nil
	}
	if err != nil {
		return Export{}, false, fmt.Errorf("claim callback: %w", err)
	}
	return export, true, nil
}

// EndCallback notes how an attempt at a callback ended: delivered when problem is empty, due again after again, or failed for
// good when that is zero. A later attempt's word is not overwritten.
func (s *Store) EndCallback(ctx context.Context, e Export, problem string, again time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	state := CallbackDelivered
	switch {
	case problem != "" && again > 0:
		state = CallbackPending
	case problem != "":
		state = CallbackFailed
	}
	_, err := s.pool.Exec(ctx, `
		UPDATE export_jobs SET callback_state = $3, callback_error = $4, callback_next_at = clock_timestamp() + $5::interval
		WHERE id = $1 AND callback_attempts = $2 AND callback_state = 'pending'`, e.ID, e.CallbackAttempts, state, problem, again)
	if err != nil {
		return fmt.Errorf("end callback of export %s: %w", e.ID, err)
	}
	return nil
}
