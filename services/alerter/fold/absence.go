package fold

import (
	"bytes"
	"container/heap"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// silentAtLeast is the shortest silence of a location that raises an alert.
const silentAtLeast = 30 * time.Second

// location is one place from which checks of one organization are probed.
type location struct {
	orgName
	due    map[int64]int // number of checks due here by interval (ms)
	heard  int64         // when it was last heard or came into being, in time seen (ms)
	at     int64         // the same in stream time, ms: for people
	silent bool
	alert  *Alert
	uses   int // series that point here
}

// limit is the silence after which the location counts as gone, ms.
func (l *location) limit() int64 {
	shortest := int64(0)
	for interval := range l.due {
		if shortest == 0 || interval < shortest {
			shortest = interval
		}
	}
	return max(silentAtLeast.Milliseconds(), 2*shortest)
}

// heard notes that a location is alive.
func (s *State) heard(l *location, out *Output) {
	l.heard, l.at = s.seen, s.now
	if l.silent {
		l.silent = false
		s.touchAll()
		if l.alert != nil && !s.disabled {
			s.close(&owned{alert: l.alert, location: l}, Recovered, nil, out)
		}
	}
}

// absence decides whether a location is gone.
func (s *State) absence(l *location, out *Output) {
	limit := l.limit()
	was := l.silent
	if l.silent = len(l.due) > 0 && s.seen-l.heard >= limit; l.silent != was {
		s.touchAll()
	}
	if s.disabled || l.silent == (l.alert != nil) {
		return
	}
	if l.alert != nil { // heard again, or nothing due any more, while alerting was disabled
		reason := Recovered
		if len(l.due) == 0 {
			reason = Removed
		}
		s.close(&owned{alert: l.alert, location: l}, reason, nil, out)
		return
	}
	s.open(&owned{location: l}, Alert{
		Org: l.org, Fingerprint: "prober-gone:" + l.name, Kind: KindProberGone, Severity: SeverityCritical,
		Server: Platform, Location: l.name, Since: fromMS(l.at), Triggers: 1,
		Summary: fmt.Sprintf("no prober at %s was heard for %s", l.name, time.Duration(limit)*time.Millisecond),
	}, nil, out)
}

// use returns the location and counts one more series that points at it; drop counts one less.
func (s *State) use(org, name string) *location {
	key := orgName{org, name}
	l := s.locations[key]
	if l == nil {
		l = &location{orgName: key, due: map[int64]int{}, heard: s.seen, at: s.now}
		s.locations[key] = l
		i, _ := slices.BinarySearchFunc(s.order, key, func(l *location, k orgName) int { return l.compare(k) })
		s.order = slices.Insert(s.order, i, l)
		s.claimLocation(l)
	}
	l.uses++
	return l
}

func (s *State) drop(l *location, out *Output) {
	if l.uses--; l.uses > 0 {
		return
	}
	s.undue(l, out)
	if l.alert != nil { // alerting is disabled
		s.orphan(&owned{alert: l.alert, location: l})
	}
	delete(s.locations, l.orgName)
	i, _ := slices.BinarySearchFunc(s.order, l.orgName, func(l *location, k orgName) int { return l.compare(k) })
	s.order = slices.Delete(s.order, i, i+1)
}

// orphan sets an alert aside that has to be closed as removed once alerting is enabled.
func (s *State) orphan(o *owned) {
	a := o.alert
	s.detach(o)
	s.attach(&owned{}, a)
	s.orphans = append(s.orphans, a)
}

// expect counts a check that is due at the location every interval (ms; 0: never), one more or one less.
func (s *State) expect(l *location, interval int64, by int, out *Output) {
	if interval == 0 {
		return
	}
	if len(l.due) == 0 && l.heard != neverHeard { // nothing was expected of it until now
		l.heard, l.at = s.seen, s.now
	}
	if l.due[interval] += by; l.due[interval] == 0 {
		delete(l.due, interval)
	}
	if len(l.due) == 0 {
		s.undue(l, out)
	}
}

// undue ends the watch over a location at which nothing is due any more.
func (s *State) undue(l *location, out *Output) {
	if l.silent {
		l.silent = false
		s.touchAll()
	}
	if l.alert != nil && !s.disabled {
		s.close(&owned{alert: l.alert, location: l}, Removed, nil, out)
	}
}

// switchAt says when another version of a check's schedule comes into force.
type switchAt struct {
	at    int64 // ms
	check uuid.UUID
}

type switchHeap []switchAt

func (h switchHeap) Len() int      { return len(h) }
func (h switchHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *switchHeap) Push(x any)   { *h = append(*h, x.(switchAt)) }

// Less is a total order, so that ties are broken alike whatever the heap looks like inside.
func (h switchHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return bytes.Compare(h[i].check[:], h[j].check[:]) < 0
}

func (h *switchHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// switchSchedules puts the schedule versions into force that became effective since the last tick.
func (s *State) switchSchedules(out *Output) {
	s.switched = max(s.switched, s.now)
	for len(s.switches) > 0 && s.switches[0].at <= s.switched {
		next := heap.Pop(&s.switches).(switchAt)
		if c := s.checks[next.check]; c != nil {
			s.recount(c, out)
		}
	}
}

// plan notes the versions of a schedule that are still to come.
func (s *State) plan(c *check) {
	for _, v := range c.schedules {
		if v.effective > s.switched {
			heap.Push(&s.switches, switchAt{v.effective, c.id})
		}
	}
}

// recount makes the locations of a check expect it at the interval in force.
func (s *State) recount(c *check, out *Output) {
	interval := int64(0)
	if c.server.lifecycle != lifecycleInactive {
		interval = c.interval(s.now)
	}
	if interval == c.counted {
		return
	}
	s.dirtyChunk[c.server.catalogChunk()] = true
	old := c.counted
	c.counted = interval
	for i := range c.series {
		// The new one first: a location whose only check changes its interval was never without one.
		s.expect(c.series[i].location, interval, +1, out)
		s.expect(c.series[i].location, old, -1, out)
	}
}

// Silent reports whether a location is gone.
func (s *State) Silent(org, location string) bool {
	l := s.locations[orgName{org, location}]
	return l != nil && l.silent
}
