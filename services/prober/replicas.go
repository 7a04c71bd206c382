package prober

import (
	"math"
	"sync"
	"time"

	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// deafAfter is the silence of this process's own heartbeats after which it
	// counts as cut off, though the connection looks alive: a server that is frozen
	// answers nobody, and the others are then not dead.
	deafAfter = 3 * time.Second
	// goneTogether is how far apart members may be found gone that were dead together.
	goneTogether = 2 * tick.AliveFor
	// rosterSlack is how much older than a heartbeat an entry of the roster may be.
	rosterSlack = enrollEvery + 7*time.Second
)

// replicas hears the heartbeats of the probers of a location, this one's too. It
// is safe for concurrent use.
type replicas struct {
	self string

	mu      sync.Mutex
	members *tick.Members
	// settledMS is what each member that was ever heard has settled.
	settledMS map[string]int64
	left      map[string]time.Duration // since when those are gone
	down      bool
	deaf      bool
	echo      time.Duration // when this process was last heard by itself; 0: never
}

func newReplicas(self string) *replicas {
	return &replicas{self: self, members: tick.NewMembers(), settledMS: map[string]int64{}, left: map[string]time.Duration{}}
}

// hear takes a heartbeat in and reports whether the loop should look at once.
func (r *replicas) hear(status *picketv1.WorkerStatus, mono time.Duration) (urgent bool) {
	name := status.GetInstance()
	r.mu.Lock()
	defer r.mu.Unlock()
	if name == r.self {
		r.echo = mono
		if r.deaf && !r.down {
			r.deaf = false
			r.members.Thaw(mono)
		}
		return false
	}
	r.settledMS[name] = settledOf(status)
	if !status.GetRunning() {
		r.members.Goodbye(name)
		return true
	}
	r.members.Heard(name, mono)
	// Only the loop may find that somebody is gone: it knows whether this process
	// was there to hear.
	return !r.members.Ring().Has(name)
}

// settledOf returns until when a member's ticks are settled. One that does not
// say has released all before it sent.
func settledOf(status *picketv1.WorkerStatus) int64 {
	if at := status.GetSettledUntil(); at != nil {
		return at.AsTime().UnixMilli()
	}
	return status.GetSentAt().AsTime().UnixMilli()
}

// connected notes that the connection came or went.
func (r *replicas) connected(up bool, mono time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !up:
		r.down = true
		r.members.Freeze()
	case r.down: // else it is the first time, and there is no set to keep
		r.down = false
		r.listen(mono)
	}
}

// suspended notes that the process did not run: what was heard is as old as that.
func (r *replicas) suspended(mono time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.down {
		r.listen(mono)
	}
}

// listen gives everybody, this process too, the time to be heard again.
func (r *replicas) listen(mono time.Duration) {
	r.deaf = false
	if r.echo != 0 { // else it has not spoken yet
		r.echo = mono
	}
	r.members.Thaw(mono)
}

// update returns the ring as it is now, with this process in it.
func (r *replicas) update(mono time.Duration) tick.Ring {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.echo != 0 && mono-r.echo > deafAfter && !r.deaf {
		r.deaf = true
		r.members.Freeze()
	}
	r.members.Heard(r.self, mono)
	return r.members.Update(mono)
}

// changes returns when the ring changes next if nobody is heard until then.
func (r *replicas) changes(mono time.Duration) (at time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.Changes(mono)
}

// settled returns until when the ticks of each member are settled that is in the
// ring or has lately left it. Members that went one after the other may have been
// dead together, and what the first had not settled was then the second's to
// explain: they count as having settled what the last of them had.
func (r *replicas) settled(ring tick.Ring, mono time.Duration) map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	settled := make(map[string]int64, len(r.settledMS))
	least := int64(math.MaxInt64)
	for name, at := range r.settledMS {
		if ring.Has(name) {
			settled[name] = at
			delete(r.left, name)
			continue
		}
		left, known := r.left[name]
		if !known {
			left = mono
			r.left[name] = mono
		}
		if mono-left > goneTogether {
			delete(r.settledMS, name)
			delete(r.left, name)
			continue
		}
		settled[name] = at
		least = min(least, at)
	}
	for name := range settled {
		if !ring.Has(name) {
			settled[name] = least
		}
	}
	return settled
}

// former returns who owned the checks before this process, with what they had
// settled: the others that are alive, and those of the roster that are not. When
// all are gone they may have taken from each other what nobody had settled: all
// count as having settled what the last of them had. When others live, what they
// have taken over already is theirs.
func (r *replicas) former(roster []*picketv1.WorkerStatus, now time.Time, mono time.Duration) (tick.Ring, map[string]int64) {
	ring := r.update(mono)
	settled := r.settled(ring, mono)
	alone := len(ring.Members()) == 1
	before := tick.NewMembers()
	for _, name := range ring.Members() {
		if name != r.self {
			before.Heard(name, mono)
		}
	}
	least := int64(math.MaxInt64)
	for _, status := range roster {
		name := status.GetInstance()
		if name != r.self && ring.Has(name) || !alone && now.Sub(status.GetSentAt().AsTime()) > rosterSlack {
			continue
		}
		before.Heard(name, mono)
		settled[name] = settledOf(status)
		least = min(least, settled[name])
	}
	if alone {
		for name := range settled {
			settled[name] = least
		}
	}
	return before.Update(mono), settled
}
