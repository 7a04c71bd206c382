package fold

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Alerts returns copies of the alerts that are not closed, by organization and fingerprint.
func (s *State) Alerts() []Alert {
	all := make([]Alert, 0, len(s.alerts))
	for _, o := range s.alerts {
		all = append(all, *o.alert)
	}
	slices.SortFunc(all, func(a, b Alert) int {
		return orgName{a.Org, a.Fingerprint}.compare(orgName{b.Org, b.Fingerprint})
	})
	return all
}

// waitFor is how long an alert waits for its owner, in time seen: the catalog says again what there is within seconds of a
// new stream, and longer only where it is away itself.
const waitFor = 10 * time.Minute

// Reconcile makes the alerts those of the database, which are the truth, and returns how many differed. None does when the
// state was folded up to the position of the database; when events in between are lost, the database knows more. What it
// knows holds until results say otherwise, and what nobody is known to own waits for its owner: an incident that outlasts
// the stream is still one alert.
func (s *State) Reconcile(truth []Alert) (differ int) {
	stored := make(map[orgName]Alert, len(truth))
	for _, a := range truth {
		stored[orgName{a.Org, a.Fingerprint}] = a
	}
	for _, a := range s.Alerts() {
		key := orgName{a.Org, a.Fingerprint}
		if b, ok := stored[key]; ok && b.ID == a.ID && b.State == a.State && b.Kind == a.Kind {
			delete(stored, key)
			continue
		}
		differ++
		o := s.alerts[key]
		s.detach(o)
		s.forget(o.alert)
	}
	for _, a := range truth {
		if _, ok := stored[orgName{a.Org, a.Fingerprint}]; !ok {
			continue
		}
		if s.alerts[orgName{a.Org, a.Fingerprint}] == nil {
			differ++
		}
		o := &owned{check: s.checks[a.CheckID]}
		if a.CheckID == uuid.Nil {
			o = &owned{location: s.locations[orgName{a.Org, a.Location}]}
		}
		if o.check != nil && o.check.fingerprint() != a.Fingerprint {
			o.check = nil
		}
		s.attach(o, &a)
		switch {
		case o.check != nil:
			o.check.hold()
		case o.location != nil:
			o.location.hold()
		case a.Kind != KindStreamHole:
			s.waiting, s.waitUntil = append(s.waiting, &a), s.seen+waitFor.Milliseconds()
		}
	}
	return differ
}

// forget takes an alert off those that nobody owns.
func (s *State) forget(a *Alert) {
	is := func(other *Alert) bool { return other == a }
	s.orphans, s.waiting = slices.DeleteFunc(s.orphans, is), slices.DeleteFunc(s.waiting, is)
}

// claim gives a check the alert that waits for it. One that another check has left under the same name is closed.
func (s *State) claim(c *check, out *Output) {
	o := s.alerts[orgName{c.server.org, c.fingerprint()}]
	if c.alert != nil || o == nil || !slices.Contains(s.waiting, o.alert) {
		return
	}
	s.forget(o.alert)
	if o.alert.CheckID != c.id || c.server.lifecycle == lifecycleInactive {
		s.closeOrOrphanAlert(o, out)
		return
	}
	o.check, c.alert = c, o.alert
	s.dirtyChunk[c.server.stateChunk()] = true
	c.hold()
}

// claimLocation gives a location the alert that waits for it.
func (s *State) claimLocation(l *location) {
	for _, a := range s.waiting {
		if a.CheckID == uuid.Nil && a.Org == l.org && a.Location == l.name {
			o := s.alerts[orgName{a.Org, a.Fingerprint}]
			s.forget(a)
			o.location, l.alert = l, a
			l.hold()
			return
		}
	}
}

// abandon closes the waiting alerts of a server that is gone.
func (s *State) abandon(org, server string, out *Output) {
	for _, a := range slices.Clone(s.waiting) {
		if a.CheckID != uuid.Nil && a.Org == org && a.Server == server {
			s.forget(a)
			s.closeOrOrphanAlert(s.alerts[orgName{a.Org, a.Fingerprint}], out)
		}
	}
}

// hold makes a check fail as its alert says that it does, at every location, until there are results.
func (c *check) hold() {
	fails, graded := alertLevel(c.alert.Kind)
	if !graded {
		fails = critical // kinds with one level: any of them fails
	}
	for i := range c.series {
		se := &c.series[i]
		if c.alert.State != Pending {
			se.level = max(se.level, fails)
		}
		if se.last == 0 {
			se.last, se.status = max(c.alert.Since.UnixMilli(), 1), fails
		}
	}
}

// hold makes a location silent, as its alert says, until it is heard.
func (l *location) hold() { l.silent, l.heard = true, neverHeard }

// neverHeard is before any time seen.
const neverHeard = -1 << 60
