package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// SystemMetric is a figure of system_metrics.
type SystemMetric struct {
	Time    time.Time
	Org     string
	Name    string
	Service string
	Tags    map[string]string
	// Value is what was said; of hourly figures the average; with Rate the change per second.
	Value float64
	// Max and Min are those of an hour, else the value.
	Max, Min float64
	// Series tells figures apart that share name and service; for cursors.
	Series uuid.UUID
}

// SystemMetricsQuery picks figures of Picket's own parts.
type SystemMetricsQuery struct {
	Org      string            // empty: all
	Names    []string          // empty: all
	Services []string          // empty: all
	Tags     map[string]string // a figure must have all of them
	From, To time.Time         // [From, To)
	Limit    int               // at most so many, the newest; at most MostSystemMetrics
	// Hourly reads averages of hours, which are kept longer.
	Hourly bool
	// Rate makes cumulative figures changes per second: against the figure before of the same series, at most 25 hours
	// older; one below it is a restart, and counts whole. A first figure has no rate and is left out. Not with Hourly.
	Rate bool
	// After continues behind the last row of the page before; the zero time: from the newest.
	After       time.Time
	AfterSeries uuid.UUID
}

func (q *SystemMetricsQuery) args() ([]any, error) {
	if q.Hourly && q.Rate {
		return nil, fmt.Errorf("%w: no rate of hourly figures", ErrQuery)
	}
	tags := "{}"
	if len(q.Tags) > 0 {
		tags = Tags(q.Tags)
	}
	return []any{
		q.Org, nonNil(q.Names), nonNil(q.Services), tags, q.From, q.To, nullTime(q.After), q.AfterSeries, pageLimit(q.Limit, MostSystemMetrics),
	}, nil
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

const systemMetricsWhere = `
WHERE ($1 = '' OR org = $1) AND (cardinality($2::text[]) = 0 OR metric_name = ANY ($2)) AND (cardinality($3::text[]) = 0 OR service = ANY ($3))
  AND tags @> $4::jsonb AND %[1]s >= $5 AND %[1]s < $6 AND ($7::timestamptz IS NULL OR (%[1]s, series) < ($7, $8::uuid))
`

// SystemMetrics returns figures, newest first. The error wraps [ErrQuery] for what does not go together.
func (s *Store) SystemMetrics(ctx context.Context, q SystemMetricsQuery) ([]SystemMetric, error) {
	args, err := q.args()
	if err != nil {
		return nil, err
	}
	const order = ` ORDER BY 1 DESC, series DESC LIMIT $9`
	var sql string
	switch {
	case q.Hourly:
		sql = `SELECT bucket, org, metric_name, service, tags, avg_value, max_value, min_value, series FROM system_metrics_hourly` +
			fmt.Sprintf(systemMetricsWhere, "bucket") + order
	case q.Rate:
		sql = `SELECT m.time, org, metric_name, service, tags, r.rate, r.rate, r.rate, series FROM system_metrics m
			CROSS JOIN LATERAL (
			    SELECT CASE WHEN m.value >= p.value THEN m.value - p.value ELSE m.value END / extract(epoch FROM m.time - p.time)::double precision AS rate
			    FROM system_metrics p WHERE p.metric_name = m.metric_name AND p.service = m.service AND p.series = m.series
			      AND p.time < m.time AND p.time >= m.time - interval '25 hours' ORDER BY p.time DESC LIMIT 1) r` +
			fmt.Sprintf(systemMetricsWhere, "m.time") + order
	default:
		sql = `SELECT time, org, metric_name, service, tags, value, value, value, series FROM system_metrics` +
			fmt.Sprintf(systemMetricsWhere, "time") + order
	}
	return s.systemMetrics(ctx, sql, args...)
}

// LatestSystemMetrics returns the newest figure of each series that had one in the last 15 minutes, in the order of
// service, name and tags. Of the query only Org, Names, Services, Tags and Limit count.
func (s *Store) LatestSystemMetrics(ctx context.Context, q SystemMetricsQuery, now time.Time) ([]SystemMetric, error) {
	q.From, q.To, q.After = now.Add(-15*time.Minute), now.Add(time.Minute), time.Time{}
	args, err := q.args()
	if err != nil {
		return nil, err
	}
	return s.systemMetrics(ctx, `
		SELECT * FROM (
		    SELECT DISTINCT ON (metric_name, service, series) time, org, metric_name, service, tags, value, value, value, series
		    FROM system_metrics`+fmt.Sprintf(systemMetricsWhere, "time")+`
		    ORDER BY metric_name, service, series, time DESC) newest
		ORDER BY service, metric_name, tags::text LIMIT $9`, args...)
}

func (s *Store) systemMetrics(ctx context.Context, sql string, args ...any) ([]SystemMetric, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read system metrics: %w", err)
	}
	metrics, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (SystemMetric, error) {
		var m SystemMetric
		var tags []byte
		err := row.Scan(&m.Time, &m.Org, &m.Name, &m.Service, &tags, &m.Value, &m.Max, &m.Min, &m.Series)
		if err != nil {
			return m, err
		}
		m.Time = m.Time.UTC()
		return m, json.Unmarshal(tags, &m.Tags)
	})
	if err != nil {
		return nil, fmt.Errorf("read system metrics: %w", err)
	}
	return metrics, nil
}
