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
// later one. The reading before the first day is mostly of the day before, and looked for farther back only where it is
// not. Locations read the same meter, so that the one which saw most of a day counts.
const costsSQL = `
WITH near AS (
    SELECT * FROM server_cost_steps
    WHERE ($1 = '' OR org = $1) AND at >= $2::timestamptz - interval '1 day' AND at < $3),
alone AS (
    SELECT check_id, location FROM near GROUP BY check_id, location HAVING min(at) >= $2),
far AS (
    SELECT DISTINCT ON (s.check_id, s.location) s.* FROM server_cost_steps s JOIN alone USING (check_id, location)
    WHERE ($1 = '' OR s.org = $1) AND s.at >= $2::timestamptz - interval '31 days' AND s.at < $2::timestamptz - interval '1 day'
    ORDER BY s.check_id, s.location, s.at DESC),
steps AS (
    SELECT *, lag(cost[2]) OVER (PARTITION BY org, server_id, check_id, location ORDER BY at) AS before
    FROM (SELECT * FROM near UNION ALL SELECT * FROM far) readings),
meters AS (
    SELECT org, server_id, check_id, location, date_bin(interval '1 day', at, timestamptz '2000-01-01 00:00:00+00') AS bucket,
           sum(cost[3] + CASE WHEN before IS NULL THEN 0 ELSE picket_increase(before, cost[1]) END) AS usd
    FROM steps WHERE at >= $2 GROUP BY org, server_id, check_id, location, bucket),
checked AS (
    SELECT org, server_id, check_id, bucket, max(usd) AS usd FROM meters GROUP BY org, server_id, check_id, bucket),
spent AS (
    SELECT org, server_id, bucket, sum(usd) AS usd FROM checked GROUP BY org, server_id, bucket)
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
	var costs []Cost
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, manyRowsSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, costsSQL+`SELECT spent.org, `+key+`, `+name+`, `+day+` AS day, trim_scale(sum(usd))::text
			FROM spent `+join+` GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 2, 4`, q.Org, from, to)
		if err != nil {
			return err
		}
		costs, err = pgx.CollectRows(rows, scanCost)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read costs: %w", err)
	}
	return costs, nil
}

func scanCost(row pgx.CollectableRow) (Cost, error) {
	var (
		c   Cost
		day *time.Time
		usd string
	)
	err := row.Scan(&c.Org, &c.Key, &c.Name, &day, &usd)
	c.Day, c.USD = fromNull(day), json.Number(usd)
	return c, err
}
