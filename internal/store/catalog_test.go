package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func declared(source catalog.Source, name string, change ...func(*catalog.Server)) catalog.Server {
	server := catalog.Server{
		Name: name, Source: source,
		Checks: []catalog.Check{{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://" + name + "/health"}}},
	}
	for _, f := range change {
		f(&server)
	}
	server.Complete(catalog.Defaults{})
	return server
}

func withDB(s *catalog.Server) {
	s.Checks = append([]catalog.Check{{
		Name: "db", TCP: &picketv1.TCPSpec{Address: "10.0.0.5:5432"}, Priority: 3,
		Alerts: &picketv1.AlertRules{CriticalAfter: 4},
	}}, s.Checks...)
}

// become applies what takes a source to servers and returns the catalog afterwards.
func become(t testing.TB, s *Store, source catalog.Source, servers ...catalog.Server) *Catalog {
	t.Helper()
	before, err := s.LoadCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan, conflicts := catalog.Diff(source, servers, before.Servers)
	if len(conflicts) > 0 {
		t.Fatal(conflicts)
	}
	if _, err := s.ApplyCatalog(t.Context(), plan, nil); err != nil {
		t.Fatal(err)
	}
	after, err := s.LoadCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if plan, _ := catalog.Diff(source, servers, after.Servers); !plan.Empty() {
		t.Fatalf("there is still something to do: %+v", plan)
	}
	return after
}

func named(t testing.TB, c *Catalog, name string) *catalog.Server {
	t.Helper()
	for i := range c.Servers {
		if c.Servers[i].Name == name {
			return &c.Servers[i]
		}
	}
	t.Fatalf("there is no server %s", name)
	return nil
}

var ignoreStored = cmp.Options{
	cmpopts.IgnoreFields(catalog.Server{}, "ID", "Revision", "Change", "ChangedAt"),
	cmpopts.IgnoreFields(catalog.Check{}, "ID", "Serial", "Revision", "Schedules"),
	cmpopts.EquateEmpty(), protocmp.Transform(),
}

func TestCatalogRoundTrip(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	want := declared(catalog.SourceFile, "checkout", withDB, func(s *catalog.Server) {
		s.Org, s.DisplayName, s.Region, s.Environment = "shop", `Checkout "main" ü`, "eu-west", "production"
		s.Tags, s.Groups = []string{"b", "a"}, []string{"payments", "front"}
		s.Checks[1].HTTP.Headers = []*picketv1.Header{{Name: "X", Value: "secret:env:X"}}
		s.Checks[1].Disabled = true
		s.Checks[1].Locations = []string{"us-east", "eu-west"}
	})
	self := declared(catalog.SourceSelf, "picket", func(s *catalog.Server) {
		s.Checks = append(s.Checks, catalog.Check{Name: "partition", Reported: true})
	})
	if diff := cmp.Diff(&self, named(t, become(t, s, catalog.SourceSelf, self), "picket"), ignoreStored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	got := named(t, become(t, s, catalog.SourceFile, want), "checkout")
	if diff := cmp.Diff(&want, got, ignoreStored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if got.Revision != 1 || got.Change != catalog.Added || len(got.Checks[0].Schedules) != 1 {
		t.Errorf("revision %d, %s, schedules %v", got.Revision, got.Change, got.Checks[0].Schedules)
	}
	if v := got.Checks[1].Schedules; len(v) != 1 || v[0].Interval != 0 {
		t.Errorf("a disabled check is due: %v", v)
	}
	if query[int](t, s, `SELECT count(*)::int FROM organizations WHERE slug = 'shop'`) != 1 {
		t.Error("the organization is not there")
	}
}

func TestCatalogRevisionsAndSchedules(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	began := time.Now()
	first := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB)), "a")
	effective := first.Checks[1].Schedules[0].EffectiveAt
	if d := effective.Sub(began); d < newEffectiveAfter || d > newEffectiveAfter+2*time.Second || effective.Nanosecond()%1e6 != 0 {
		t.Errorf("a new check is effective %s after the start, at %s", d, effective)
	}

	// Another URL: the check's revision moves, its schedule does not, and the other check stays as it is.
	second := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB, func(s *catalog.Server) {
		s.Checks[1].HTTP.Url = "http://other/"
	})), "a")
	if second.ID != first.ID || second.Revision != 2 || second.Change != catalog.Changed ||
		second.Checks[0].Revision != 1 || second.Checks[1].Revision != 2 || len(second.Checks[1].Schedules) != 1 ||
		second.Checks[1].ID != first.Checks[1].ID || second.Checks[1].Serial != first.Checks[1].Serial {
		t.Errorf("%+v", second)
	}

	// Only a tag: no check is touched.
	third := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB, func(s *catalog.Server) {
		s.Checks[1].HTTP.Url, s.Tags = "http://other/", []string{"x"}
	})), "a")
	if third.Revision != 3 || third.Checks[0].Revision != 1 || third.Checks[1].Revision != 2 {
		t.Errorf("%+v", third)
	}

	// Another interval: in force later, after the version before it.
	began = time.Now()
	fourth := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB, func(s *catalog.Server) {
		s.Checks[1].Interval = time.Minute
	})), "a")
	versions := fourth.Checks[1].Schedules
	if len(versions) != 2 || versions[1].Interval != time.Minute || versions[1].Revision != 4 {
		t.Fatalf("%+v", versions)
	}
	if d := versions[1].EffectiveAt.Sub(began); d < changedEffectiveAfter || d > changedEffectiveAfter+2*time.Second {
		t.Errorf("a change is effective %s after it was made", d)
	}

	// Maintenance: every prober hears of it, no schedule changes.
	fifth := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB, func(s *catalog.Server) {
		s.Checks[1].Interval, s.Lifecycle = time.Minute, catalog.Maintenance
	})), "a")
	if fifth.Change != catalog.EnteredMaintenance || fifth.Checks[0].Revision != 5 || fifth.Checks[1].Revision != 5 ||
		len(fifth.Checks[0].Schedules) != 1 || len(fifth.Checks[1].Schedules) != 2 {
		t.Errorf("%+v", fifth)
	}

	// Inactive: nothing is due any more.
	sixth := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB, func(s *catalog.Server) {
		s.Checks[1].Interval, s.Lifecycle = time.Minute, catalog.Inactive
	})), "a")
	for _, check := range sixth.Checks {
		if last := check.Schedules[len(check.Schedules)-1]; last.Interval != 0 || last.Revision != 6 {
			t.Errorf("%s: %+v", check.Name, check.Schedules)
		}
	}

	// One check less: it is kept, due no more and enabled no more.
	seventh := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a")), "a")
	if db := seventh.Checks[0]; !db.Removed || !db.Disabled || db.Revision != 7 || db.Schedules[len(db.Schedules)-1].Interval != 0 {
		t.Errorf("%+v", db)
	}
	var last time.Time
	for _, version := range seventh.Checks[1].Schedules {
		if !version.EffectiveAt.After(last) {
			t.Errorf("versions overtake each other: %+v", seventh.Checks[1].Schedules)
		}
		last = version.EffectiveAt
	}
}

func TestCatalogRemovedServerReturns(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	first := named(t, become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a")), "a")
	exec(t, s, `UPDATE managed_servers SET health_status = 'critical'`)
	removed := named(t, become(t, s, catalog.SourceFile), "a")
	check := removed.Checks[0]
	if removed.Change != catalog.Removed || removed.Revision != 2 || !check.Removed ||
		len(check.Schedules) != 2 || check.Schedules[1].Interval != 0 {
		t.Fatalf("%+v", removed)
	}
	// Another source may have the name now; the history goes on.
	back := named(t, become(t, s, catalog.SourceAPI, declared(catalog.SourceAPI, "a")), "a")
	if back.ID != first.ID || back.Checks[0].ID != first.Checks[0].ID || back.Checks[0].Serial != first.Checks[0].Serial ||
		back.Revision != 3 || back.Change != catalog.Added || back.Source != catalog.SourceAPI || back.Checks[0].Removed {
		t.Errorf("%+v", back)
	}
	if v := back.Checks[0].Schedules; len(v) != 3 || !v[2].EffectiveAt.After(v[1].EffectiveAt) || v[2].Interval == 0 {
		t.Errorf("%+v", v)
	}
	if got := query[string](t, s, `SELECT health_status FROM managed_servers`); got != "unknown" {
		t.Errorf("health of a server that came back is %s", got)
	}
}

func TestCatalogKeepsSchedulesOfThePast(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"))
	become(t, s, catalog.SourceFile)
	exec(t, s, `UPDATE managed_servers SET removed_at = now() - interval '30 days'`)
	exec(t, s, `UPDATE checks SET removed_at = now() - interval '30 days'`)
	loaded, err := s.LoadCatalog(t.Context())
	if err != nil || len(loaded.Servers) != 0 {
		t.Errorf("what was removed long ago is loaded: %+v, %v", loaded, err)
	}
	if n := query[int](t, s, `SELECT count(*)::int FROM check_schedules`); n != 2 {
		t.Errorf("%d schedules are left", n)
	}
}

func TestCatalogLoadsOnlySchedulesThatMatter(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"))
	exec(t, s, `UPDATE check_schedules SET effective_at = now() - interval '1 hour'`)
	exec(t, s, `INSERT INTO check_schedules SELECT check_id, 2, 5000, now() - interval '30 minutes', locations FROM check_schedules`)
	loaded, err := s.LoadCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v := named(t, loaded, "a").Checks[0].Schedules; len(v) != 1 || v[0].Revision != 2 {
		t.Errorf("%+v", v)
	}
}

func TestCatalogGroups(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	in := func(groups ...string) catalog.Server {
		return declared(catalog.SourceFile, "a", func(s *catalog.Server) { s.Groups = groups })
	}
	become(t, s, catalog.SourceFile, in("x", "y"))
	got := named(t, become(t, s, catalog.SourceFile, in("y", "z")), "a")
	if diff := cmp.Diff([]string{"y", "z"}, got.Groups); diff != "" || got.Revision != 2 {
		t.Errorf("revision %d, groups %s", got.Revision, diff)
	}
}

func TestApplyCatalogRefusesAStalePlan(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	loaded := become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"), declared(catalog.SourceFile, "b"))
	tagged := func(tag string) catalog.Server {
		return declared(catalog.SourceFile, "a", func(s *catalog.Server) { s.Tags = []string{tag} })
	}
	change, _ := catalog.Diff(catalog.SourceFile, []catalog.Server{tagged("mine"), declared(catalog.SourceFile, "b")}, loaded.Servers)
	remove, _ := catalog.Diff(catalog.SourceFile, []catalog.Server{declared(catalog.SourceFile, "b")}, loaded.Servers)
	add, _ := catalog.Diff(catalog.SourceAPI, []catalog.Server{declared(catalog.SourceAPI, "c")}, loaded.Servers)
	become(t, s, catalog.SourceFile, tagged("theirs"), declared(catalog.SourceFile, "b"), declared(catalog.SourceFile, "c"))
	for name, plan := range map[string]catalog.Plan{"change": change, "remove": remove, "add": add} {
		if plan.Empty() {
			t.Fatalf("%s: the plan is empty", name)
		}
		if _, err := s.ApplyCatalog(t.Context(), plan, nil); !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v, want ErrStale", name, err)
		}
	}
	after, err := s.LoadCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a := named(t, after, "a"); a.Tags[0] != "theirs" || a.Revision != 2 || named(t, after, "c").Source != catalog.SourceFile {
		t.Errorf("a stale plan left something behind: %+v", after.Servers)
	}
}

func TestPublications(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	loaded := become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"))
	gone := declared(catalog.SourceFile, "gone")
	gone.ID = "00000000-0000-4000-8000-000000000000"
	if err := s.MarkPublished(t.Context(), StreamExtent{Epoch: 7, LastSeq: 100}, append(loaded.Servers, gone)); err != nil {
		t.Fatal(err)
	}
	id := loaded.Servers[0].ID
	published := func(epoch int64, first uint64, settled time.Duration) map[string]int64 {
		t.Helper()
		got, err := s.Publications(t.Context(), StreamExtent{Epoch: epoch, FirstSeq: first}, settled)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	there, nothing := map[string]int64{id: 1}, map[string]int64{}
	for _, test := range []struct {
		epoch   int64
		first   uint64
		settled time.Duration
		want    map[string]int64
	}{
		{7, 1, 0, there},
		{7, 101, 0, there},
		{7, 102, 0, nothing},
		{7, 102, time.Hour, there},
		{8, 1, time.Hour, nothing},
	} {
		if got := published(test.epoch, test.first, test.settled); !cmp.Equal(test.want, got) {
			t.Errorf("%+v: %v", test, got)
		}
	}
	// A late mark does not hide a newer one.
	older := loaded.Servers[0]
	older.Revision = 0
	if err := s.MarkPublished(t.Context(), StreamExtent{Epoch: 7, LastSeq: 200}, []catalog.Server{older}); err != nil {
		t.Fatal(err)
	}
	if got := published(7, 101, 0); got[id] != 1 {
		t.Error(got)
	}
}

func TestApplyCatalogIsFast(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const n = 5000
	servers := make([]catalog.Server, n)
	for i := range servers {
		servers[i] = declared(catalog.SourceFile, fmt.Sprintf("server-%d", i))
	}
	// One at a time, for comparison on this machine at this moment.
	const few = 50
	start := time.Now()
	for i := range few {
		plan := catalog.Plan{Source: catalog.SourceFile, Add: servers[i : i+1]}
		if _, err := s.ApplyCatalog(t.Context(), plan, nil); err != nil {
			t.Fatal(err)
		}
	}
	alone := time.Since(start) / few
	start = time.Now()
	plan := catalog.Plan{Source: catalog.SourceFile, Add: servers[few:]}
	if _, err := s.ApplyCatalog(t.Context(), plan, nil); err != nil {
		t.Fatal(err)
	}
	together := time.Since(start) / (n - few)
	t.Logf("a server alone: %s, among %d: %s", alone, n, together)
	if together > alone/5 {
		t.Errorf("a server takes %s alone and still %s among %d", alone, together, n)
	}
	loaded := become(t, s, catalog.SourceFile, servers...)
	serials := map[int64]bool{}
	for i := range loaded.Servers {
		serials[loaded.Servers[i].Checks[0].Serial] = true
	}
	if len(serials) != n {
		t.Errorf("%d serials for %d checks", len(serials), n)
	}
}
