package catalog

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Proto is the server as CatalogChange carries it. Checks that are removed are left out, unless the server is removed
// as a whole. Specifications are shared with s, not copied.
func (s *Server) Proto() *picketv1.Server {
	m := &picketv1.Server{
		Name: s.Name, Lifecycle: string(s.Lifecycle), Org: s.Org, Id: s.ID, Revision: s.Revision,
		Source: string(s.Source), DisplayName: s.DisplayName, Tags: s.Tags, Region: s.Region,
		Environment: s.Environment, Groups: s.Groups,
		Description: s.Description, Hostname: s.Hostname, ApiUrl: s.APIURL,
		Checks: make([]*picketv1.Check, 0, len(s.Checks)),
	}
	for i := range s.Checks {
		c := &s.Checks[i]
		if c.Removed && s.Change != Removed {
			continue
		}
		versions := c.Schedules
		if len(versions) == 0 {
			// Declared and not stored yet: what it will be.
			versions = []Schedule{{Interval: s.DueInterval(c)}}
		}
		m.Checks = append(m.Checks, c.proto(schedules(versions, func(Schedule) bool { return true })))
	}
	return m
}

// CatalogChange is the event of the server's last change.
func (s *Server) CatalogChange() *picketv1.CatalogChange {
	return &picketv1.CatalogChange{
		Change: string(s.Change), Server: s.Proto(), ChangedAt: timestamppb.New(s.ChangedAt),
	}
}

// Scheduled are the forms of check c of server s that probers read, by location: every location at which it is due at
// now or will be, none for a reported check. A location that the newest version no longer names is there until that version is in force.
func (s *Server) Scheduled(c *Check, now time.Time) map[string]*picketv1.ScheduledCheck {
	forms := map[string]*picketv1.ScheduledCheck{}
	if c.Reported {
		return forms
	}
	for _, location := range dueLocations(c.Schedules, now) {
		forms[location] = &picketv1.ScheduledCheck{
			Server: s.Name, Org: s.Org, ServerId: s.ID, Location: location, Lifecycle: string(s.Lifecycle),
			Check: c.proto(schedules(c.Schedules, func(v Schedule) bool {
				return v.Interval > 0 && slices.Contains(v.Locations, location)
			})),
			Credential: s.credentialFor(c),
		}
	}
	return forms
}

// NextExpiry is the first instant after now at which Scheduled loses a location, zero when it never will.
func (c *Check) NextExpiry(now time.Time) time.Time {
	before := dueLocations(c.Schedules, now)
	for _, version := range c.Schedules {
		if version.EffectiveAt.After(now) && len(dueLocations(c.Schedules, version.EffectiveAt)) < len(before) {
			return version.EffectiveAt
		}
	}
	return time.Time{}
}

// dueLocations are the locations of the version in force at now and of those to come.
func dueLocations(versions []Schedule, now time.Time) []string {
	var due []string
	for i, version := range versions {
		ended := i+1 < len(versions) && !versions[i+1].EffectiveAt.After(now)
		if version.Interval == 0 || ended {
			continue
		}
		for _, location := range version.Locations {
			if !slices.Contains(due, location) {
				due = append(due, location)
			}
		}
	}
	return due
}

// schedules are the versions as one place sees them: never due where due says no. A version that changes nothing there
// is left out.
func schedules(versions []Schedule, due func(Schedule) bool) []*picketv1.Schedule {
	seen := make([]*picketv1.Schedule, 0, len(versions))
	for _, version := range versions {
		var interval int64
		if due(version) {
			interval = version.Interval.Milliseconds()
		}
		if n := len(seen); n > 0 && seen[n-1].IntervalMs == interval || n == 0 && interval == 0 && len(versions) > 1 {
			continue
		}
		m := &picketv1.Schedule{Revision: version.Revision, IntervalMs: interval}
		if !version.EffectiveAt.IsZero() {
			m.EffectiveAt = timestamppb.New(version.EffectiveAt)
		}
		seen = append(seen, m)
	}
	return seen
}

func (c *Check) proto(versions []*picketv1.Schedule) *picketv1.Check {
	m := &picketv1.Check{
		Name: c.Name, Kind: c.Kind(), Id: c.ID, Serial: c.Serial, Revision: c.Revision,
		TimeoutMs: c.Timeout.Milliseconds(), Locations: c.Locations, Priority: c.Priority,
		Schedules: versions, Alerts: c.Alerts,
	}
	switch {
	case c.HTTP != nil:
		m.Spec = &picketv1.Check_Http{Http: c.HTTP}
	case c.TCP != nil:
		m.Spec = &picketv1.Check_Tcp{Tcp: c.TCP}
	case c.Metrics != nil:
		m.Spec = &picketv1.Check_Metrics{Metrics: c.Metrics}
	}
	return m
}
