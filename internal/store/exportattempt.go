package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ExportBusyError says that another attempt holds the export.
type ExportBusyError struct {
	// For is how long its lease lasts if it is not renewed.
	For time.Duration
}

func (e *ExportBusyError) Error() string {
	return fmt.Sprintf("another attempt holds the export for %s", e.For.Round(time.Millisecond))
}

// ExportClaim is one attempt to make an export. Only the newest attempt can finish it.
type ExportClaim struct {
	Export Export
	Owner  string
	// Attempt is the fence: whoever claims later has a higher one.
	Attempt int
}

// ClaimExport begins an attempt and holds it for ttl by the database's clock. An export that nobody asked for any more,
// that is done, or that has had its last try (it becomes FAILED) returns an error that matches [ErrExportState]; one that
// does not exist [ErrNotFound]; one that another attempt holds an [ExportBusyError].
func (s *Store) ClaimExport(ctx context.Context, id uuid.UUID, owner string, ttl time.Duration, maxTries int) (ExportClaim, error) {
	var claim ExportClaim
	var refused error
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		var status string
		var tries int
		var left *float64
		err := tx.QueryRow(ctx, `
			SELECT status, tries, extract(epoch FROM lease_until - clock_timestamp())::float8 FROM export_jobs WHERE id = $1 FOR UPDATE`,
			id).Scan(&status, &tries, &left)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case status != ExportPending && status != ExportProcessing:
			return fmt.Errorf("%w: %s", ErrExportState, status)
		case status == ExportProcessing && left != nil && *left > 0:
			return &ExportBusyError{For: time.Duration(*left * float64(time.Second))}
		case tries >= maxTries:
			refused = fmt.Errorf("%w: %s", ErrExportState, ExportFailed)
			return failExport(ctx, tx, id, gaveUp(tries))
		}
		rows, err := tx.Query(ctx, `
			UPDATE export_jobs SET status = 'PROCESSING', attempt = attempt + 1, tries = tries + 1, lease_owner = $2,
			    lease_until = clock_timestamp() + $3::interval, started_at = coalesce(started_at, clock_timestamp()), progress_rows = 0
			WHERE id = $1 RETURNING `+exportColumns, id, owner, ttl)
		if err != nil {
			return err
		}
		export, err := oneExport(rows)
		claim = ExportClaim{Export: export, Owner: owner, Attempt: export.Attempt}
		return err
	})
	if err = errors.Join(err, refused); err != nil {
		return ExportClaim{}, fmt.Errorf("claim export %s: %w", id, err)
	}
	return claim, nil
}

func gaveUp(tries int) string {
	return fmt.Sprintf("gave up: %d attempts ended without a result", tries)
}

// failExport ends an export for good. What an earlier attempt said is kept behind the reason.
func failExport(ctx context.Context, tx pgx.Tx, id uuid.UUID, reason string) error {
	_, err := tx.Exec(ctx, `
		UPDATE export_jobs SET status = 'FAILED', completed_at = clock_timestamp(), lease_until = NULL, swept_at = NULL,
		    error = CASE WHEN error = '' OR error = $2 THEN $2 ELSE $2 || '; last: ' || error END,
		    callback_state = CASE callback_url WHEN '' THEN 'none' ELSE 'pending' END, callback_next_at = clock_timestamp()
		WHERE id = $1`, id, reason)
	return err
}

// RenewExport holds the attempt for another ttl and notes how far it is. The error matches [ErrLeaseLost] when the export
// was canceled or another attempt has begun.
func (s *Store) RenewExport(ctx context.Context, claim ExportClaim, ttl time.Duration, progress int64) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
		UPDATE export_jobs SET lease_until = clock_timestamp() + $3::interval, progress_rows = $4
		WHERE id = $1 AND attempt = $2 AND status = 'PROCESSING'`, claim.Export.ID, claim.Attempt, ttl, progress)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrLeaseLost
	}
	if err != nil {
		return fmt.Errorf("renew export %s: %w", claim.Export.ID, err)
	}
	return nil
}

// CommitExport calls commit, which puts the object in its place, while nobody else can begin an attempt: the row stays
// locked until commit returns, for timeout at most, after which the server ends the transaction of a process that was
// stopped in the midst of it. Afterwards the lease lasts for ttl. The error matches [ErrLeaseLost] when this attempt is no
// longer the newest; commit was not called then. After an [ErrUnknownOutcome] the object is in its place.
func (s *Store) CommitExport(
	ctx context.Context, claim ExportClaim, timeout, ttl time.Duration, commit func(ctx context.Context) error,
) error {
	renew := func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE export_jobs SET lease_until = clock_timestamp() + $3::interval
			WHERE id = $1 AND attempt = $2 AND status = 'PROCESSING'`, claim.Export.ID, claim.Attempt, ttl)
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrLeaseLost
		}
		return err
	}
	err := InTx(ctx, s, timeout, func(ctx context.Context, tx pgx.Tx) error {
		idle := strconv.FormatInt(timeout.Milliseconds(), 10)
		if _, err := tx.Exec(ctx, `SELECT set_config('idle_in_transaction_session_timeout', $1, true)`, idle); err != nil {
			return err
		}
		if err := renew(ctx, tx); err != nil {
			return err
		}
		if err := commit(ctx); err != nil {
			return err
		}
		return renew(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("commit export %s: %w", claim.Export.ID, err)
	}
	return nil
}

// ExportResult is what is said of an object that is in its place and was read back.
type ExportResult struct {
	Rows, Bytes int64
	SHA256      string // hex
}

// CompleteExport makes the export downloadable for keep. The error matches [ErrLeaseLost] when the attempt is no longer
// the newest. It may be called again after an error: an outcome that was not known is then.
func (s *Store) CompleteExport(ctx context.Context, claim ExportClaim, result ExportResult, keep time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var done bool
	err := s.pool.QueryRow(ctx, `
		WITH mine AS (
		    UPDATE export_jobs SET status = 'COMPLETED', completed_at = statement_timestamp(), lease_until = NULL, error = '',
		        row_count = $3, progress_rows = $3, file_size_bytes = $4, sha256 = $5, swept_at = NULL,
		        expires_at = statement_timestamp() + $6::interval,
		        callback_state = CASE callback_url WHEN '' THEN 'none' ELSE 'pending' END, callback_next_at = clock_timestamp()
		    WHERE id = $1 AND attempt = $2 AND status = 'PROCESSING' RETURNING 1)
		SELECT EXISTS (SELECT FROM mine)
		    OR EXISTS (SELECT FROM export_jobs WHERE id = $1 AND attempt = $2 AND status = 'COMPLETED' AND sha256 = $5)`,
		claim.Export.ID, claim.Attempt, result.Rows, result.Bytes, result.SHA256, keep).Scan(&done)
	if err == nil && !done {
		err = ErrLeaseLost
	}
	if err != nil {
		return fmt.Errorf("complete export %s: %w", claim.Export.ID, err)
	}
	return nil
}

// AttemptEnd says how an attempt ended that made no object.
type AttemptEnd struct {
	// Error is shown to people.
	Error string
	// Final: another attempt would end the same way.
	Final bool
	// Uncounted: the process was told to stop; the export is not to blame.
	Uncounted bool
	MaxTries  int
}

// EndAttempt gives the export back, for another attempt, or FAILED when the end is final or it was the last try. It
// returns the status. The error matches [ErrLeaseLost] when the attempt is no longer the newest.
func (s *Store) EndAttempt(ctx context.Context, claim ExportClaim, end AttemptEnd) (status string, err error) {
	err = InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		var tries int
		err := tx.QueryRow(ctx, `
			UPDATE export_jobs SET status = 'PENDING', lease_until = NULL, error = $3, tries = tries - $4
			WHERE id = $1 AND attempt = $2 AND status = 'PROCESSING' RETURNING tries`,
			claim.Export.ID, claim.Attempt, end.Error, asInt(end.Uncounted)).Scan(&tries)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrLeaseLost
		case err != nil:
			return err
		}
		status = ExportPending
		switch {
		case end.Final:
			status = ExportFailed
			return failExport(ctx, tx, claim.Export.ID, end.Error)
		case tries >= end.MaxTries:
			status = ExportFailed
			return failExport(ctx, tx, claim.Export.ID, gaveUp(tries))
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("end attempt of export %s: %w", claim.Export.ID, err)
	}
	return status, nil
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// CancelExport ends an export that is not done: whoever makes it stops at the next renewal of its lease. One that is
// completed ends its time instead, and its object goes with the next sweep. One that is over already stays as it is. What
// was changed is written to the audit log if audit is not nil. The error matches [ErrNotFound] when the organization has no such export.
func (s *Store) CancelExport(ctx context.Context, org string, id uuid.UUID, audit *Audit) (Export, error) {
	return s.changeExport(ctx, "cancel", org, id, audit, func(e Export) (string, error) {
		switch e.Status {
		case ExportPending, ExportProcessing:
			return `status = 'CANCELED', completed_at = clock_timestamp(), lease_until = NULL, swept_at = NULL, error = ''`, nil
		case ExportCompleted:
			return `expires_at = clock_timestamp()`, nil
		default:
			return "", nil
		}
	})
}

// RetryExport puts an export that failed, was canceled or is expired into the queue again, with the same filters. The error
// matches [ErrExportState] for one that is pending, in the works, or there to be downloaded.
func (s *Store) RetryExport(ctx context.Context, org string, id uuid.UUID, audit *Audit) (Export, error) {
	return s.changeExport(ctx, "retry", org, id, audit, func(e Export) (string, error) {
		switch e.Status {
		case ExportFailed, ExportCanceled, ExportExpired:
			return `status = 'PENDING', work = work + 1, tries = 0, error = '', started_at = NULL, completed_at = NULL, swept_at = NULL,
			    sha256 = '', row_count = NULL, file_size_bytes = NULL, progress_rows = 0, callback_state = 'none', callback_attempts = 0,
			    callback_error = '', callback_next_at = NULL, queued_at = NULL, expires_at = NULL`, nil
		default:
			return "", fmt.Errorf("%w: %s", ErrExportState, e.Status)
		}
	})
}

// changeExport locks a row, lets decide say what to set, and sets it; nothing when decide says nothing.
func (s *Store) changeExport(
	ctx context.Context, verb, org string, id uuid.UUID, audit *Audit,
	decide func(e Export) (set string, err error),
) (Export, error) {
	var export Export
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+exportColumns+` FROM export_jobs WHERE org = $1 AND id = $2 FOR UPDATE`, org, id)
		if err != nil {
			return err
		}
		if export, err = oneExport(rows); err != nil {
			return err
		}
		before := export
		set, err := decide(export)
		if err != nil || set == "" {
			return err
		}
		rows, err = tx.Query(ctx, `UPDATE export_jobs SET `+set+` WHERE id = $1 RETURNING `+exportColumns, id)
		if err != nil {
			return err
		}
		if export, err = oneExport(rows); err != nil {
			return err
		}
		return auditExport(ctx, tx, audit, &before, &export)
	})
	if err != nil {
		return Export{}, fmt.Errorf("%s export %s: %w", verb, id, err)
	}
	return export, nil
}
