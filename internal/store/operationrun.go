package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Whoever holds the lease of an operation does it. The lease ends by the database's clock, and every claim is a new
// epoch: a holder that hung and wakes up can note nothing more. What it had done to a server and not noted is done once
// more by the next: the operations are such that this makes no difference.

// claimLock makes claims one after the other, so that no two take operations of one organization at a time.
const claimLock = 0x70_6b_74_6f_70

// ClaimOperation takes the oldest operation that is not done and that nobody holds, for ttl. Of one organization those that
// change what is declared are done one after the other, in their order, and so are those that look: nobody's long one holds
// up another organization's. The error matches [ErrNotFound] when there is none.
func (s *Store) ClaimOperation(ctx context.Context, owner string, ttl time.Duration) (Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var o Operation
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(claimLock)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE fleet_operations SET status = 'running', started_at = coalesce(started_at, clock_timestamp()), lease_owner = $1,
			    lease_until = clock_timestamp() + $2::interval, lease_epoch = lease_epoch + 1
			WHERE id = (SELECT o.id FROM fleet_operations o
			            WHERE o.status IN ('pending', 'running') AND o.lease_until < clock_timestamp() AND NOT EXISTS (
			                SELECT FROM fleet_operations h WHERE h.org = o.org AND h.status = 'running' AND h.id <> o.id
			                    AND h.lease_until >= clock_timestamp()
			                    AND (h.operation_type = 'check_now') = (o.operation_type = 'check_now'))
			            ORDER BY o.created_at, o.id LIMIT 1 FOR UPDATE SKIP LOCKED)
			RETURNING `+operationColumns, owner, ttl)
		if err != nil {
			return err
		}
		o, err = pgx.CollectExactlyOneRow(rows, scanOperation)
		if errors.Is(err, pgx.ErrNoRows) {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return Operation{}, fmt.Errorf("claim operation: %w", err)
	}
	return o, nil
}

// RenewOperation holds an operation for ttl from now on, and brings its counts up to date. The error matches
// [ErrLeaseLost] when somebody else has it.
func (s *Store) RenewOperation(ctx context.Context, o Operation, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
		UPDATE fleet_operations o SET lease_until = clock_timestamp() + $3::interval, completed_servers = n.completed, failed_servers = n.failed
		FROM (SELECT count(*) FILTER (WHERE status = 'completed') AS completed, count(*) FILTER (WHERE status = 'failed') AS failed
		      FROM fleet_operation_servers WHERE operation_id = $1) n
		WHERE o.id = $1 AND o.lease_epoch = $2 AND o.status = 'running'`, o.ID, o.LeaseEpoch, ttl)
	return fenced("renew operation", tag.RowsAffected(), err)
}

// ReleaseOperation lets another go on with an operation at once. One that is lost already is no error.
func (s *Store) ReleaseOperation(ctx context.Context, o Operation) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `UPDATE fleet_operations SET lease_until = '-infinity' WHERE id = $1 AND lease_epoch = $2`, o.ID, o.LeaseEpoch)
	if err != nil {
		return fmt.Errorf("release operation: %w", err)
	}
	return nil
}

// NextOperationServers returns servers of an operation that are still to be dealt with.
func (s *Store) NextOperationServers(ctx context.Context, o Operation, limit int) ([]OperationServer, error) {
	return s.OperationServers(ctx, o.Org, o.ID, OperationPending, 0, limit)
}

// FinishOperationServer notes what became of one server of an operation: failed when failure is not empty. One that was
// canceled while it was dealt with is noted as what it became. The error matches [ErrLeaseLost].
func (s *Store) FinishOperationServer(ctx context.Context, o Operation, position int, failure string, result json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	status := OperationCompleted
	if failure != "" {
		status = OperationFailed
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE fleet_operation_servers i SET status = $4, error = $5, result = $6, finished_at = clock_timestamp()
		FROM fleet_operations o
		WHERE o.id = i.operation_id AND i.operation_id = $1 AND i.position = $3 AND i.status IN ('pending', 'canceled')
		  AND o.lease_epoch = $2 AND o.status = 'running'`, o.ID, o.LeaseEpoch, position, status, failure, result)
	return fenced("note a server of an operation", tag.RowsAffected(), err)
}

const finishOperationSQL = `
UPDATE fleet_operations o SET
    status = CASE WHEN n.canceled > 0 THEN 'canceled' WHEN n.failed = 0 THEN 'completed' WHEN n.completed = 0 THEN 'failed' ELSE 'partial' END,
    completed_servers = n.completed, failed_servers = n.failed, completed_at = clock_timestamp(), lease_until = '-infinity',
    error_summary = CASE WHEN n.failed = 0 THEN '' ELSE left(n.failed || ' of ' || o.total_servers || ' servers failed: ' || n.errors, 1000) END
FROM (SELECT count(*) FILTER (WHERE status = 'completed') AS completed, count(*) FILTER (WHERE status = 'failed') AS failed,
             count(*) FILTER (WHERE status = 'canceled') AS canceled, count(*) FILTER (WHERE status = 'pending') AS pending,
             (SELECT string_agg(e, '; ') FROM (SELECT DISTINCT left(error, 200) AS e FROM fleet_operation_servers
                 WHERE operation_id = $1 AND status = 'failed' ORDER BY 1 LIMIT 3) d) AS errors
      FROM fleet_operation_servers WHERE operation_id = $1) n
WHERE o.id = $1 AND o.lease_epoch = $2 AND o.status = 'running' AND n.pending = 0`

// FinishOperation ends an operation of which no server is left, and writes that down for the record. The error matches
// [ErrLeaseLost] when somebody else has it, or a server is left.
func (s *Store) FinishOperation(ctx context.Context, o Operation) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, finishOperationSQL, o.ID, o.LeaseEpoch)
		if err := fenced("finish", tag.RowsAffected(), err); err != nil {
			return err
		}
		done, err := operationByID(ctx, tx, o.Org, o.ID, "")
		if err != nil {
			return err
		}
		return writeAudit(ctx, tx, Audit{
			Org: o.Org, Actor: o.InitiatedBy, ActorName: o.InitiatedName, Role: o.InitiatedRole, Action: "operation.finish",
			TargetKind: "operation", Target: o.ID.String(), RequestID: o.RequestID,
			After: map[string]any{
				"status": done.Status, "completed_servers": done.Completed, "failed_servers": done.Failed, "total_servers": done.Total,
			},
		})
	})
	if err != nil {
		return fmt.Errorf("finish operation: %w", err)
	}
	return nil
}

// CancelOperation has no further server of an operation dealt with; those in hand are finished. The error matches
// [ErrNotFound], or [ErrEnded] when it is over.
func (s *Store) CancelOperation(ctx context.Context, org string, id uuid.UUID, audit Audit) (Operation, error) {
	var o Operation
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) (err error) {
		if o, err = operationByID(ctx, tx, org, id, "FOR UPDATE"); err != nil {
			return err
		}
		if !o.CompletedAt.IsZero() {
			return ErrEnded
		}
		if !o.CancelAt.IsZero() {
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE fleet_operation_servers SET status = 'canceled', finished_at = clock_timestamp()
			WHERE operation_id = $1 AND status = 'pending'`, id)
		if err != nil {
			return err
		}
		// One that nobody has in hand is over at once.
		_, err = tx.Exec(ctx, `
			UPDATE fleet_operations SET cancel_at = clock_timestamp(),
			    status = CASE WHEN status = 'pending' THEN 'canceled' ELSE status END,
			    completed_at = CASE WHEN status = 'pending' THEN clock_timestamp() END
			WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if o, err = operationByID(ctx, tx, org, id, ""); err != nil {
			return err
		}
		audit.Target = id.String()
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return Operation{}, fmt.Errorf("cancel operation: %w", err)
	}
	return o, nil
}
