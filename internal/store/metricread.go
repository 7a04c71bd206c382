package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ErrQuery is wrapped by errors about what was asked for.
var ErrQuery = errors.New("bad query")

// The most rows of one page.
const (
	MostServerMetrics = 10_000
	MostSystemMetrics = 10_000
)

// MetricsQuery picks figures of one server.
type MetricsQuery struct {
	Org    string    // required: a server of another organization has no figures
	Server uuid.UUID // required
	// Period is 1m (readings as they came, whatever their interval), 5m, 1h or 1d; empty: 1m.
	Period   string
	From, To time.Time // [From, To)
	Limit    int       // at most so many, the newest; at most MostServerMetrics
	// After continues behind the last row of the page before; zero: from the newest.
	After MetricKey
}

// MetricKey is the place of a row in the order of [Store.ServerMetrics].
type MetricKey struct {
	At       time.Time `json:"at"`
	CheckID  uuid.UUID `json:"check_id"`
	Location string    `json:"location"`
}

// Gauge is a figure that goes up and down, over a bucket; nil when it was not shown. In a reading both are the same.
type Gauge struct{ Avg, Max *float64 }

// Counter is a figure that its server only ever adds to; empty when it was not shown. The numbers are exact decimals.
type Counter struct {
	// Reading is what the counter showed last.
	Reading json.Number
	// Increase is what was added since the reading before, in this bucket or before it: the sum over buckets is the sum of
	// all. A reading below the one before is a restart of the server, and counts whole. The very first reading adds
	// nothing; neither does one after more than 31 days.
	Increase json.Number
}

// ServerMetric is the figures of a server at a tick, or in a bucket that begins then.
type ServerMetric struct {
	MetricKey
	Period   string
	Samples  int64
	OnDemand bool // of a reading: a person asked for it

	CPUPercent, MemoryPercent, DiskPercent        Gauge
	ActiveServices, FailedServices, TotalServices Gauge
	ActiveUsers, TotalUsers                       Gauge

	NetworkRxBytes, NetworkTxBytes, LLMRequests, LLMCostUSD Counter

	// Extra is a JSON object of what else was shown, of a reading; nil: nothing.
	Extra []byte
}

// serverMetricsSQL is made for each period by metricsSQL. A running join of counters handles readings that are not
// there, and restarts; what a row adds is the difference of two of its states.
const serverMetricsSQL = `
WITH source AS NOT MATERIALIZED (%s),
page AS (
    SELECT * FROM source
    WHERE org = $1 AND check_id = ANY ($2) AND at >= $3 AND at < $4
      AND ($5::timestamptz IS NULL OR (at, check_id, location) < ($5, $6::uuid, $7::text))
    ORDER BY at DESC, check_id DESC, location DESC LIMIT $8),
before AS (
    SELECT p.* FROM (SELECT check_id, location, min(at) AS first FROM page GROUP BY check_id, location) f
    CROSS JOIN LATERAL (
        SELECT * FROM source s WHERE s.check_id = f.check_id AND s.location = f.location
          AND s.at < f.first AND s.at >= f.first - interval '31 days'
        ORDER BY s.at DESC LIMIT 1) p),
running AS (
    SELECT *, picket_counters(rx) OVER w AS rx_run, picket_counters(tx) OVER w AS tx_run,
           picket_counters(requests) OVER w AS requests_run, picket_counters(cost) OVER w AS cost_run
    FROM (SELECT *, true AS shown FROM page UNION ALL SELECT *, false FROM before) u
    WINDOW w AS (PARTITION BY check_id, location ORDER BY at)),
added AS (
    SELECT *, rx_run[3] - coalesce(lag(rx_run[3]) OVER w, 0) AS rx_added, tx_run[3] - coalesce(lag(tx_run[3]) OVER w, 0) AS tx_added,
           requests_run[3] - coalesce(lag(requests_run[3]) OVER w, 0) AS requests_added, cost_run[3] - coalesce(lag(cost_run[3]) OVER w, 0) AS cost_added
    FROM running WINDOW w AS (PARTITION BY check_id, location ORDER BY at))
SELECT at, check_id, location, samples, on_demand, extra,
       cpu_percent, cpu_percent_max, memory_percent, memory_percent_max, disk_percent, disk_percent_max,
       active_services, active_services_max, failed_services, failed_services_max, total_services, total_services_max,
       active_users, active_users_max, total_users, total_users_max,
       rx[2]::text, CASE WHEN rx IS NOT NULL THEN rx_added::text END, tx[2]::text, CASE WHEN tx IS NOT NULL THEN tx_added::text END,
       requests[2]::text, CASE WHEN requests IS NOT NULL THEN requests_added::text END,
       trim_scale(cost[2])::text, CASE WHEN cost IS NOT NULL THEN trim_scale(cost_added)::text END
FROM added WHERE shown ORDER BY at DESC, check_id DESC, location DESC`

// metricsSQL is the query for a period.
func metricsSQL(period string) (string, error) {
	var source strings.Builder
	gauges := []string{
		"cpu_percent", "memory_percent", "disk_percent", "active_services", "failed_services", "total_services", "active_users", "total_users",
	}
	counters := [][2]string{{"rx", "network_rx_bytes"}, {"tx", "network_tx_bytes"}, {"requests", "llm_requests"}, {"cost", costName}}
	switch period {
	case "1m":
		source.WriteString(`SELECT scheduled_at AS at, org, server_id, check_id, location, 1::bigint AS samples, on_demand, extra`)
		for _, g := range gauges {
			fmt.Fprintf(&source, `, %[1]s::double precision AS %[1]s, %[1]s::double precision AS %[1]s_max`, g)
		}
		for _, c := range counters {
			fmt.Fprintf(&source, `, CASE WHEN %[2]s IS NOT NULL THEN ARRAY[%[2]s, %[2]s, 0]::numeric[] END AS %[1]s`, c[0], c[1])
		}
		source.WriteString(` FROM server_metrics_aggregated`)
	case "5m", "1h", "1d":
		source.WriteString(`SELECT bucket AS at, org, server_id, check_id, location, samples, false AS on_demand, NULL::jsonb AS extra`)
		for _, g := range gauges {
			fmt.Fprintf(&source, `, %[1]s_sum / nullif(%[1]s_n, 0) AS %[1]s, %[1]s_max`, g)
		}
		for _, c := range counters {
			fmt.Fprintf(&source, `, %[2]s AS %[1]s`, c[0], c[1])
		}
		fmt.Fprintf(&source, ` FROM server_metrics_%s_sums`, period)
	default:
		return "", fmt.Errorf("%w: period %q is not one of 1m, 5m, 1h, 1d", ErrQuery, period)
	}
	return fmt.Sprintf(serverMetricsSQL, source.String()), nil
}

// ServerMetrics returns figures of a server, newest first. A server that is collected at several locations has a row for
// each. The newest bucket is there before it has ended; a bucket that got rows late shows them within a minute in plain
// mode, and after the next refresh of its continuous aggregate on TimescaleDB (5 minutes for 5m, 15 for 1h, an hour for
// 1d). The error wraps [ErrQuery] for a period that there is not.
func (s *Store) ServerMetrics(ctx context.Context, q MetricsQuery) ([]ServerMetric, error) {
	if q.Period == "" {
		q.Period = "1m"
	}
	sql, err := metricsSQL(q.Period)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	// By key: no other index leads to a server, and only a list reaches through the parts of a roll-up.
	checks := []uuid.UUID{}
	err = s.pool.QueryRow(ctx, `SELECT coalesce(array_agg(c.id), '{}') FROM checks c JOIN managed_servers s ON s.id = c.server_id
		WHERE s.id = $1 AND s.org = $2`, q.Server, q.Org).Scan(&checks)
	if err != nil {
		return nil, fmt.Errorf("read server metrics: %w", err)
	}
	rows, err := s.pool.Query(ctx, sql, q.Org, checks, q.From, q.To, nullTime(q.After.At), q.After.CheckID, q.After.Location,
		pageLimit(q.Limit, MostServerMetrics))
	if err != nil {
		return nil, fmt.Errorf("read server metrics: %w", err)
	}
	metrics, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ServerMetric, error) { return scanServerMetric(row, q.Period) })
	if err != nil {
		return nil, fmt.Errorf("read server metrics: %w", err)
	}
	return metrics, nil
}

func pageLimit(asked, most int) int {
	if asked <= 0 {
		return most
	}
	return min(asked, most)
}

func scanServerMetric(row pgx.CollectableRow, period string) (ServerMetric, error) {
	m := ServerMetric{Period: period}
	var numbers [8]*string
	err := row.Scan(&m.At, &m.CheckID, &m.Location, &m.Samples, &m.OnDemand, &m.Extra,
		&m.CPUPercent.Avg, &m.CPUPercent.Max, &m.MemoryPercent.Avg, &m.MemoryPercent.Max, &m.DiskPercent.Avg, &m.DiskPercent.Max,
		&m.ActiveServices.Avg, &m.ActiveServices.Max, &m.FailedServices.Avg, &m.FailedServices.Max,
		&m.TotalServices.Avg, &m.TotalServices.Max, &m.ActiveUsers.Avg, &m.ActiveUsers.Max, &m.TotalUsers.Avg, &m.TotalUsers.Max,
		&numbers[0], &numbers[1], &numbers[2], &numbers[3], &numbers[4], &numbers[5], &numbers[6], &numbers[7])
	m.At = m.At.UTC()
	for i, counter := range []*Counter{&m.NetworkRxBytes, &m.NetworkTxBytes, &m.LLMRequests, &m.LLMCostUSD} {
		counter.Reading, counter.Increase = number(numbers[2*i]), number(numbers[2*i+1])
	}
	return m, err
}

func number(text *string) json.Number {
	if text == nil {
		return ""
	}
	return json.Number(*text)
}
