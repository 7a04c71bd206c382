package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AlertQuery picks alerts of one organization. What is empty picks all.
type AlertQuery struct {
	Org                    string
	States                 []string
	Severity, Server, Kind string
	// From and To bound when the alert began to be one, [From, To).
	From, To time.Time
	// Before is the place of the last alert had; nil: from the newest.
	Before *AlertPlace
	Limit  int
}

// AlertPlace is where an alert stands in a list.
type AlertPlace struct {
	PendingAt time.Time
	ID        uuid.UUID
}

// filter is what picks the alerts.
func (q *AlertQuery) filter() *conditions {
	c := where(`org = $?`, q.Org)
	if len(q.States) > 0 {
		c.and(`state = ANY ($?)`, q.States)
		if !slices.Contains(q.States, "closed") {
			c.and(`state <> 'closed'`) // those that are not over have an index of their own
		}
	}
	c.equal(`severity`, q.Severity)
	c.equal(`server`, q.Server)
	c.equal(`kind`, q.Kind)
	if !q.From.IsZero() {
		c.and(`pending_at >= $?`, q.From)
	}
	if !q.To.IsZero() {
		c.and(`pending_at < $?`, q.To)
	}
	if b := q.Before; b != nil {
		// The cursor counts down in time and up in id, as the index does.
		c.and(`pending_at <= $? AND (pending_at < $? OR id > $?)`, b.PendingAt, b.PendingAt, b.ID)
	}
	return c
}

// Alerts returns alerts, the newest first.
func (s *Store) Alerts(ctx context.Context, q AlertQuery) ([]Alert, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	page := q.filter()
	page.then(`ORDER BY pending_at DESC, id LIMIT $?`, q.Limit)
	rows, err := s.pool.Query(ctx, `SELECT `+alertColumns+` FROM system_alerts`+page.sql, page.args...)
	if err != nil {
		return nil, fmt.Errorf("list alerts: %w", err)
	}
	alerts, err := pgx.CollectRows(rows, scanAlert)
	if err != nil {
		return nil, fmt.Errorf("list alerts: %w", err)
	}
	return alerts, nil
}

// AlertByID returns an alert of an organization; the error matches [ErrNotFound].
func (s *Store) AlertByID(ctx context.Context, org string, id uuid.UUID) (Alert, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT `+alertColumns+` FROM system_alerts WHERE org = $1 AND id = $2`, org, id)
	if err != nil {
		return Alert{}, fmt.Errorf("read alert: %w", err)
	}
	alert, err := pgx.CollectExactlyOneRow(rows, scanAlert)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return Alert{}, fmt.Errorf("read alert: %w", err)
	}
	return alert, nil
}

// AlertEvents returns the transitions of an alert of an organization, the oldest first.
func (s *Store) AlertEvents(ctx context.Context, org string, alert uuid.UUID, limit int) ([]AlertEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT `+alertEventColumns+` FROM alert_events
		WHERE org = $1 AND alert_id = $2 ORDER BY stream_epoch, stream_seq, noted_at LIMIT $3`, org, alert, limit)
	if err != nil {
		return nil, fmt.Errorf("read alert events: %w", err)
	}
	events, err := pgx.CollectRows(rows, scanAlertEvent)
	if err != nil {
		return nil, fmt.Errorf("read alert events: %w", err)
	}
	return events, nil
}

func scanAlertEvent(row pgx.CollectableRow) (AlertEvent, error) {
	var (
		e        AlertEvent
		evidence []byte
	)
	err := row.Scan(&e.EventID, &e.AlertID, &e.Org, &e.At, &e.StreamEpoch, &e.StreamSeq, &e.Transition, &e.State, &e.Kind,
		&e.Severity, &e.Reason, &e.Summary, &evidence, &e.Actor)
	e.At, e.Evidence = e.At.UTC(), json.RawMessage(evidence)
	return e, err
}
