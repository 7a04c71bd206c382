package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// CostBy is what costs are added up by.
type CostBy string

// The ways.
const (
	CostByServer       CostBy = "server"
	CostByGroup        CostBy = "group" // a server in several groups counts in each
	CostByOrganization CostBy = "organization"
	CostByDay          CostBy = "day"
)

// CostQuery picks costs.
type CostQuery struct {
	Org string // empty: all organizations
	// From and To are widened to whole days, UTC: [From, To).
	From, To time.Time
	By       CostBy
	// Daily splits each sum by day. By day, it changes nothing.
	Daily bool
}

// Cost is what was spent.
type Cost struct {
	Org string
	// Key is the UUID of a server or group, the slug of an organization, or a day (2026-11-21).
	Key string
	// Name of the server or group; otherwise the same as Key.
	Name string
	// Day in UTC; zero when days are added up.
	Day time.Time
	// USD is exact.
	USD json.Number
}

// costsSQL adds up increases of llm_cost_usd, see Counter: what was spent between two readings belongs to the day of the
// later one. Locations read the same meter, so that the one which saw most of a day counts.
const costsSQL = `
WITH running AS (
    SELECT org, server_id, check_id, location, bucket,
           picket_counters(llm_cost_usd) OVER (PARTITION BY server_id, check_id, location ORDER BY bucket) AS run
    FROM server_metrics_1d_sums
    WHERE ($1 = '' OR org = $1) AND bucket >= $2::timestamptz - interval '31 days' AND bucket < $3 AND llm_cost_usd IS NOT NULL),
added AS (
    SELECT *, run[3] - coalesce(lag(run[3]) OVER (PARTITION BY server_id, check_id, location ORDER BY bucket), 0) AS usd FROM running),
meters AS (
    SELECT org, server_id, check_id, bucket, max(usd) AS usd FROM added WHERE bucket >= $2 GROUP BY org, server_id, check_id, bucket),
spent AS (
    SELECT org, server_id, bucket, sum(usd) AS usd FROM meters GROUP BY org, server_id, bucket)
`

// Costs returns what servers spent by llm_cost_usd, in the order of organization, name and day. What was never reported
// is not there. The error wraps [ErrQuery] for a CostBy that there is not.
func (s *Store) Costs(ctx context.Context, q CostQuery) ([]Cost, error) {
	from := q.From.UTC().Truncate(24 * time.Hour)
	to := q.To.UTC().Add(24*time.Hour - 1).Truncate(24 * time.Hour)
	day := `NULL::timestamptz`
	if q.Daily || q.By == CostByDay {
		day = `bucket`
	}
	var key, name, join string
	switch q.By {
	case CostByServer:
		key, name, join = `spent.server_id::text`, `m.name`, `JOIN managed_servers m ON m.id = spent.server_id`
	case CostByGroup:
		key, name = `g.id::text`, `g.name`
		join = `JOIN v_group_members v ON v.server_id = spent.server_id AND v.org = spent.org JOIN server_groups g ON g.id = v.group_id`
	case CostByOrganization:
		key, name = `spent.org`, `spent.org`
	case CostByDay:
		key = `to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD')`
		name = key
	default:
		return nil, fmt.Errorf("%w: costs by %q", ErrQuery, q.By)
	}
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, costsSQL+`SELECT spent.org, `+key+`, `+name+`, `+day+` AS day, trim_scale(sum(usd))::text
		FROM spent `+join+` GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 2, 4`, q.Org, from, to)
	if err != nil {
		return nil, fmt.Errorf("read costs: %w", err)
	}
	costs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Cost, error) {
		var c Cost
		var day *time.Time
		var usd string
		err := row.Scan(&c.Org, &c.Key, &c.Name, &day, &usd)
		c.Day, c.USD = fromNull(day), json.Number(usd)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("read costs: %w", err)
	}
	return costs, nil
}
