package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSystemMetrics(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := newMetricWriter(s)
	now := time.Now().UTC().Truncate(time.Hour).Add(10 * time.Minute)
	start := now.Add(-2 * time.Hour)
	var rows []Metric
	for i := range 121 {
		at := start.Add(time.Duration(i) * time.Minute)
		received := float64(i * 60) // one a second
		if i >= 100 {
			received = float64((i-100)*60 + 30) // restarted half a minute after tick 99
		}
		rows = append(rows, Metric{Org: "default", Location: "local", ScheduledAt: at, Samples: []Sample{
			{Org: "default", Name: "connections", Service: "postgres", Time: at, Value: float64(i)},
			{Org: "default", Name: "messages", Service: "nats", Time: at, Value: received, Tags: Tags(map[string]string{"stream": "a", "x": "1"})},
			{Org: "default", Name: "messages", Service: "nats", Time: at, Value: 5, Tags: Tags(map[string]string{"stream": "b"})},
			{Org: "acme", Name: "connections", Service: "postgres", Time: at, Value: 99},
		}})
	}
	if got := writeMetrics(t, w, rows, false); got.Samples != 4*121 {
		t.Fatalf("%+v", got)
	}
	read := func(q SystemMetricsQuery) []SystemMetric {
		t.Helper()
		q.From, q.To = start, now.Add(time.Second)
		got, err := s.SystemMetrics(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	all := read(SystemMetricsQuery{Org: "default", Names: []string{"connections"}})
	if len(all) != 121 || all[0].Value != 120 || !all[0].Time.Equal(now) || all[120].Value != 0 || all[0].Service != "postgres" {
		t.Errorf("%d figures, newest %+v", len(all), all[0])
	}
	rates := read(SystemMetricsQuery{Org: "default", Services: []string{"nats"}, Tags: map[string]string{"stream": "a"}, Rate: true})
	if len(rates) != 120 {
		t.Fatalf("%d rates, want one less than figures", len(rates))
	}
	for i, r := range rates {
		want := 1.0
		if i == 20 {
			want = 0.5 // a restart: what it shows since is all that is known
		}
		if r.Value != want || r.Tags["stream"] != "a" {
			t.Fatalf("rate %d is %+v, want %v", i, r, want)
		}
	}
	// In pages, with two figures of one instant.
	q := SystemMetricsQuery{Org: "default", Names: []string{"messages"}, Limit: 7}
	seen := map[string]bool{}
	for {
		page := read(q)
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			key := fmt.Sprint(m.Time, m.Tags)
			if seen[key] {
				t.Fatalf("%s twice", key)
			}
			seen[key] = true
		}
		q.After, q.AfterSeries = page[len(page)-1].Time, page[len(page)-1].Series
	}
	if len(seen) != 242 {
		t.Errorf("%d figures in pages, want 242", len(seen))
	}
	latest, err := s.LatestSystemMetrics(t.Context(), SystemMetricsQuery{Org: "default"}, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(latest) != 3 || latest[0].Service != "nats" || latest[2].Value != 120 || !latest[2].Time.Equal(now) {
		t.Errorf("latest %+v", latest)
	}
	if latest, err = s.LatestSystemMetrics(t.Context(), SystemMetricsQuery{Org: "default"}, now.Add(time.Hour)); err != nil || len(latest) != 0 {
		t.Errorf("of an hour ago: %+v, %v", latest, err)
	}
	for _, when := range []string{"before", "after"} {
		hours, err := s.SystemMetrics(t.Context(), SystemMetricsQuery{
			Org: "default", Names: []string{"connections"}, From: start.Truncate(time.Hour), To: now, Hourly: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		// 10 minutes past the hour to 10 past: 50, 60 and 11 figures.
		if len(hours) != 3 || hours[1].Value != 79.5 || hours[1].Max != 109 || hours[1].Min != 50 || hours[0].Max != 120 || hours[2].Min != 0 {
			t.Errorf("%s the roll-up: hours %+v", when, hours)
		}
		rollUp(t, s, now)
	}
	if _, err := s.SystemMetrics(t.Context(), SystemMetricsQuery{Rate: true, Hourly: true}); !errors.Is(err, ErrQuery) {
		t.Errorf("rate of hours: %v", err)
	}
	if _, err := s.ServerMetrics(t.Context(), MetricsQuery{Period: "2m"}); !errors.Is(err, ErrQuery) {
		t.Errorf("period 2m: %v", err)
	}
	if _, err := s.Costs(t.Context(), CostQuery{By: "colour"}); !errors.Is(err, ErrQuery) {
		t.Errorf("costs by colour: %v", err)
	}
}

func TestPositionMovesForward(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	load := func() Position {
		t.Helper()
		at, err := s.LoadPosition(t.Context(), "STREAM", "consumer")
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if at := load(); at != (Position{}) {
		t.Errorf("of nothing: %+v", at)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, step := range []struct{ epoch, seq, wantEpoch, wantSeq int64 }{{1, 10, 1, 10}, {1, 9, 1, 10}, {2, 3, 2, 3}, {1, 99, 2, 3}} {
		if err := s.SavePosition(t.Context(), "STREAM", "consumer", Position{Epoch: step.epoch, Seq: step.seq, At: now}); err != nil {
			t.Fatal(err)
		}
		if at := load(); at.Epoch != step.wantEpoch || at.Seq != step.wantSeq || !at.At.Equal(now) {
			t.Errorf("after %+v: %+v", step, at)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	now := time.Now()
	server := func(name, source, lifecycle, health string, seen time.Duration, interval time.Duration) {
		exec(t, s, `WITH s AS (
			    INSERT INTO managed_servers (org, name, managed_by, lifecycle, health_status, last_seen_at)
			    VALUES ('default', $1, $2, $3, $4, $5::timestamptz) RETURNING id)
			INSERT INTO checks (server_id, revision, interval_ms, timeout_ms, name, kind, locations, spec)
			SELECT id, 1, $6, 100, 'health', 'http', '{local}', '{}' FROM s`,
			name, source, lifecycle, health, nullTime(now.Add(-seen)), interval.Milliseconds())
	}
	server("fresh", "env", "active", "healthy", time.Minute, time.Minute)
	server("late", "env", "active", "unreachable", 6*time.Minute, time.Minute)
	server("slow", "file", "maintenance", "critical", 20*time.Minute, 10*time.Minute)
	server("blind", "self", "active", "unknown", time.Hour, time.Minute)
	server("off", "env", "inactive", "healthy", time.Minute, time.Minute)
	exec(t, s, `UPDATE managed_servers SET last_seen_at = NULL WHERE name = 'blind'`)
	exec(t, s, `INSERT INTO system_alerts (id, since, pending_at, trigger_count, org, fingerprint, kind, severity, state, server, check_name, location, reason, summary, details)
		SELECT gen_random_uuid(), now(), now(), 1, 'default', i::text, 'k', 'info', CASE WHEN i = 1 THEN 'acknowledged' ELSE 'open' END, 's', '', '', '', '', '{}' FROM generate_series(1, 3) i`)
	exec(t, s, `INSERT INTO alert_outbox (event_id, event) VALUES (gen_random_uuid(), '')`)
	f, err := s.Figures(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	if f.Connections < 1 || f.SizeBytes < 1_000_000 || f.Online != 2 || f.Stale != 2 || f.Undelivered != 1 {
		t.Errorf("%+v", f)
	}
	want := map[string]int{"healthy": 1, "degraded": 0, "critical": 1, "unreachable": 1, "unknown": 1}
	if diff := cmp.Diff(want, f.Servers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"pending": 0, "open": 2, "acknowledged": 1}, f.Alerts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]bool{"fresh": true, "late": false}, f.Healthy); diff != "" {
		t.Error(diff)
	}
}
