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
