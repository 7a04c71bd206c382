package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"google.golang.org/protobuf/proto"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Alert is a row of system_alerts. Zero times and a zero CheckID are null.
type Alert struct {
	ID             uuid.UUID       `json:"id"`
	Org            string          `json:"org"`
	Fingerprint    string          `json:"fingerprint"`
	Kind           string          `json:"kind"`
	Severity       string          `json:"severity"`
	State          string          `json:"state"`
	Server         string          `json:"server"`
	CheckName      string          `json:"check_name"`
	CheckID        uuid.UUID       `json:"check_id,omitzero"`
	Location       string          `json:"location"`
	Summary        string          `json:"summary"`
	Reason         string          `json:"reason"`
	Since          time.Time       `json:"since"`
	PendingAt      time.Time       `json:"pending_at"`
	OpenedAt       time.Time       `json:"opened_at,omitzero"`
	AcknowledgedAt time.Time       `json:"acknowledged_at,omitzero"`
	ClosedAt       time.Time       `json:"closed_at,omitzero"`
	TriggerCount   int64           `json:"trigger_count"`
	AcknowledgedBy string          `json:"acknowledged_by"`
	Details        json.RawMessage `json:"details"`
}

// AlertEvent is a row of alert_events, with the message that tells of it.
type AlertEvent struct {
	EventID     uuid.UUID            `json:"event_id"`
	AlertID     uuid.UUID            `json:"alert_id"`
	Org         string               `json:"org"`
	At          time.Time            `json:"at"`
	StreamEpoch int64                `json:"stream_epoch"`
	StreamSeq   int64                `json:"stream_seq"`
	Transition  string               `json:"transition"`
	State       string               `json:"state"`
	Kind        string               `json:"kind"`
	Severity    string               `json:"severity"`
	Reason      string               `json:"reason"`
	Summary     string               `json:"summary"`
	Evidence    json.RawMessage      `json:"evidence"`
	Actor       string               `json:"actor"`
	Message     *picketv1.AlertEvent `json:"-"`
}

// alertColumns are all of system_alerts, in the order of Alert's fields.
const alertColumns = `id, org, fingerprint, kind, severity, state, server, check_name, check_id, location, summary, reason,
    since, pending_at, opened_at, acknowledged_at, closed_at, trigger_count, acknowledged_by, details`

// upsertAlertsSQL takes rows in order: an alert closes before the next one of its fingerprint begins.
const upsertAlertsSQL = `
	INSERT INTO system_alerts (` + alertColumns + `)
	SELECT ` + alertColumns + ` FROM jsonb_populate_recordset(NULL::system_alerts, $1)
	ON CONFLICT (id) DO UPDATE SET
	    kind = excluded.kind, severity = excluded.severity, state = excluded.state, summary = excluded.summary,
	    reason = excluded.reason, opened_at = excluded.opened_at, acknowledged_at = excluded.acknowledged_at,
	    closed_at = excluded.closed_at, acknowledged_by = excluded.acknowledged_by, trigger_count = excluded.trigger_count, details = excluded.details`

const alertEventColumns = `event_id, alert_id, org, at, stream_epoch, stream_seq, transition, state, kind, severity, reason,
    summary, evidence, actor`

const insertAlertEventsSQL = `
	INSERT INTO alert_events (` + alertEventColumns + `)
	SELECT ` + alertEventColumns + ` FROM jsonb_populate_recordset(NULL::alert_events, $1)
	ON CONFLICT (event_id) DO NOTHING`

const insertOutboxSQL = `
	INSERT INTO alert_outbox (event_id, event) SELECT * FROM unnest($1::uuid[], $2::bytea[])`

// writeAlerts stores alerts as they are now, what happened to them, and what is to be published.
func writeAlerts(ctx context.Context, tx pgx.Tx, alerts []Alert, events []AlertEvent) error {
	if len(events) == 0 {
		return nil
	}
	rows, err := json.Marshal(alerts)
	if err != nil {
		return fmt.Errorf("encode alerts: %w", err)
	}
	history, err := json.Marshal(events)
	if err != nil {
		return fmt.Errorf("encode alert events: %w", err)
	}
	ids := make([]uuid.UUID, len(events))
	messages := make([][]byte, len(events))
	for i := range events {
		ids[i] = events[i].EventID
		if messages[i], err = proto.Marshal(events[i].Message); err != nil {
			return fmt.Errorf("encode alert event: %w", err)
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(upsertAlertsSQL, rows)
	batch.Queue(insertAlertEventsSQL, history)
	batch.Queue(insertOutboxSQL, ids, messages)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write alerts: %w", err)
	}
	return nil
}

// activeAlerts reads the alerts that are not closed.
func activeAlerts(ctx context.Context, q querier) ([]Alert, error) {
	rows, err := q.Query(ctx, `SELECT `+alertColumns+` FROM system_alerts WHERE state <> 'closed' ORDER BY org, fingerprint`)
	if err != nil {
		return nil, fmt.Errorf("read active alerts: %w", err)
	}
	alerts, err := pgx.CollectRows(rows, scanAlert)
	if err != nil {
		return nil, fmt.Errorf("read active alerts: %w", err)
	}
	return alerts, nil
}

func scanAlert(row pgx.CollectableRow) (Alert, error) {
	var (
		a                            Alert
		check                        *uuid.UUID
		opened, acknowledged, closed *time.Time
	)
	err := row.Scan(&a.ID, &a.Org, &a.Fingerprint, &a.Kind, &a.Severity, &a.State, &a.Server, &a.CheckName, &check, &a.Location,
		&a.Summary, &a.Reason, &a.Since, &a.PendingAt, &opened, &acknowledged, &closed, &a.TriggerCount, &a.AcknowledgedBy, &a.Details)
	if check != nil {
		a.CheckID = *check
	}
	a.Since, a.PendingAt = a.Since.UTC(), a.PendingAt.UTC()
	a.OpenedAt, a.AcknowledgedAt, a.ClosedAt = orZero(opened), orZero(acknowledged), orZero(closed)
	return a, err
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// OutboxEvent is a transition that is committed and perhaps not published.
type OutboxEvent struct {
	ID    int64
	Event *picketv1.AlertEvent
}

// Outbox returns the oldest transitions to publish, in the order in which they were committed.
func (s *Store) Outbox(ctx context.Context, limit int) ([]OutboxEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT id, event FROM alert_outbox ORDER BY id LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (OutboxEvent, error) {
		out := OutboxEvent{Event: &picketv1.AlertEvent{}}
		var message []byte
		if err := row.Scan(&out.ID, &message); err != nil {
			return out, err
		}
		return out, proto.Unmarshal(message, out.Event)
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return events, nil
}

// ClearOutbox removes transitions that the stream has acknowledged, if the lease still holds; the error matches
// [ErrLeaseLost] when not, and the next holder publishes them again under the same identity.
func (s *Store) ClearOutbox(ctx context.Context, lease Lease, ids []int64) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
		DELETE FROM alert_outbox WHERE id = ANY ($1)
		AND EXISTS (SELECT FROM alerter_state WHERE stream = $2 AND epoch = $3)`, ids, lease.Name, lease.Epoch)
	if err != nil {
		return fmt.Errorf("clear outbox: %w", err)
	}
	if len(ids) > 0 && tag.RowsAffected() == 0 {
		return fmt.Errorf("clear outbox: %w", ErrLeaseLost)
	}
	return nil
}
