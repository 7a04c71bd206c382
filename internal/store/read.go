package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ServerHistoryQuery picks the results of a server.
type ServerHistoryQuery struct {
	ServerID uuid.UUID
	// Check and Location are names; empty: all.
	Check, Location string
	// From and To bound the ticks, [From, To).
	From, To time.Time
	// Before is the place of the last result had; nil: from the newest.
	Before *HistoryPlace
	Limit  int
}

// HistoryPlace is where a result stands in a history: its identity.
type HistoryPlace struct {
	ScheduledAt time.Time
	CheckID     uuid.UUID
	Location    string
}

// serverHistorySQL reads each series from its own end, so that it costs what it returns, whatever the history holds.
const serverHistorySQL = `
SELECT r.check_id, r.location, r.scheduled_at, r.status, r.latency_us, coalesce(r.http_status, 0), r.reason, r.message,
       r.started_at, r.instance, r.revision, r.missed, r.missed_until, r.on_demand, r.certificate_not_after,
       r.connection_reused, r.details, r.stream_epoch, r.stream_seq, r.org, k.server, k.check_name, k.kind
FROM checks c
JOIN check_states k ON k.check_id = c.id
CROSS JOIN LATERAL (
    SELECT * FROM server_health_checks h
    WHERE h.check_id = k.check_id AND h.location = k.location AND h.scheduled_at >= $4 AND h.scheduled_at < $5
      AND ($6::timestamptz IS NULL OR (h.scheduled_at <= $6 AND (h.scheduled_at, h.check_id, h.location) < ($6, $7::uuid, $8)))
    ORDER BY h.scheduled_at DESC LIMIT $9) r
WHERE c.server_id = $1 AND ($2 = '' OR c.name = $2) AND ($3 = '' OR k.location = $3)
ORDER BY r.scheduled_at DESC, r.check_id DESC, r.location DESC LIMIT $9`

// ServerHistory returns the results of a server, the newest tick first.
func (s *Store) ServerHistory(ctx context.Context, q ServerHistoryQuery) ([]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var (
		at       *time.Time
		check    uuid.UUID
		location string
	)
	if q.Before != nil {
		at, check, location = &q.Before.ScheduledAt, q.Before.CheckID, q.Before.Location
	}
	rows, err := s.pool.Query(ctx, serverHistorySQL, q.ServerID, q.Check, q.Location, q.From, q.To, at, check, location, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("read history of a server: %w", err)
	}
	results, err := pgx.CollectRows(rows, scanResult)
	if err != nil {
		return nil, fmt.Errorf("read history of a server: %w", err)
	}
	return results, nil
}

// Availability says what was seen of a check: Up (healthy, degraded) and Down (critical, unreachable) answer for it, the
// others do not: Unknown ones are a fault of ours, and in Maintenance nothing counts.
type Availability struct {
	Check                           string
	Up, Down, Unknown, Maintenance  int64
	Healthy, Degraded               int64
	Critical, Unreachable           int64
	LatencyAvg, LatencyP95, Slowest time.Duration // of what answered; zero when nothing did
}

// Ratio is Up ÷ (Up + Down); ok is false when nothing answers for it.
func (a Availability) Ratio() (ratio float64, ok bool) {
	if a.Up+a.Down == 0 {
		return 0, false
	}
	return float64(a.Up) / float64(a.Up+a.Down), true
}

const availabilitySQL = `
WITH away AS (
    SELECT since, lead(since, 1, 'infinity') OVER (ORDER BY since) AS until, lifecycle
    FROM server_lifecycles WHERE server_id = $1),
seen AS (
    SELECT c.name, h.status, h.latency_us,
           EXISTS (SELECT FROM away a WHERE a.lifecycle <> 'active' AND h.scheduled_at >= a.since AND h.scheduled_at < a.until) AS apart
    FROM checks c JOIN server_health_checks h ON h.check_id = c.id
    WHERE c.server_id = $1 AND ($2 = '' OR c.name = $2) AND ($3 = '' OR h.location = $3)
      AND h.scheduled_at >= $4 AND h.scheduled_at < $5 AND NOT h.on_demand AND NOT h.missed)
SELECT name, count(*) FILTER (WHERE status = 1 AND NOT apart), count(*) FILTER (WHERE status = 2 AND NOT apart),
       count(*) FILTER (WHERE status = 3 AND NOT apart), count(*) FILTER (WHERE status = 4 AND NOT apart),
       count(*) FILTER (WHERE status = 5 AND NOT apart), count(*) FILTER (WHERE apart),
       coalesce(avg(latency_us) FILTER (WHERE status <= 3), 0)::bigint,
       coalesce(percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_us) FILTER (WHERE status <= 3), 0)::bigint,
       coalesce(max(latency_us) FILTER (WHERE status <= 3), 0)::bigint
FROM seen GROUP BY name ORDER BY name`

// Availability sums up the results of a server's checks at ticks in [from, to), by check; check and location are names,
// empty: all. A row per tick is read.
func (s *Store) Availability(ctx context.Context, server uuid.UUID, check, location string, from, to time.Time) ([]Availability, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, availabilitySQL, server, check, location, from, to)
	if err != nil {
		return nil, fmt.Errorf("read availability: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Availability, error) {
		var (
			a                 Availability
			average, p95, top int64
		)
		err := row.Scan(&a.Check, &a.Healthy, &a.Degraded, &a.Critical, &a.Unreachable, &a.Unknown, &a.Maintenance, &average, &p95, &top)
		a.Up, a.Down = a.Healthy+a.Degraded, a.Critical+a.Unreachable
		a.LatencyAvg, a.LatencyP95 = time.Duration(average)*time.Microsecond, time.Duration(p95)*time.Microsecond
		a.Slowest = time.Duration(top) * time.Microsecond
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read availability: %w", err)
	}
	return all, nil
}

// Summary is an organization's fleet in numbers, as of the instant of the question.
type Summary struct {
	Total                                             int64
	Active, Maintenance, Inactive                     int64
	Healthy, Degraded, Critical, Unreachable, Unknown int64
	Fresh, Stale, NeverChecked                        int64 // of the active ones and those in maintenance
	Regions                                           int64
	LastCheck                                         time.Time // zero: none yet
	AlertsPending, AlertsOpen, AlertsAcknowledged     int64
	AlertsCritical, AlertsWarning                     int64 // of those open or acknowledged
	Groups                                            int64
}

// summarySQL decides about freshness now: a server is stale when none of its checks was looked at within three intervals
// and a time-out; the writer needs up to 15 seconds to say so. Who was looked at within the shortest such time that any
// check has needs no look at its checks, unless one of them is switched off: that look may have been its.
const summarySQL = `
WITH shortest AS MATERIALIZED (
    SELECT clock_timestamp() AS now, (min(3 * interval_ms + timeout_ms) + 15000) * interval '1 millisecond' AS span FROM checks WHERE enabled),
servers AS (
    SELECT s.lifecycle, s.health_status, s.region, s.last_health_check_at,
           o.server_id IS NULL AND coalesce(s.last_health_check_at > (SELECT now - span FROM shortest), false)
           OR s.lifecycle <> 'inactive' AND EXISTS (
               SELECT FROM checks c JOIN check_states k ON k.check_id = c.id
               WHERE c.server_id = s.id AND c.enabled AND k.checked_at > (SELECT now FROM shortest)
                   - (3 * c.interval_ms + c.timeout_ms + 15000) * interval '1 millisecond') AS fresh
    FROM managed_servers s LEFT JOIN (SELECT DISTINCT server_id FROM checks WHERE NOT enabled) o ON o.server_id = s.id
    WHERE s.org = $1 AND s.removed_at IS NULL),
counted AS (
    SELECT count(*) AS total, count(*) FILTER (WHERE lifecycle = 'active') AS active,
           count(*) FILTER (WHERE lifecycle = 'maintenance') AS maintenance, count(*) FILTER (WHERE lifecycle = 'inactive') AS inactive,
           count(*) FILTER (WHERE health_status = 'healthy') AS healthy, count(*) FILTER (WHERE health_status = 'degraded') AS degraded,
           count(*) FILTER (WHERE health_status = 'critical') AS critical,
           count(*) FILTER (WHERE health_status = 'unreachable') AS unreachable,
           count(*) FILTER (WHERE health_status = 'unknown') AS unknown,
           count(*) FILTER (WHERE lifecycle <> 'inactive' AND fresh) AS fresh,
           count(*) FILTER (WHERE lifecycle <> 'inactive' AND NOT fresh AND last_health_check_at IS NOT NULL) AS stale,
           count(*) FILTER (WHERE lifecycle <> 'inactive' AND NOT fresh AND last_health_check_at IS NULL) AS never,
           count(DISTINCT nullif(region, '')) AS regions, max(last_health_check_at) AS last
    FROM servers),
alerts AS (
    SELECT count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'open') AS open,
           count(*) FILTER (WHERE state = 'acknowledged') AS acknowledged,
           count(*) FILTER (WHERE state <> 'pending' AND severity = 'critical') AS critical,
           count(*) FILTER (WHERE state <> 'pending' AND severity = 'warning') AS warning
    FROM system_alerts WHERE org = $1 AND state <> 'closed')
SELECT counted.*, alerts.*, (SELECT count(*) FROM server_groups WHERE org = $1) FROM counted, alerts`

// Summary counts an organization's living servers and alerts that are not closed.
func (s *Store) Summary(ctx context.Context, org string) (Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var (
		sum  Summary
		last *time.Time
	)
	err := s.pool.QueryRow(ctx, summarySQL, org).Scan(&sum.Total, &sum.Active, &sum.Maintenance, &sum.Inactive, &sum.Healthy,
		&sum.Degraded, &sum.Critical, &sum.Unreachable, &sum.Unknown, &sum.Fresh, &sum.Stale, &sum.NeverChecked, &sum.Regions, &last,
		&sum.AlertsPending, &sum.AlertsOpen, &sum.AlertsAcknowledged, &sum.AlertsCritical, &sum.AlertsWarning, &sum.Groups)
	if err != nil {
		return Summary{}, fmt.Errorf("read summary: %w", err)
	}
	sum.LastCheck = fromNull(last)
	return sum, nil
}

// ServerRef is what names a living server.
type ServerRef struct {
	ID              uuid.UUID
	Name, Lifecycle string
	HealthStatus    string
}

// FindServer returns a living server of an organization by its id or its name; the error matches [ErrNotFound].
func (s *Store) FindServer(ctx context.Context, org, idOrName string) (ServerRef, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var id *uuid.UUID
	if parsed, err := uuid.Parse(idOrName); err == nil && len(idOrName) == 36 {
		id = &parsed
	}
	var ref ServerRef
	err := s.pool.QueryRow(ctx, `
		SELECT id, name, lifecycle, health_status FROM managed_servers
		WHERE org = $1 AND (id = $2 OR ($2::uuid IS NULL AND name = $3)) AND removed_at IS NULL`, org, id, idOrName).
		Scan(&ref.ID, &ref.Name, &ref.Lifecycle, &ref.HealthStatus)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return ServerRef{}, fmt.Errorf("find server: %w", err)
	}
	return ref, nil
}

// RunTarget is a check at a place from where it can be run now.
type RunTarget struct {
	ServerID, CheckID   uuid.UUID
	Server, Check, Kind string
	Location            string
	Timeout             time.Duration
}

// RunTargets returns the enabled checks of an organization's living servers that can be run on demand, in the order of
// servers, checks and locations: those of one server, or of all when server is zero; those of a kind, or of all but
// metrics when kind is empty; those of a name, or of all when check is empty. At most limit of them.
func (s *Store) RunTargets(ctx context.Context, org string, server uuid.UUID, kind, check string, limit int) ([]RunTarget, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var id *uuid.UUID
	if server != uuid.Nil {
		id = &server
	}
	rows, err := s.pool.Query(ctx, `
		SELECT s.id, c.id, s.name, c.name, c.kind, l, c.timeout_ms
		FROM managed_servers s JOIN checks c ON c.server_id = s.id CROSS JOIN unnest(c.locations) AS l
		WHERE s.org = $1 AND s.removed_at IS NULL AND s.lifecycle <> 'inactive' AND c.enabled AND c.kind <> 'reported'
		  AND ($2::uuid IS NULL OR s.id = $2) AND CASE $3 WHEN '' THEN c.kind <> 'metrics' ELSE c.kind = $3 END AND ($4 = '' OR c.name = $4)
		ORDER BY s.name, c.name, l LIMIT $5`, org, id, kind, check, limit)
	if err != nil {
		return nil, fmt.Errorf("read checks to run: %w", err)
	}
	targets, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (RunTarget, error) {
		var (
			t  RunTarget
			ms int64
		)
		err := row.Scan(&t.ServerID, &t.CheckID, &t.Server, &t.Check, &t.Kind, &t.Location, &ms)
		t.Timeout = time.Duration(ms) * time.Millisecond
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("read checks to run: %w", err)
	}
	return targets, nil
}
