package fold

import (
	"slices"

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

// Reconcile makes the alerts those of the database, which are the truth, and returns how many differed. None does when the
// state was folded up to the position of the database; when events in between are lost, the database knows more.
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
		s.orphans = slices.DeleteFunc(s.orphans, func(orphan *Alert) bool { return orphan == o.alert })
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
		if o.check == nil && o.location == nil && a.Kind != KindStreamHole {
			s.orphans = append(s.orphans, &a)
		}
	}
	return differ
}
