package tick

import (
	"slices"
	"strings"
	"time"
)

// AliveFor is how long a member counts as alive after its last heartbeat, and
// how long a set stays frozen after the connection has come back.
const AliveFor = 5 * time.Second

// Key is a check's number for ownership; see [KeyOf].
type Key uint64

// KeyOf returns the key of a check id.
func KeyOf(checkID string) Key { return Key(mix64(hash64(checkID))) }

// Ring is a set of members among which checks are divided by rendezvous hashing
// (Thaler and Ravishankar 1996): each member draws a number for a check, the
// highest owns it. So a member that comes takes an even share from all others
// and one that leaves gives its own to all, and nothing else moves. A Ring is
// immutable.
type Ring struct {
	nodes []node
}

type node struct {
	name string
	hash uint64
}

func newRing(names []string) Ring {
	r := Ring{nodes: make([]node, 0, len(names))}
	for _, name := range slices.Sorted(slices.Values(names)) {
		r.nodes = append(r.nodes, node{name: name, hash: mix64(hash64(name))})
	}
	return r
}

// Members returns the names, sorted.
func (r Ring) Members() []string {
	names := make([]string, 0, len(r.nodes))
	for _, n := range r.nodes {
		names = append(names, n.name)
	}
	return names
}

// Has reports whether a member belongs to the ring.
func (r Ring) Has(name string) bool {
	_, ok := slices.BinarySearchFunc(r.nodes, name, func(n node, name string) int { return strings.Compare(n.name, name) })
	return ok
}

// Equal reports whether two rings have the same members.
func (r Ring) Equal(other Ring) bool { return slices.Equal(r.nodes, other.nodes) }

// Owner returns the member that owns a check; empty when there are no members.
func (r Ring) Owner(key Key) string {
	var owner string
	var best uint64
	for i := range r.nodes {
		// Names are in order, so that the first wins a draw everywhere.
		if draw := mix64(r.nodes[i].hash + uint64(key)); owner == "" || draw > best {
			owner, best = r.nodes[i].name, draw
		}
	}
	return owner
}

// Owns reports whether a member owns a check.
func (r Ring) Owns(name string, key Key) bool { return r.Owner(key) == name }

// Members turns heartbeats heard into the set of members that are alive. Times
// are readings of the local monotonic clock and may not go back. The process
// itself is a member like any other: it hears its own heartbeats when it sends
// them. A Members is not safe for concurrent use.
type Members struct {
	heard map[string]time.Duration
	ring  Ring

	down        bool
	frozenUntil time.Duration
}

// NewMembers returns an empty set.
func NewMembers() *Members {
	return &Members{heard: map[string]time.Duration{}}
}

// Heard notes a heartbeat.
func (m *Members) Heard(name string, at time.Duration) { m.heard[name] = at }

// Goodbye takes out a member that stops by intention. It acts at once, also
// while the set is frozen.
func (m *Members) Goodbye(name string) {
	delete(m.heard, name)
	if m.ring.Has(name) {
		m.ring = newRing(slices.DeleteFunc(m.ring.Members(), func(n string) bool { return n == name }))
	}
}

// Freeze keeps the set as it is: the connection is down, and silence says
// nothing about the others.
func (m *Members) Freeze() { m.down = true }

// Thaw ends a freeze: the connection is back, or the process runs again after it
// was suspended. The set stays as it is for [AliveFor] more, in which those who
// are alive are heard again.
func (m *Members) Thaw(at time.Duration) {
	m.down = false
	m.frozenUntil = at + AliveFor
}

// Frozen reports whether the set is kept as it is.
func (m *Members) Frozen(at time.Duration) bool { return m.down || at < m.frozenUntil }

// Ring returns the set as of the last update.
func (m *Members) Ring() Ring { return m.ring }

// Changes returns when the set may change next if nobody is heard until then;
// false when it will not.
func (m *Members) Changes(now time.Duration) (at time.Duration, ok bool) {
	if m.down {
		return 0, false
	}
	if now < m.frozenUntil {
		return m.frozenUntil, true
	}
	for _, heard := range m.heard {
		// A member is alive for AliveFor, its last instant included.
		if end := heard + AliveFor + 1; !ok || end < at {
			at, ok = end, true
		}
	}
	return at, ok
}

// Update brings the set up to date and returns it. It is cheap when nothing has
// changed.
func (m *Members) Update(at time.Duration) Ring {
	if m.Frozen(at) {
		return m.ring
	}
	changed := len(m.heard) != len(m.ring.nodes)
	for name, heard := range m.heard {
		switch {
		case at-heard > AliveFor:
			delete(m.heard, name)
			changed = true
		case !m.ring.Has(name):
			changed = true
		}
	}
	if changed {
		names := make([]string, 0, len(m.heard))
		for name := range m.heard {
			names = append(names, name)
		}
		m.ring = newRing(names)
	}
	return m.ring
}
