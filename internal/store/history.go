package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// HistoryQuery picks rows of server_health_checks.
type HistoryQuery struct {
	Org      string    // empty: all
	CheckID  uuid.UUID // zero: all
	Location string    // empty: all
	From, To time.Time // [From, To) by tick
	Limit    int       // at most so many, the oldest; required
}

const historySQL = `
SELECT r.check_id, r.location, r.scheduled_at, r.status, r.latency_us, coalesce(r.http_status, 0), r.reason, r.message,
       r.started_at, r.instance, r.revision, r.missed, r.missed_until, r.on_demand, r.certificate_not_after,
       r.connection_reused, r.details, r.stream_epoch, r.stream_seq, r.org,
       coalesce(k.server, ''), coalesce(k.check_name, ''), coalesce(k.kind, '')
FROM server_health_checks r
LEFT JOIN check_states k ON k.check_id = r.check_id AND k.location = r.location
WHERE ($1 = '' OR r.org = $1) AND ($2::uuid IS NULL OR r.check_id = $2) AND ($3 = '' OR r.location = $3)
  AND r.scheduled_at >= $4 AND r.scheduled_at < $5
ORDER BY r.scheduled_at, r.check_id, r.location LIMIT $6`

// History returns results in the order of their ticks.
func (s *Store) History(ctx context.Context, q HistoryQuery) ([]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var check *uuid.UUID
	if q.CheckID != uuid.Nil {
		check = &q.CheckID
	}
	rows, err := s.pool.Query(ctx, historySQL, q.Org, check, q.Location, q.From, q.To, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	results, err := pgx.CollectRows(rows, scanResult)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return results, nil
}

func scanResult(row pgx.CollectableRow) (Result, error) {
	var (
		r                           Result
		status                      int16
		latency                     int64
		started, until, certificate *time.Time
	)
	err := row.Scan(&r.CheckID, &r.Location, &r.ScheduledAt, &status, &latency, &r.HTTPStatus, &r.Reason, &r.Message,
		&started, &r.Instance, &r.Revision, &r.Missed, &until, &r.OnDemand, &certificate,
		&r.ConnectionReused, &r.Details, &r.StreamEpoch, &r.StreamSeq, &r.Org, &r.Server, &r.Check, &r.Kind)
	r.Status = picketv1.Status(status)
	r.Latency = time.Duration(latency) * time.Microsecond
	r.StartedAt, r.MissedUntil, r.CertificateNotAfter = fromNull(started), fromNull(until), fromNull(certificate)
	r.ScheduledAt = r.ScheduledAt.UTC()
	return r, err
}

// fromNull is a timestamptz that may be null; null is the zero time.
func fromNull(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
