package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Audit is one change for the record. Functions that change something take it with who and what filled in, add target,
// before and after as they see them, and write it in the transaction of the change.
type Audit struct {
	Org string
	// Actor is the id of the token; ActorName is its name then.
	Actor, ActorName string
	Role             Role
	// Action is what was done, such as server.create.
	Action string
	// TargetKind and Target say to what: server and its name, token and its id.
	TargetKind, Target string
	// Before and After are written as JSON; nil is nothing. They must hold no secret.
	Before, After any
	RequestID     string
	// Remote is the address that the request came from.
	Remote string
}

// AuditRow is an entry as it was written.
type AuditRow struct {
	ID int64
	At time.Time
	Audit
}

// WriteAudit writes an entry for a change that has no transaction of ours, such as a command that was sent.
func (s *Store) WriteAudit(ctx context.Context, audit Audit) error {
	return InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error { return writeAudit(ctx, tx, audit) })
}

// writeAudit writes an entry in the transaction that makes the change.
func writeAudit(ctx context.Context, tx pgx.Tx, a Audit) error {
	before, err := auditJSON(a.Before)
	if err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	after, err := auditJSON(a.After)
	if err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO audit_log (org, actor, actor_name, role, action, target_kind, target, request_id, remote, before, after)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		a.Org, a.Actor, a.ActorName, a.Role, a.Action, a.TargetKind, a.Target, a.RequestID, a.Remote, before, after)
	if err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	return nil
}

func auditJSON(value any) (json.RawMessage, error) {
	if value == nil {
		return nil, nil
	}
	return json.Marshal(value)
}

// AuditQuery picks entries of one organization. What is empty picks all.
type AuditQuery struct {
	Org                string
	Actor, Action      string
	TargetKind, Target string
	From, To           time.Time // [From, To)
	// Before is the cursor: entries older than the one of this id; 0: from the newest.
	Before int64
	Limit  int
}

// AuditLog returns entries, the newest first. Before and After are json.RawMessage or nil.
func (s *Store) AuditLog(ctx context.Context, q AuditQuery) ([]AuditRow, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT id, at, org, actor, actor_name, role, action, target_kind, target, request_id, remote, before, after
		FROM audit_log
		WHERE org = $1 AND ($2 = 0 OR id < $2) AND ($3 = '' OR actor = $3) AND ($4 = '' OR action = $4)
		  AND ($5 = '' OR target_kind = $5) AND ($6 = '' OR target = $6)
		  AND ($7::timestamptz IS NULL OR at >= $7) AND ($8::timestamptz IS NULL OR at < $8)
		ORDER BY id DESC LIMIT $9`,
		q.Org, q.Before, q.Actor, q.Action, q.TargetKind, q.Target, toNull(q.From), toNull(q.To), q.Limit)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditRow, error) {
		var (
			e             AuditRow
			before, after []byte
		)
		err := row.Scan(&e.ID, &e.At, &e.Org, &e.Actor, &e.ActorName, &e.Role, &e.Action, &e.TargetKind, &e.Target,
			&e.RequestID, &e.Remote, &before, &after)
		e.At = e.At.UTC()
		if before != nil {
			e.Before = json.RawMessage(before)
		}
		if after != nil {
			e.After = json.RawMessage(after)
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return entries, nil
}
