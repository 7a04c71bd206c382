package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Figures are what the database knows about itself and about the fleet.
type Figures struct {
	// Connections to this database, those of others included.
	Connections int
	// SizeBytes of this database on disk.
	SizeBytes int64

	// Servers by health status, maintenance included, inactive and removed ones not.
	Servers map[string]int
	// Online servers answered within five minutes, or three intervals of their most frequent check when that is longer;
	// Stale ones did not, or never.
	Online, Stale int
	// Alerts by state: pending, open, acknowledged.
	Alerts map[string]int
	// Undelivered transitions of alerts are decided and not yet in the stream.
	Undelivered int
	// Healthy is, for the servers of the default organization that Picket's environment and Picket itself declare,
	// whether they are; those nobody could look at are not in it.
	Healthy map[string]bool
}

// mostHealthy bounds Figures.Healthy, and so the message that it travels in.
const mostHealthy = 2000

const figuresSQL = `
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
       pg_database_size(current_database()),
       (SELECT count(*) FROM alert_outbox),
       count(*) FILTER (WHERE seen), count(*) FILTER (WHERE seen IS NOT TRUE)
FROM (SELECT s.last_seen_at >= $1::timestamptz - greatest(interval '5 minutes', 3 * k.shortest * interval '1 millisecond') AS seen
      FROM managed_servers s
      LEFT JOIN (SELECT server_id, min(interval_ms) AS shortest FROM checks WHERE enabled AND removed_at IS NULL GROUP BY server_id) k
        ON k.server_id = s.id
      WHERE s.removed_at IS NULL AND s.lifecycle <> 'inactive') seen`

// Figures reads them now.
func (s *Store) Figures(ctx context.Context, now time.Time) (Figures, error) {
	f := Figures{Servers: map[string]int{}, Alerts: map[string]int{}, Healthy: map[string]bool{}}
	for _, status := range []string{"healthy", "degraded", "critical", "unreachable", "unknown"} {
		f.Servers[status] = 0
	}
	for _, state := range []string{"pending", "open", "acknowledged"} {
		f.Alerts[state] = 0
	}
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err := s.pool.QueryRow(ctx, figuresSQL, now).Scan(&f.Connections, &f.SizeBytes, &f.Undelivered, &f.Online, &f.Stale)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	for sql, counts := range map[string]map[string]int{
		`SELECT health_status, count(*) FROM managed_servers WHERE removed_at IS NULL AND lifecycle <> 'inactive' GROUP BY 1`: f.Servers,
		`SELECT state, count(*) FROM system_alerts WHERE state <> 'closed' GROUP BY 1`:                                        f.Alerts,
	} {
		var word string
		var n int
		rows, err := s.pool.Query(ctx, sql)
		if err != nil {
			return Figures{}, fmt.Errorf("read figures: %w", err)
		}
		if _, err := pgx.ForEachRow(rows, []any{&word, &n}, func() error { counts[word] = n; return nil }); err != nil {
			return Figures{}, fmt.Errorf("read figures: %w", err)
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT name, health_status = 'healthy' FROM managed_servers
		WHERE org = 'default' AND managed_by IN ('env', 'self') AND removed_at IS NULL AND lifecycle <> 'inactive' AND health_status <> 'unknown'
		ORDER BY name LIMIT $1`, mostHealthy)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	var name string
	var healthy bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &healthy}, func() error { f.Healthy[name] = healthy; return nil }); err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	return f, nil
}
