package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Every tenth server fails three times in a row out of each thirty: at 3,000 results a second that are ten alerts that open
// and ten that close.
const (
	failEvery  = 10
	failPeriod = 30
	failTimes  = 3
)

// runLoad publishes a result for each check once an interval, as a prober would, started at the instant it is published.
func runLoad(ctx context.Context, s spec) (part, error) {
	return publishing(ctx, s, len(s.Checks), func(i, round int, at time.Time, instance string) bus.Message {
		of := s.Checks[i]
		m := healthy(of, at, instance)
		if i%failEvery == 0 && (round+i/failEvery)%failPeriod < failTimes {
			result, ok := m.Payload.(*picketv1.ProbeResult)
			if !ok {
				return m
			}
			result.Status, result.Reason, result.HttpStatus = picketv1.Status_STATUS_CRITICAL, "http_status", 503
			m.Subject = bus.ProbeSubject("default", result.GetStatus(), "local", of.Server, "health")
		}
		return m
	})
}

// measureLatency lets the writer and the alerter work on a stream that is fed at a fixed rate. When a row was committed
// PostgreSQL says itself (track_commit_timestamp), by the same clock by which results are stamped.
func measureLatency(ctx context.Context, b *bench) ([]row, error) {
	const rate = 3000
	const interval = time.Second
	s, err := b.startStack(ctx, "latency", map[string]string{"track_commit_timestamp": "on"})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	urls := make([]string, rate)
	for i := range urls {
		urls[i] = fmt.Sprintf("http://127.1.%d.%d:1/health", i/250, 1+i%250) // nobody looks
	}
	config, err := b.catalogFile("latency.yaml", urls, interval, false)
	if err != nil {
		return nil, err
	}
	for _, service := range []string{"catalog", "writer", "alerter"} {
		if err := s.add(ctx, service, service, "PICKET_CONFIG="+config); err != nil {
			return nil, err
		}
	}
	conn, checks, err := s.checks(ctx, rate)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.Background()) }() // of a connection that was read from
	load, err := b.start(ctx, spec{Role: "load", NATS: s.natsURL, Checks: checks, Interval: interval}, &struct{}{})
	if err != nil {
		return nil, err
	}
	loading := true
	defer func() {
		if loading {
			load.stop()
		}
	}()
	if err := wait(ctx, 2*b.Warm); err != nil {
		return nil, err
	}
	from := time.Now()
	before, err := s.uses()
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, 3*b.Window); err != nil {
		return nil, err
	}
	to := time.Now()
	after, err := s.uses()
	if err != nil {
		return nil, err
	}
	if _, err := load.work(); err != nil {
		return nil, err
	}
	load.stop()
	loading = false
	if err := until(ctx, "the writer has acknowledged everything", time.Minute, func() (bool, error) {
		left, err := s.backlog(ctx)
		return left < 100, err // clock ticks go on
	}); err != nil {
		return nil, err
	}
	stored, err := delays(ctx, conn, `
		SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - started_at)::float8 AS took
		FROM server_health_checks WHERE started_at >= $1 AND started_at < $2`, from, to)
	if err != nil {
		return nil, err
	}
	alerted, err := delays(ctx, conn, `
		SELECT extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - h.started_at)::float8 AS took
		FROM alert_events e JOIN server_health_checks h USING (stream_epoch, stream_seq)
		WHERE e.transition IN ('opened', 'closed') AND h.started_at >= $1 AND h.started_at < $2`, from, to)
	if err != nil {
		return nil, err
	}
	want := rate * to.Sub(from).Seconds() / interval.Seconds()
	if got := float64(stored.n); got < 0.98*want || got > 1.02*want {
		return nil, fmt.Errorf("%.0f results came in a time for %.0f: the machine is too busy", got, want)
	}
	if alerted.n == 0 {
		return nil, fmt.Errorf("no alert opened")
	}
	b.note("%d rows: p50 %.0f ms, max %.0f ms; %d alerts opened or closed: p50 %.0f ms, max %.0f ms; by PostgreSQL's commit timestamps, without the flush of the log",
		stored.n, stored.p50, stored.max, alerted.n, alerted.p50, alerted.max)
	for i := range after {
		b.note("%-12s %6.1f µs a result", after[i].name, float64((after[i].cpu-before[i].cpu).Microseconds())/float64(stored.n))
	}
	return []row{
		row{
			What: "result published → row committed, p99 at 3,000/s", Picket: fmt.Sprintf("%.0f ms", stored.p99), Goal: "≤ 500 ms",
		}.reached(stored.p99 <= 500),
		row{
			What: "deciding result published → alert committed, p99 at 3,000/s", Picket: fmt.Sprintf("%.0f ms", alerted.p99), Goal: "≤ 250 ms",
		}.reached(alerted.p99 <= 250),
	}, nil
}

// checks waits until the catalog has checks of the fleet, and returns them with a connection to the database.
func (s *stack) checks(ctx context.Context, n int) (*pgx.Conn, []subject, error) {
	conn, err := pgx.Connect(ctx, s.database.URL)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the database: %w", err)
	}
	var checks []subject
	err = until(ctx, "the catalog has its checks", 2*time.Minute, func() (bool, error) {
		rows, err := conn.Query(ctx, `SELECT c.id::text, s.name FROM checks c JOIN managed_servers s ON s.id = c.server_id
			WHERE s.name LIKE 'sim-%' ORDER BY s.name`)
		if err != nil {
			return false, fmt.Errorf("read checks: %w", err)
		}
		checks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[subject])
		return len(checks) == n, err
	})
	return conn, checks, err
}

// delay is how long something took, in milliseconds.
type delay struct {
	n             int64
	p50, p99, max float64
}

func delays(ctx context.Context, conn *pgx.Conn, seconds string, from, to time.Time) (d delay, err error) {
	var quantiles []float64
	err = conn.QueryRow(ctx, `SELECT count(*), coalesce(percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY took), '{0,0,0}')
		FROM (`+seconds+`) delays`, from, to).Scan(&d.n, &quantiles)
	if err != nil {
		return d, fmt.Errorf("read delays: %w", err)
	}
	d.p50, d.p99, d.max = 1000*quantiles[0], 1000*quantiles[1], 1000*quantiles[2]
	return d, nil
}
