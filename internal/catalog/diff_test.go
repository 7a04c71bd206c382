package catalog_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func server(source catalog.Source, name string, change ...func(*catalog.Server)) catalog.Server {
	s := catalog.Server{
		Name: name, Source: source,
		Checks: []catalog.Check{{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://" + name + "/"}}},
	}
	for _, f := range change {
		f(&s)
	}
	s.Complete(catalog.Defaults{})
	return s
}

func stored(s catalog.Server) catalog.Server {
	s.ID, s.Revision, s.Change = "id-"+s.Name, 3, catalog.Added
	checks := append([]catalog.Check(nil), s.Checks...)
	for i := range checks {
		checks[i].ID = "id-" + s.Name + "-" + checks[i].Name
	}
	s.Checks = checks
	return s
}

func TestDiff(t *testing.T) {
	t.Parallel()
	db := catalog.Check{
		Name: "db", Interval: time.Minute, Timeout: time.Second, Locations: []string{"local"},
		TCP: &picketv1.TCPSpec{Address: "x:1"},
	}
	withDB := func(s *catalog.Server) { s.Checks = append([]catalog.Check{db}, s.Checks...) }
	withMetrics := func(mapping string) func(*catalog.Server) {
		return func(s *catalog.Server) {
			s.Checks = append(s.Checks, catalog.Check{
				Name: "metrics", Interval: time.Minute, Timeout: time.Second, Locations: []string{"local"},
				Metrics: &picketv1.MetricsSpec{Url: "http://x/metrics", Mapping: mapping},
			})
		}
	}
	current := []catalog.Server{
		stored(server(catalog.SourceFile, "mapped", withMetrics(""))),
		stored(server(catalog.SourceFile, "same")),
		stored(server(catalog.SourceFile, "tagged")),
		stored(server(catalog.SourceFile, "checked", withDB)),
		stored(server(catalog.SourceFile, "gone")),
		stored(server(catalog.SourceAPI, "mine")),
	}
	declared := []catalog.Server{
		server(catalog.SourceFile, "mapped", withMetrics("node_exporter")),
		server(catalog.SourceFile, "new"),
		server(catalog.SourceFile, "same"),
		server(catalog.SourceFile, "tagged", func(s *catalog.Server) { s.Tags = []string{"x"} }),
		server(catalog.SourceFile, "checked", func(s *catalog.Server) {
			s.Lifecycle = catalog.Maintenance
			s.Checks[0].Interval = time.Minute
		}),
	}
	plan, conflicts := catalog.Diff(catalog.SourceFile, declared, current)
	if len(conflicts) > 0 {
		t.Fatal(conflicts)
	}
	if len(plan.Add) != 1 || plan.Add[0].Name != "new" || len(plan.Remove) != 1 || plan.Remove[0].Name != "gone" || plan.Total != 5 {
		t.Errorf("add %v, remove %v of %d", plan.Add, plan.Remove, plan.Total)
	}
	type change struct {
		Name, ID     string
		Revision     int64
		Self, Life   bool
		Checks, Gone []string
	}
	var got []change
	for _, c := range plan.Change {
		got = append(got, change{c.Server.Name, c.Server.ID, c.Server.Revision, c.Self, c.Lifecycle, c.Checks, c.Gone})
	}
	want := []change{
		{Name: "mapped", ID: "id-mapped", Revision: 3, Checks: []string{"metrics"}},
		{Name: "tagged", ID: "id-tagged", Revision: 3, Self: true},
		{Name: "checked", ID: "id-checked", Revision: 3, Self: true, Life: true, Checks: []string{"health"}, Gone: []string{"id-checked-db"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDiffRefusesAForeignName(t *testing.T) {
	t.Parallel()
	current := []catalog.Server{stored(server(catalog.SourceAPI, "mine")), stored(server(catalog.SourceFile, "gone"))}
	plan, conflicts := catalog.Diff(catalog.SourceFile, []catalog.Server{server(catalog.SourceFile, "mine")}, current)
	want := []catalog.Conflict{{Key: catalog.Key{Org: "default", Name: "mine"}, Holder: catalog.SourceAPI}}
	if diff := cmp.Diff(want, conflicts); diff != "" || !plan.Empty() {
		t.Errorf("plan %+v, conflicts %s", plan, diff)
	}
	// The same name in another organization is another server.
	other := server(catalog.SourceFile, "mine", func(s *catalog.Server) { s.Org = "other" })
	if _, conflicts := catalog.Diff(catalog.SourceFile, []catalog.Server{other}, current); conflicts != nil {
		t.Error(conflicts)
	}
}

func TestHeld(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		source                catalog.Source
		have, keep, confirmed int
		held                  bool
	}{
		{catalog.SourceFile, 5, 0, 0, false},
		{catalog.SourceFile, 6, 0, 0, true},
		{catalog.SourceFile, 12, 6, 0, false},
		{catalog.SourceFile, 12, 5, 0, true},
		{catalog.SourceFile, 12, 5, 7, false},
		{catalog.SourceFile, 12, 4, 7, true},
		{catalog.SourceSelf, 12, 0, 0, false},
		{catalog.SourceEnv, 12, 0, 0, true},
	} {
		var current, declared []catalog.Server
		for i := range test.have {
			s := server(test.source, fmt.Sprintf("s%d", i))
			current = append(current, stored(s))
			if i < test.keep {
				declared = append(declared, s)
			}
		}
		plan, _ := catalog.Diff(test.source, declared, current)
		err := plan.Held(test.confirmed)
		var held *catalog.HeldError
		if errors.As(err, &held) != test.held {
			t.Errorf("%+v: %v", test, err)
		}
		if test.held && (held.Removed != test.have-test.keep || held.Total != test.have) {
			t.Errorf("%+v: %+v", test, held)
		}
	}
}
