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
       (SELECT count(*) FROM alert_outbox)`

// serverFiguresSQL looks at the checks of those servers alone that were not seen lately.
const serverFiguresSQL = `
SELECT s.health_status, count(*), count(*) FILTER (WHERE s.last_seen_at >= $1::timestamptz - interval '5 minutes'
       OR s.last_seen_at >= $1::timestamptz - 3 * interval '1 millisecond' *
          (SELECT min(c.interval_ms) FROM checks c WHERE c.server_id = s.id AND c.enabled AND c.removed_at IS NULL))
FROM managed_servers s WHERE s.removed_at IS NULL AND s.lifecycle <> 'inactive' GROUP BY 1`

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
	err := s.pool.QueryRow(ctx, figuresSQL).Scan(&f.Connections, &f.SizeBytes, &f.Undelivered)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	var (
		word      string
		n, online int
	)
	rows, err := s.pool.Query(ctx, serverFiguresSQL, now)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	_, err = pgx.ForEachRow(rows, []any{&word, &n, &online}, func() error {
		f.Servers[word] = n
		f.Online, f.Stale = f.Online+online, f.Stale+n-online
		return nil
	})
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	rows, err = s.pool.Query(ctx, `SELECT state, count(*) FROM system_alerts WHERE state <> 'closed' GROUP BY 1`)
	if err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	if _, err := pgx.ForEachRow(rows, []any{&word, &n}, func() error { f.Alerts[word] = n; return nil }); err != nil {
		return Figures{}, fmt.Errorf("read figures: %w", err)
	}
	rows, err = s.pool.Query(ctx, `SELECT name, health_status = 'healthy' FROM managed_servers
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
