package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// upsertStatesSQL moves rows only forward in time, but for those that lie ahead of the stream time of the newest, $19: that
// time was taken back. unnest yields them in the order given, which is key order, and each
// is locked as it comes: writers that overlap wait for each other, never in a circle.
const upsertStatesSQL = `
INSERT INTO check_states AS t (check_id, location, scheduled_at, since, checked_at, seen_at, stream_epoch, stream_seq,
    latency_us, status, http_status, missed, org, server, check_name, kind, reason, message)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
    $7::bigint[], $8::bigint[], $9::integer[], $10::smallint[], $11::smallint[], $12::boolean[],
    $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[])
ON CONFLICT (check_id, location) DO UPDATE SET
    scheduled_at = excluded.scheduled_at,
    since = CASE WHEN t.status = excluded.status AND NOT coalesce(t.scheduled_at > $19, false) THEN t.since ELSE excluded.since END,
    checked_at = CASE WHEN t.scheduled_at > $19 THEN excluded.checked_at ELSE greatest(t.checked_at, excluded.checked_at) END,
    seen_at = CASE WHEN t.scheduled_at > $19 THEN excluded.seen_at ELSE greatest(t.seen_at, excluded.seen_at) END,
    stream_epoch = excluded.stream_epoch, stream_seq = excluded.stream_seq,
    latency_us = excluded.latency_us, status = excluded.status, http_status = excluded.http_status,
    missed = excluded.missed, org = excluded.org, server = excluded.server, check_name = excluded.check_name,
    kind = excluded.kind, reason = excluded.reason, message = excluded.message
WHERE (t.scheduled_at, NOT t.missed) < (excluded.scheduled_at, NOT excluded.missed)
   OR t.scheduled_at > $19::timestamptz AND (t.stream_epoch, t.stream_seq) < (excluded.stream_epoch, excluded.stream_seq)`

// upsertStates expects the rows in key order, one per key.
func upsertStates(ctx context.Context, tx pgx.Tx, rows []*stateRow) error {
	if len(rows) == 0 {
		return nil
	}
	n := len(rows)
	var (
		check                       = make([]uuid.UUID, n)
		location, org, server, name = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		kind, reason, message       = make([]string, n), make([]string, n), make([]string, n)
		scheduledAt, since          = make([]time.Time, n), make([]time.Time, n)
		checkedAt, seenAt           = make([]*time.Time, n), make([]*time.Time, n)
		epoch, seq                  = make([]int64, n), make([]int64, n)
		latency                     = make([]int32, n)
		status                      = make([]int16, n)
		httpStatus                  = make([]*int16, n)
		missed                      = make([]bool, n)
	)
	var newest time.Time
	for i, r := range rows {
		newest = later(newest, r.received)
		check[i], location[i], scheduledAt[i], since[i] = r.check, r.location, r.scheduledAt, r.since
		checkedAt[i], seenAt[i] = nullTime(r.checkedAt), nullTime(r.seenAt)
		epoch[i], seq[i], latency[i], status[i] = r.epoch, r.seq, r.latency, int16(r.status)
		httpStatus[i], missed[i] = nullInt16(r.httpStatus), r.missed
		org[i], server[i], name[i], kind[i], reason[i], message[i] = r.org, r.server, r.name, r.kind, r.reason, r.message
	}
	var ahead *time.Time
	if !newest.IsZero() {
		ahead = new(newest.Add(MostAhead))
	}
	_, err := tx.Exec(ctx, upsertStatesSQL, check, location, scheduledAt, since, checkedAt, seenAt, epoch, seq,
		latency, status, httpStatus, missed, org, server, name, kind, reason, message, ahead)
	if err != nil {
		return fmt.Errorf("upsert states: %w", err)
	}
	return nil
}

// A server is as bad as the worst of its enabled checks, where they are probed from now; unknown when all of them are, and
// when nothing of it is probed.
const summarizeSQL = `
WITH summary AS (
    SELECT s.id,
           CASE WHEN bool_or(k.status = 3) THEN 'critical'
                WHEN bool_or(k.status = 4) THEN 'unreachable'
                WHEN bool_or(k.status = 2) THEN 'degraded'
                WHEN bool_or(k.status = 1) THEN 'healthy'
                ELSE 'unknown' END AS status,
           max(k.checked_at) AS checked_at, max(k.seen_at) AS seen_at
    FROM managed_servers s
    LEFT JOIN checks c ON c.server_id = s.id AND c.enabled AND s.lifecycle <> 'inactive'
    LEFT JOIN check_states k ON k.check_id = c.id AND k.location = ANY (c.locations)
    WHERE s.id = ANY ($1)
    GROUP BY s.id
)
UPDATE managed_servers s SET
    health_status = summary.status,
    last_health_check_at = greatest(s.last_health_check_at, summary.checked_at),
    last_seen_at = greatest(s.last_seen_at, summary.seen_at)
FROM summary
WHERE s.id = summary.id
  AND (s.health_status IS DISTINCT FROM summary.status
       OR s.last_health_check_at IS DISTINCT FROM greatest(s.last_health_check_at, summary.checked_at)
       OR s.last_seen_at IS DISTINCT FROM greatest(s.last_seen_at, summary.seen_at))`

// summarize lets managed_servers follow the states of some checks.
func summarize(ctx context.Context, tx pgx.Tx, checks []uuid.UUID) error {
	rows, err := tx.Query(ctx, `
		SELECT id FROM managed_servers WHERE id IN (SELECT server_id FROM checks WHERE id = ANY ($1))
		ORDER BY id FOR NO KEY UPDATE`, checks)
	if err != nil {
		return fmt.Errorf("lock servers: %w", err)
	}
	servers, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("lock servers: %w", err)
	}
	if len(servers) == 0 {
		return nil
	}
	return summarizeServers(ctx, tx, servers)
}

// summarizeServers expects servers that the transaction has locked.
func summarizeServers[ID uuid.UUID | string](ctx context.Context, tx pgx.Tx, servers []ID) error {
	if _, err := tx.Exec(ctx, summarizeSQL, servers); err != nil {
		return fmt.Errorf("summarize servers: %w", err)
	}
	return nil
}

func scanState(rows pgx.Rows) (stateRow, error) {
	var (
		r             stateRow
		checked, seen *time.Time
		status        int16
	)
	err := rows.Scan(&r.check, &r.location, &r.scheduledAt, &r.since, &checked, &seen, &r.epoch, &r.seq, &r.latency,
		&status, &r.httpStatus, &r.missed, &r.org, &r.server, &r.name, &r.kind, &r.reason, &r.message)
	r.status = picketv1.Status(status)
	if checked != nil {
		r.checkedAt = *checked
	}
	if seen != nil {
		r.seenAt = *seen
	}
	return r, err
}
