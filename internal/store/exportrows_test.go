package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// exportFixture is a small fleet of two organizations with history. Everything of acme has the word secret in it.
func exportFixture(t testing.TB, s *Store) {
	t.Helper()
	if err := s.EnsurePartitions(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	exec(t, s, `INSERT INTO organizations (slug) VALUES ('acme')`)
	exec(t, s, `
		INSERT INTO managed_servers (org, name, managed_by, tags, health_status, lifecycle, region) VALUES
		    ('default', 'web', 'api', '{prod,edge}', 'healthy', 'active', 'eu'), ('default', 'db', 'api', '{prod}', 'critical', 'active', 'eu'),
		    ('default', 'old', 'api', '{}', 'unknown', 'inactive', 'us'), ('acme', 'secret', 'api', '{prod}', 'healthy', 'active', 'eu')`)
	exec(t, s, `
		WITH g AS (INSERT INTO server_groups (org, name) VALUES ('default', 'data') RETURNING id)
		INSERT INTO server_group_members (group_id, server_id) SELECT g.id, s.id FROM g, managed_servers s WHERE s.name = 'db'`)
	exec(t, s, `INSERT INTO server_groups (org, name, selector) VALUES ('default', 'edges', '{"tags_all": ["edge"]}')`)
	exec(t, s, `
		INSERT INTO check_states (check_id, scheduled_at, since, stream_epoch, stream_seq, latency_us, status, missed, org, location,
		                          server, check_name, kind, reason, message)
		SELECT gen_random_uuid(), now(), now(), 1, 1, 0, 1, false, s.org, l, s.name, c.name, c.kind, '', ''
		FROM managed_servers s, unnest('{eu,us}'::text[]) l, (VALUES ('health', 'http'), ('metrics', 'metrics')) c (name, kind)`)
	// Hours 1 to 5 ago, the odd ones bad.
	exec(t, s, `
		INSERT INTO server_health_checks (check_id, scheduled_at, stream_epoch, stream_seq, latency_us, revision, status, missed, on_demand,
		                                  connection_reused, org, location, instance, reason, message, details)
		SELECT k.check_id, date_trunc('second', now()) - h * interval '1 hour' + interval '1 minute', 1, h, h * 1000, 1,
		       CASE WHEN h % 2 = 1 THEN 4 ELSE 1 END, false, false, false, k.org, k.location, 'i', '',
		       CASE k.org WHEN 'acme' THEN 'secret' ELSE 'fine' END, '{"a": 1}'
		FROM check_states k, generate_series(1, 5) h WHERE k.kind = 'http'`)
	exec(t, s, `
		INSERT INTO server_metrics_aggregated (check_id, server_id, scheduled_at, stream_epoch, stream_seq, cpu_percent, llm_cost_usd, org,
		                                       location, extra)
		SELECT k.check_id, m.id, now() - h * interval '1 hour' + interval '1 minute', 1, h, h, 0.1, k.org, k.location,
		       jsonb_build_object('queue.depth', h, 'word', 'x', CASE k.org WHEN 'acme' THEN 'secret' ELSE 'o' END, 1)
		FROM check_states k JOIN managed_servers m ON m.org = k.org AND m.name = k.server, generate_series(1, 5) h WHERE k.kind = 'metrics'`)
	exec(t, s, `
		INSERT INTO system_metrics (series, time, value, org, metric_name, service, tags)
		SELECT gen_random_uuid(), now() - h * interval '1 hour' + interval '1 minute', h, o.slug, m, CASE o.slug WHEN 'acme' THEN 'secret' ELSE 'web' END, '{}'
		FROM organizations o, unnest(ARRAY['jobs', CASE o.slug WHEN 'acme' THEN 'secret' ELSE 'mails' END]) m, generate_series(1, 5) h`)
	exec(t, s, `
		INSERT INTO system_alerts (id, since, pending_at, closed_at, trigger_count, org, fingerprint, kind, severity, state, server, check_name,
		                           location, reason, summary, details)
		SELECT gen_random_uuid(), a.at, a.at, a.closed, 1, a.org, 'f' || a.n, 'down', a.severity, CASE WHEN a.closed IS NULL THEN 'open' ELSE 'closed' END,
		       a.server, 'health', '', '', CASE a.org WHEN 'acme' THEN 'secret' ELSE 'down' END, '{}'
		FROM (VALUES (1, 'default', now() - interval '60 days', NULL::timestamptz, 'critical', 'db'),
		             (2, 'default', now() - interval '50 days', now() - interval '49 days', 'warning', 'web'),
		             (3, 'default', now() - interval '2 hours', now() - interval '1 hour', 'warning', 'web'),
		             (4, 'acme', now() - interval '2 hours', NULL, 'critical', 'secret')) a (n, org, at, closed, severity, server)`)
	exec(t, s, `
		INSERT INTO alert_events (event_id, alert_id, at, stream_epoch, stream_seq, org, transition, state, kind, severity, reason, summary, evidence)
		SELECT gen_random_uuid(), a.id, a.pending_at, 1, n, a.org, (ARRAY['pending', 'opened'])[n], 'open', 'down', a.severity, '', '', '[]'
		FROM system_alerts a, generate_series(1, 2) n`)
	exec(t, s, `
		INSERT INTO audit_log (org, actor, actor_name, role, action, target_kind, target, request_id, remote, after)
		SELECT o.slug, 't', CASE o.slug WHEN 'acme' THEN 'secret' ELSE 'me' END, 'admin', 'server.create', 'server', 'web', '', '', '{"a":1}'
		FROM organizations o`)
}

// streamed are the rows of an export, by column.
func streamed(t testing.TB, s *Store, exportType string, f ExportFilters) []map[string]any {
	t.Helper()
	n := NewExport{Org: "default", Type: exportType, Filters: f}
	e, err := s.CreateExport(t.Context(), n, Idempotency{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := ExportColumns(e.Type, e.Filters)
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	err = s.StreamExport(t.Context(), e, func(values []any) error {
		if len(values) != len(columns) {
			t.Fatalf("%d values for %d columns", len(values), len(columns))
		}
		row := map[string]any{}
		for i, c := range columns {
			if strings.Contains(fmt.Sprint(values[i]), "secret") {
				t.Errorf("%s: somebody else's %v", exportType, values[i])
			}
			if values[i] != nil && !rightType(c.Type, values[i]) {
				t.Errorf("%s.%s is %T", exportType, c.Name, values[i])
			}
			row[c.Name] = values[i]
		}
		rows = append(rows, row)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func rightType(want ColumnType, value any) bool {
	var ok bool
	switch want {
	case ColumnInt:
		_, ok = value.(int64)
	case ColumnFloat:
		_, ok = value.(float64)
	case ColumnBool:
		_, ok = value.(bool)
	case ColumnTime:
		_, ok = value.(time.Time)
	default:
		_, ok = value.(string)
	}
	return ok
}

func TestExportFiltersAreApplied(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	exportFixture(t, s)
	ago := func(hours float64) *time.Time {
		at := time.Now().Add(-time.Duration(hours * float64(time.Hour)))
		return &at
	}
	for _, test := range []struct {
		name, of string
		filters  ExportFilters
		want     int
	}{
		{"all servers", "servers", ExportFilters{}, 3},
		{"servers by name", "servers", ExportFilters{Servers: []string{"web", "db"}}, 2},
		{"servers by health", "servers", ExportFilters{Status: []string{"Critical"}}, 1},
		{"servers by lifecycle", "servers", ExportFilters{Status: []string{"inactive", "maintenance"}}, 1},
		{"servers by tags, all of them", "servers", ExportFilters{Tags: []string{"prod", "edge"}}, 1},
		{"servers by static group", "servers", ExportFilters{Groups: []string{"data"}}, 1},
		{"servers by dynamic group", "servers", ExportFilters{Groups: []string{"edges"}}, 1},
		{"servers by groups", "servers", ExportFilters{Groups: []string{"data", "edges"}}, 2},
		{"fields narrow each other", "servers", ExportFilters{Groups: []string{"data"}, Servers: []string{"web"}}, 0},

		{"health checks of a day", "health_checks", ExportFilters{}, 30},
		{"of an hour", "health_checks", ExportFilters{TimeRange: "1h"}, 6},
		{"of six", "health_checks", ExportFilters{TimeRange: "6h"}, 30},
		{"of an absolute range", "health_checks", ExportFilters{From: ago(3.5), To: ago(1.5)}, 12},
		{"of a server", "health_checks", ExportFilters{Servers: []string{"web"}}, 10},
		{"of a tag", "health_checks", ExportFilters{Tags: []string{"prod"}}, 20},
		{"of a group", "health_checks", ExportFilters{Groups: []string{"edges"}}, 10},
		{"of a status", "health_checks", ExportFilters{Status: []string{"unreachable"}}, 18},
		{"of a status and a server", "health_checks", ExportFilters{Status: []string{"healthy"}, Servers: []string{"db"}}, 4},

		{"metrics", "metrics", ExportFilters{}, 30},
		{"metrics of an hour and a server", "metrics", ExportFilters{TimeRange: "1h", Servers: []string{"db"}}, 2},
		{"metrics by name", "metrics", ExportFilters{MetricNames: []string{"queue.depth", "cpu_percent"}}, 30},

		{"system metrics", "system_metrics", ExportFilters{}, 10},
		{"system metrics by name", "system_metrics", ExportFilters{MetricNames: []string{"jobs"}, TimeRange: "1h"}, 1},
		{"system metrics of a server", "system_metrics", ExportFilters{Servers: []string{"db"}}, 0},

		{"alerts of the last month: a long one too", "alerts", ExportFilters{}, 2},
		{"alerts of three months", "alerts", ExportFilters{TimeRange: "90d"}, 3},
		{"alerts by severity", "alerts", ExportFilters{TimeRange: "90d", Severity: []string{"WARNING"}}, 2},
		{"alerts by state", "alerts", ExportFilters{Status: []string{"CLOSED"}}, 1},
		{"alerts of a group", "alerts", ExportFilters{Groups: []string{"data"}}, 1},

		{"audit", "audit", ExportFilters{}, 1},
		{"audit before", "audit", ExportFilters{From: ago(48), To: ago(24)}, 0},
	} {
		if got := streamed(t, s, test.of, test.filters); len(got) != test.want {
			t.Errorf("%s: %d rows, want %d", test.name, len(got), test.want)
		}
	}
}

func TestExportRowsAreWhole(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	exportFixture(t, s)

	server := streamed(t, s, "servers", ExportFilters{Servers: []string{"web"}})[0]
	if server["tags"] != `["prod", "edge"]` || server["groups"] != `["edges"]` || server["region"] != "eu" || server["last_seen_at"] != nil {
		t.Errorf("server %v", server)
	}
	checks := streamed(t, s, "health_checks", ExportFilters{})
	key := func(row map[string]any) []any {
		return []any{row["server"], row["check_name"], row["location"], row["scheduled_at"]}
	}
	sorted := slices.Clone(checks)
	slices.SortStableFunc(sorted, func(a, b map[string]any) int {
		for i, x := range key(a) {
			if c := strings.Compare(sortable(x), sortable(key(b)[i])); c != 0 {
				return c
			}
		}
		return 0
	})
	if diff := cmp.Diff(sorted, checks); diff != "" {
		t.Errorf("not in order: %s", diff)
	}
	first := checks[0]
	if first["server"] != "db" || first["check_name"] != "health" || first["kind"] != "http" || first["location"] != "eu" ||
		first["status"] != "unreachable" || first["latency_ms"] != 5.0 || first["details"] != `{"a": 1}` || first["http_status"] != nil {
		t.Errorf("first health check %v", first)
	}
	metric := streamed(t, s, "metrics", ExportFilters{})[0]
	if metric["cpu_percent"] != 5.0 || metric["llm_cost_usd"] != 0.1 || metric["memory_percent"] != nil {
		t.Errorf("metric %v", metric)
	}
	chosen := streamed(t, s, "metrics", ExportFilters{MetricNames: []string{"queue.depth", "cpu_percent", "word"}})[0]
	if _, there := chosen["memory_percent"]; there || chosen["queue.depth"] != 5.0 || chosen["cpu_percent"] != 5.0 || chosen["word"] != nil {
		t.Errorf("chosen columns %v", chosen)
	}
	alert := streamed(t, s, "alerts", ExportFilters{})[1]
	if events, _ := alert["events"].(string); strings.Count(events, `"event_id"`) != 2 || strings.Index(events, "pending") > strings.Index(events, "opened") {
		t.Errorf("events %v", alert["events"])
	}
}

func sortable(x any) string {
	if at, ok := x.(time.Time); ok {
		return at.Format("2006-01-02T15:04:05.000000000")
	}
	return fmt.Sprint(x)
}

// What is unknown or means nothing is refused, by the field's name, and never passed over.
func TestExportRefusals(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	exportFixture(t, s)
	now := time.Now()
	before := now.Add(-time.Hour)
	for _, test := range []struct {
		export NewExport
		fields []string
	}{
		{NewExport{Type: "devices"}, []string{"export_type"}},
		{NewExport{Type: "audit", Format: "xml", Compression: "bz2"}, []string{"format", "compression"}},
		{NewExport{Type: "audit", Filters: ExportFilters{TimeRange: "2h"}}, []string{"filters.time_range"}},
		{NewExport{Type: "audit", Filters: ExportFilters{TimeRange: "1h", From: &before}}, []string{"filters.time_range"}},
		{NewExport{Type: "audit", Filters: ExportFilters{To: &before}}, []string{"filters.from"}},
		{NewExport{Type: "audit", Filters: ExportFilters{From: &now, To: &before}}, []string{"filters.to"}},
		{NewExport{Type: "audit", Filters: ExportFilters{Servers: []string{"web"}, Severity: []string{"critical"}}}, []string{"filters.servers", "filters.severity"}},
		{NewExport{Type: "servers", Filters: ExportFilters{TimeRange: "1h", MetricNames: []string{"x"}}}, []string{"filters.metric_names", "filters.time_range"}},
		{NewExport{Type: "servers", Filters: ExportFilters{Status: []string{"open"}}}, []string{"filters.status"}},
		{NewExport{Type: "health_checks", Filters: ExportFilters{Status: []string{"up", "maintenance"}}}, []string{"filters.status", "filters.status"}},
		{NewExport{Type: "alerts", Filters: ExportFilters{Severity: []string{"high"}}}, []string{"filters.severity"}},
		{NewExport{Type: "alerts", Filters: ExportFilters{Servers: []string{"web", "nobody", "secret"}}}, []string{"filters.servers", "filters.servers"}},
		{NewExport{Type: "alerts", Filters: ExportFilters{Groups: []string{"none"}, Tags: []string{"absent"}}}, []string{"filters.groups", "filters.tags"}},
		{NewExport{Type: "metrics", Filters: ExportFilters{MetricNames: []string{"cpu_percent", "cpu", "secret"}}}, []string{"filters.metric_names", "filters.metric_names"}},
		{NewExport{Type: "metrics", Filters: ExportFilters{MetricNames: []string{"a'); DROP TABLE x"}}}, []string{"filters.metric_names"}},
		{NewExport{Type: "system_metrics", Filters: ExportFilters{MetricNames: []string{"jobs", "secret"}}}, []string{"filters.metric_names"}},
		{NewExport{Type: "servers", Filters: ExportFilters{Servers: make([]string, maxFilterValues+1)}}, []string{"filters.servers"}},
	} {
		test.export.Org = "default"
		_, err := s.CreateExport(t.Context(), test.export, Idempotency{}, nil)
		faults, _ := errors.AsType[Faults](err)
		var fields []string
		for _, fault := range faults {
			fields = append(fields, fault.Field)
		}
		if !slices.Equal(fields, test.fields) {
			t.Errorf("%+v: %v, want faults of %v", test.export, err, test.fields)
		}
	}
	if n := query[int](t, s, `SELECT count(*) FROM export_jobs`); n != 0 {
		t.Errorf("%d exports were made all the same", n)
	}
}

// All rows are of one moment, and a reader may be slow.
func TestExportSnapshot(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	exportFixture(t, s)
	e := newExport(t, s)
	n := 0
	err := s.StreamExport(t.Context(), e, func([]any) error {
		if n == 0 {
			exec(t, s, `DELETE FROM server_health_checks`)
			exec(t, s, `DELETE FROM check_states`)
		}
		n++
		return nil
	})
	if err != nil || n != 30 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestExportStopsWithItsCaller(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	exportFixture(t, s)
	e := newExport(t, s)
	broken := errors.New("no room")
	if err := s.StreamExport(t.Context(), e, func([]any) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.StreamExport(ctx, e, func([]any) error { cancel(); <-ctx.Done(); return ctx.Err() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := len(streamed(t, s, "health_checks", ExportFilters{})); got != 30 {
		t.Errorf("%d rows afterwards", got) // the pool is whole
	}
}

// A reader whose attempt nobody holds keeps no snapshot for ever; one that is held is left alone, however slow it is.
func TestStaleReadsEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	exportFixture(t, s)
	held, stale := claimExport(t, s, newExport(t, s).ID), claimExport(t, s, newExport(t, s).ID)
	var reading sync.WaitGroup
	at, goOn := make(chan struct{}, 2), make(chan struct{})
	read := func(claim ExportClaim, err *error) {
		reading.Go(func() {
			stopped := false
			*err = s.StreamExport(t.Context(), claim.Export, func([]any) error {
				if !stopped {
					stopped = true
					at <- struct{}{}
					<-goOn
				}
				return nil
			})
		})
		<-at
	}
	var heldErr, staleErr error
	read(held, &heldErr)
	read(stale, &staleErr)
	lapse(t, s, stale.Export.ID)
	snapshots := func() (n int) {
		err := s.pool.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND starts_with(application_name, $1) AND backend_xmin IS NOT NULL`,
			exportReader).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := snapshots(); n != 2 {
		t.Fatalf("%d snapshots are held, want 2", n)
	}
	ended, err := s.EndStaleReads(t.Context())
	if err != nil || ended != 1 {
		t.Fatalf("%d ended, %v", ended, err)
	}
	if n := snapshots(); n != 1 {
		t.Errorf("%d snapshots are held, want 1", n)
	}
	if ended, err := s.EndStaleReads(t.Context()); err != nil || ended != 0 {
		t.Errorf("%d more ended, %v", ended, err)
	}
	close(goOn)
	reading.Wait()
	if heldErr != nil {
		t.Errorf("the one that is held: %v", heldErr)
	}
	exec(t, s, `SELECT 1`) // the pool has not kept the session that is gone
}
