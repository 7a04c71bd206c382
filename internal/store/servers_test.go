package store

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestServersFollowTheCatalog: what is not probed any more counts for nothing, at once and whatever still arrives.
func TestServersFollowTheCatalog(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := s.NewResultWriter()
	at := time.Now().UTC().Truncate(time.Second)
	two := func(s *catalog.Server) {
		s.Checks = append(s.Checks, catalog.Check{Name: "db", TCP: &picketv1.TCPSpec{Address: "127.0.0.1:5432"}})
		s.Checks[1].Locations = []string{"east", "west"}
	}
	loaded := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", two)), "a")
	report := func() {
		t.Helper()
		at = at.Add(time.Second)
		var rows []Result
		for _, check := range loaded.Checks {
			for _, location := range check.Locations {
				row := outcome(1, at)
				row.CheckID, row.Location, row.Check = uuid.MustParse(check.ID), location, check.Name
				row.Status = picketv1.Status_STATUS_DEGRADED
				switch location {
				case "west":
					row.Status = picketv1.Status_STATUS_CRITICAL
				case "east":
					row.Status = picketv1.Status_STATUS_UNREACHABLE
				}
				rows = append(rows, row)
			}
		}
		write(t, w, rows)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	report()
	for _, step := range []struct {
		want    string
		servers []catalog.Server
	}{
		{"critical", []catalog.Server{declared(catalog.SourceFile, "a", two)}},
		{"unreachable", []catalog.Server{declared(catalog.SourceFile, "a", two, func(s *catalog.Server) {
			s.Checks[1].Locations = []string{"east"}
		})}},
		{"degraded", []catalog.Server{declared(catalog.SourceFile, "a")}},
		{"unknown", []catalog.Server{declared(catalog.SourceFile, "a", func(s *catalog.Server) { s.Lifecycle = catalog.Inactive })}},
		{"degraded", []catalog.Server{declared(catalog.SourceFile, "a")}},
		{"unknown", []catalog.Server{declared(catalog.SourceFile, "a", func(s *catalog.Server) { s.Checks[0].Disabled = true })}},
		{"degraded", []catalog.Server{declared(catalog.SourceFile, "a")}},
		{"unknown", nil},
	} {
		become(t, s, catalog.SourceFile, step.servers...)
		for _, when := range []string{"at once", "after results that were on their way"} {
			if got := query[string](t, s, `SELECT health_status FROM managed_servers`); got != step.want {
				t.Errorf("%d servers: %s, want %s %s", len(step.servers), got, step.want, when)
			}
			report()
		}
	}
}

// TestSummaryFreshness: a server is as fresh as the freshest of its enabled checks, each by its own interval.
func TestSummaryFreshness(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	now := time.Now()
	check := func(server, name string, enabled bool, interval, ago time.Duration) {
		t.Helper()
		exec(t, s, `WITH s AS (
			    INSERT INTO managed_servers (org, name, managed_by, last_health_check_at) VALUES ('default', $1, 'api', $5)
			    ON CONFLICT (org, name) DO UPDATE SET last_health_check_at = greatest(managed_servers.last_health_check_at, $5) RETURNING id),
			c AS (INSERT INTO checks (server_id, revision, interval_ms, timeout_ms, name, kind, locations, spec, enabled)
			    SELECT id, 1, $3, 1000, $2, 'http', '{local}', '{}', $4 FROM s RETURNING id)
			INSERT INTO check_states (check_id, scheduled_at, since, checked_at, stream_epoch, stream_seq, latency_us, status, missed, org,
			    location, server, check_name, kind, reason, message)
			SELECT id, $5, $5, $5, 1, 1, 1, 1, false, 'default', 'local', $1, $2, 'http', '', '' FROM c`,
			server, name, interval.Milliseconds(), enabled, now.Add(-ago))
	}
	check("fast", "health", true, 5*time.Second, 10*time.Second)
	check("silent", "health", true, 5*time.Second, time.Minute)
	check("slow", "health", true, 10*time.Minute, 20*time.Minute)
	check("slower", "health", true, 10*time.Minute, 40*time.Minute)
	check("both", "health", true, 5*time.Second, 20*time.Minute)
	check("both", "disk", true, 10*time.Minute, 20*time.Minute)
	check("half", "health", true, 5*time.Second, 20*time.Minute)
	check("half", "disk", false, 10*time.Minute, 20*time.Minute)
	check("off", "health", true, 5*time.Second, 10*time.Second)
	exec(t, s, `UPDATE managed_servers SET lifecycle = 'inactive' WHERE name = 'off'`)
	check("switched-off", "health", false, 5*time.Second, time.Second) // looked at a moment ago, and never again
	check("mixed", "health", true, 5*time.Second, time.Minute)
	check("mixed", "disk", false, 5*time.Second, time.Second)
	exec(t, s, `INSERT INTO managed_servers (org, name, managed_by) VALUES ('default', 'new', 'api')`)
	got, err := s.Summary(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	// Fresh: fast, slow, both.
	if got.Total != 10 || got.Inactive != 1 || got.Fresh != 3 || got.Stale != 5 || got.NeverChecked != 1 {
		t.Errorf("%+v", got)
	}
}
