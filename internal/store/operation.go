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

// Types of operations on many servers.
const (
	OperationTagAdd         = "tag_add"
	OperationTagRemove      = "tag_remove"
	OperationMaintenanceOn  = "maintenance_on"
	OperationMaintenanceOff = "maintenance_off"
	OperationCheckNow       = "check_now"
)

// MaxOperationServers bounds one operation.
const MaxOperationServers = 10_000

// Status of an operation, and of one of its servers.
const (
	OperationPending   = "pending"
	OperationRunning   = "running"
	OperationCompleted = "completed"
	OperationPartial   = "partial"
	OperationFailed    = "failed"
	OperationCanceled  = "canceled"
)

// ErrSelection says that a selection of servers cannot be: it names what is not there, is empty, or too large.
var ErrSelection = errors.New("selection")

// Selection picks living servers of an organization: the named ones, members of the named groups, and those that the
// filter matches, each once.
type Selection struct {
	ServerIDs []uuid.UUID    `json:"server_ids,omitempty"`
	GroupIDs  []uuid.UUID    `json:"group_ids,omitempty"`
	Filter    *ServersFilter `json:"filter,omitempty"`
}

// ServersFilter matches servers that meet all of what it says; an empty one matches every server.
type ServersFilter struct {
	TagsAll      []string `json:"tags_all,omitempty"`
	TagsAny      []string `json:"tags_any,omitempty"`
	Region       string   `json:"region,omitempty"`
	Environment  string   `json:"environment,omitempty"`
	Lifecycle    string   `json:"status,omitempty"`
	HealthStatus string   `json:"health_status,omitempty"`
}

// Operation is a row of fleet_operations. Zero times are null.
type Operation struct {
	ID                                uuid.UUID
	Org, Type, Status                 string
	Selection                         Selection
	Parameters                        json.RawMessage
	InitiatedBy, InitiatedName        string
	InitiatedRole                     Role
	RequestID                         string
	Total, Completed, Failed          int
	ErrorSummary                      string
	CreatedAt, StartedAt, CompletedAt time.Time
	CancelAt                          time.Time
	LeaseEpoch                        int64
}

// OperationServer is one server of an operation and what became of it.
type OperationServer struct {
	Position   int
	ServerID   uuid.UUID
	Server     string
	Status     string
	Error      string
	Result     json.RawMessage // nil: none
	FinishedAt time.Time
}

const operationColumns = `id, org, operation_type, status, selection, parameters, initiated_by, initiated_name, initiated_role,
    request_id, total_servers, completed_servers, failed_servers, error_summary, created_at, started_at, completed_at, cancel_at, lease_epoch`

func scanOperation(row pgx.CollectableRow) (Operation, error) {
	var (
		o                          Operation
		selection, parameters      []byte
		started, completed, cancel *time.Time
	)
	err := row.Scan(&o.ID, &o.Org, &o.Type, &o.Status, &selection, &parameters, &o.InitiatedBy, &o.InitiatedName, &o.InitiatedRole,
		&o.RequestID, &o.Total, &o.Completed, &o.Failed, &o.ErrorSummary, &o.CreatedAt, &started, &completed, &cancel, &o.LeaseEpoch)
	if err != nil {
		return o, err
	}
	o.CreatedAt = o.CreatedAt.UTC()
	o.StartedAt, o.CompletedAt, o.CancelAt = fromNull(started), fromNull(completed), fromNull(cancel)
	o.Parameters = json.RawMessage(parameters)
	return o, json.Unmarshal(selection, &o.Selection)
}

// What Picket declares itself can be looked at like anything, and edited by nobody.
const selectServersSQL = `
SELECT s.id, s.name FROM managed_servers s
WHERE s.org = $1 AND s.removed_at IS NULL AND (s.managed_by <> 'self' OR $12)
  AND (s.id = ANY ($2)
    OR s.id IN (SELECT m.server_id FROM v_group_members m WHERE m.org = $1 AND m.group_id = ANY ($3))
    OR ($4 AND (cardinality($5::text[]) = 0 OR s.tags @> $5) AND (cardinality($6::text[]) = 0 OR s.tags && $6)
        AND ($7 = '' OR s.region = $7) AND ($8 = '' OR s.environment = $8) AND ($9 = '' OR s.lifecycle = $9)
        AND ($10 = '' OR s.health_status = $10)))
ORDER BY s.name LIMIT $11`

// CreateOperation resolves the selection of o and stores the operation with its servers, and the entry for the record.
// The error matches [ErrSelection] when nothing is selected, too much, or something that is not there; it is as that of
// [Store.CheckIdempotency] when the same request came before.
func (s *Store) CreateOperation(ctx context.Context, o Operation, key Idempotency, audit Audit) (Operation, error) {
	var stored Operation
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if err := key.claim(ctx, tx, o.ID.String()); err != nil {
			return err
		}
		ids, names, err := selectServers(ctx, tx, o)
		if err != nil {
			return err
		}
		selection, err := json.Marshal(o.Selection)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			INSERT INTO fleet_operations (id, org, operation_type, selection, parameters, initiated_by, initiated_name, initiated_role,
			    request_id, total_servers)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING `+operationColumns,
			o.ID, o.Org, o.Type, selection, o.Parameters, o.InitiatedBy, o.InitiatedName, o.InitiatedRole, o.RequestID, len(ids))
		if err != nil {
			return err
		}
		if stored, err = pgx.CollectExactlyOneRow(rows, scanOperation); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO fleet_operation_servers (operation_id, position, server_id, server)
			SELECT $1, n, id, name FROM unnest($2::uuid[], $3::text[]) WITH ORDINALITY AS s (id, name, n)`, o.ID, ids, names)
		if err != nil {
			return err
		}
		audit.Target = o.ID.String()
		audit.After = map[string]any{"operation_type": o.Type, "parameters": o.Parameters, "selection": o.Selection, "servers": len(ids)}
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return Operation{}, fmt.Errorf("create operation: %w", err)
	}
	return stored, nil
}

func selectServers(ctx context.Context, tx pgx.Tx, o Operation) ([]uuid.UUID, []string, error) {
	org, sel := o.Org, o.Selection
	var missing []string
	err := tx.QueryRow(ctx, `
		SELECT coalesce(array_agg(id::text), '{}') FROM (
		    SELECT id FROM unnest($2::uuid[]) AS w (id)
		    WHERE NOT EXISTS (SELECT FROM managed_servers s WHERE s.id = w.id AND s.org = $1 AND s.removed_at IS NULL)
		    UNION ALL
		    SELECT id FROM unnest($3::uuid[]) AS w (id)
		    WHERE NOT EXISTS (SELECT FROM server_groups g WHERE g.id = w.id AND g.org = $1)
		    LIMIT 10) m`, org, sel.ServerIDs, sel.GroupIDs).Scan(&missing)
	if err != nil {
		return nil, nil, err
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("%w: there is no server or group %v", ErrSelection, missing)
	}
	filter := ServersFilter{}
	if sel.Filter != nil {
		filter = *sel.Filter
	}
	rows, err := tx.Query(ctx, selectServersSQL, org, sel.ServerIDs, sel.GroupIDs, sel.Filter != nil, orEmpty(filter.TagsAll),
		orEmpty(filter.TagsAny), filter.Region, filter.Environment, filter.Lifecycle, filter.HealthStatus, MaxOperationServers+1,
		o.Type == OperationCheckNow)
	if err != nil {
		return nil, nil, err
	}
	var (
		ids   []uuid.UUID
		names []string
		id    uuid.UUID
		name  string
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		ids, names = append(ids, id), append(names, name)
		return nil
	})
	switch {
	case err != nil:
		return nil, nil, err
	case len(ids) == 0:
		return nil, nil, fmt.Errorf("%w: no server is selected", ErrSelection)
	case len(ids) > MaxOperationServers:
		return nil, nil, fmt.Errorf("%w: more than %d servers", ErrSelection, MaxOperationServers)
	}
	return ids, names, nil
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func operationByID(ctx context.Context, q querier, org string, id uuid.UUID, lock string) (Operation, error) {
	rows, err := q.Query(ctx, `SELECT `+operationColumns+` FROM fleet_operations WHERE id = $1 AND org = $2 `+lock, id, org)
	if err != nil {
		return Operation{}, err
	}
	o, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return o, err
}

// Operation returns one of an organization; the error matches [ErrNotFound].
func (s *Store) Operation(ctx context.Context, org string, id uuid.UUID) (Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	o, err := operationByID(ctx, s.pool, org, id, "")
	if err != nil {
		return Operation{}, fmt.Errorf("read operation: %w", err)
	}
	return o, nil
}

// OperationQuery picks operations of one organization. What is empty picks all.
type OperationQuery struct {
	Org, Type, Status string
	// Before is the place of the last one had; nil: from the newest.
	Before *OperationPlace
	Limit  int
}

// OperationPlace is where an operation stands in a list.
type OperationPlace struct {
	CreatedAt time.Time
	ID        uuid.UUID
}

// Operations returns operations, the newest first.
func (s *Store) Operations(ctx context.Context, q OperationQuery) ([]Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var (
		at *time.Time
		id uuid.UUID
	)
	if q.Before != nil {
		at, id = &q.Before.CreatedAt, q.Before.ID
	}
	rows, err := s.pool.Query(ctx, `
		SELECT `+operationColumns+` FROM fleet_operations
		WHERE org = $1 AND ($2 = '' OR operation_type = $2) AND ($3 = '' OR status = $3)
		  AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5::uuid))
		ORDER BY created_at DESC, id DESC LIMIT $6`, q.Org, q.Type, q.Status, at, id, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanOperation)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	return all, nil
}

// OperationServers returns the servers of an operation of an organization in their order, those behind a position.
func (s *Store) OperationServers(ctx context.Context, org string, id uuid.UUID, status string, after, limit int) ([]OperationServer, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT i.position, i.server_id, i.server, i.status, i.error, i.result, i.finished_at
		FROM fleet_operation_servers i JOIN fleet_operations o ON o.id = i.operation_id
		WHERE o.id = $1 AND o.org = $2 AND ($3 = '' OR i.status = $3) AND i.position > $4 ORDER BY i.position LIMIT $5`,
		id, org, status, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read servers of an operation: %w", err)
	}
	servers, err := pgx.CollectRows(rows, scanOperationServer)
	if err != nil {
		return nil, fmt.Errorf("read servers of an operation: %w", err)
	}
	return servers, nil
}

func scanOperationServer(row pgx.CollectableRow) (OperationServer, error) {
	var (
		i        OperationServer
		result   []byte
		finished *time.Time
	)
	err := row.Scan(&i.Position, &i.ServerID, &i.Server, &i.Status, &i.Error, &result, &finished)
	i.FinishedAt = fromNull(finished)
	if result != nil {
		i.Result = json.RawMessage(result)
	}
	return i, err
}
