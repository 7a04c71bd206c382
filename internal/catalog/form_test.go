package catalog_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/catalog"
)

func TestScheduled(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	version := func(revision int64, interval time.Duration, seconds int, locations ...string) catalog.Schedule {
		return catalog.Schedule{Revision: revision, Interval: interval, EffectiveAt: at(seconds), Locations: locations}
	}
	// type seen = revision:interval@second, by location
	type seen map[string][][3]int64
	for name, test := range map[string]struct {
		versions []catalog.Schedule
		now      int
		want     seen
		expiry   int
	}{
		"new": {
			[]catalog.Schedule{version(1, time.Minute, 2, "a")},
			0,
			seen{"a": {{1, 60, 2}}},
			0,
		},
		"interval changes": {
			[]catalog.Schedule{version(1, time.Minute, 2, "a"), version(2, time.Hour, 30, "a")},
			20,
			seen{"a": {{1, 60, 2}, {2, 3600, 30}}},
			0,
		},
		"location changes": {
			[]catalog.Schedule{version(1, time.Minute, 2, "a", "b"), version(2, time.Minute, 30, "b", "c")},
			20,
			seen{"a": {{1, 60, 2}, {2, 0, 30}}, "b": {{1, 60, 2}}, "c": {{2, 60, 30}}},
			30,
		},
		"location has changed": {
			[]catalog.Schedule{version(1, time.Minute, 2, "a", "b"), version(2, time.Minute, 30, "b", "c")},
			30,
			seen{"b": {{1, 60, 2}}, "c": {{2, 60, 30}}},
			0,
		},
		"removed soon": {
			[]catalog.Schedule{version(1, time.Minute, 2, "a"), version(2, 0, 30, "a")},
			29,
			seen{"a": {{1, 60, 2}, {2, 0, 30}}},
			30,
		},
		"removed": {
			[]catalog.Schedule{version(1, time.Minute, 2, "a"), version(2, 0, 30, "a")},
			30,
			seen{},
			0,
		},
		"returns": {
			[]catalog.Schedule{version(2, 0, 30, "a"), version(3, time.Minute, 40, "a")},
			35,
			seen{"a": {{3, 60, 40}}},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := server(catalog.SourceFile, "x")
			c := &s.Checks[0]
			c.Schedules = test.versions
			got := seen{}
			for location, m := range s.Scheduled(c, at(test.now)) {
				if m.Location != location || m.Server != "x" || m.Check.Name != "health" {
					t.Errorf("at %s: %v", location, m)
				}
				got[location] = nil
				for _, v := range m.Check.Schedules {
					got[location] = append(got[location], [3]int64{
						v.Revision, v.IntervalMs / 1000, v.EffectiveAt.AsTime().Unix() - start.Unix(),
					})
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			var expiry time.Time
			if test.expiry > 0 {
				expiry = at(test.expiry)
			}
			if got := c.NextExpiry(at(test.now)); !got.Equal(expiry) {
				t.Errorf("next expiry %s, want %s", got, expiry)
			}
		})
	}
}

func TestCatalogChangeLeavesOutRemovedChecks(t *testing.T) {
	t.Parallel()
	s := server(catalog.SourceFile, "x")
	s.Checks = append(s.Checks, s.Checks[0])
	s.Checks[1].Name, s.Checks[1].Removed = "old", true
	s.Change = catalog.Changed
	if m := s.CatalogChange(); m.Change != "changed" || len(m.Server.Checks) != 1 {
		t.Errorf("%v", m)
	}
	s.Change = catalog.Removed
	if m := s.CatalogChange(); m.Change != "removed" || len(m.Server.Checks) != 2 {
		t.Errorf("%v", m)
	}
}

func TestReportedChecksAreForNoProber(t *testing.T) {
	t.Parallel()
	partition := func(s *catalog.Server) {
		s.Checks = append(s.Checks, catalog.Check{
			Name: "partition", Reported: true,
			Schedules: []catalog.Schedule{{Revision: 1, Interval: time.Minute, EffectiveAt: time.Now(), Locations: []string{"local"}}},
		})
	}
	s := server(catalog.SourceSelf, "picket", partition)
	if faults := s.Validate(""); faults != nil {
		t.Error(faults)
	}
	if forms := s.Scheduled(&s.Checks[1], time.Now()); len(forms) != 0 {
		t.Errorf("a prober would get %v", forms)
	}
	if m := s.Proto().Checks[1]; m.Kind != "reported" || len(m.Schedules) != 1 {
		t.Errorf("%v", m)
	}
	s = server(catalog.SourceFile, "mine", partition)
	if faults := s.Validate(""); len(faults) != 1 || faults[0].Path != "checks[1]" {
		t.Errorf("%v", faults)
	}
}
