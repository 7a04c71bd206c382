package ticker

import (
	"maps"
	"math"
	"slices"
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
	// silentAfter is the silence after which a member may be dead.
	silentAfter = 5 * beatEvery / 2
	// mostReplicas bounds the names that are heard at a time: nobody has so many probers at one location, and whoever makes
	// names up must not have each of us divide the checks among a million.
	mostReplicas = 256
	// goneTogether is how far apart members may be found gone that were dead together.
	goneTogether = 2 * tick.AliveFor
	// rosterSlack is how much older than the last sign of life of any prober an
	// entry of the roster may be to count: whoever lived for longer after it has
	// found its writer gone. Besides the time between entries and the silence that
	// counts as death it leaves room for an outage of NATS, during which nobody is
	// found gone and nobody writes.
	rosterSlack = time.Minute
)

// replicas hears the heartbeats of the probers of a location, this one's too. It
// is safe for concurrent use.
type replicas struct {
	self string

	mu      sync.Mutex
	members *tick.Members
	// settledMS is what each member that was ever heard has settled.
	settledMS map[string]int64
	heard     map[string]time.Duration // when each was heard last
	startedMS map[string]int64         // when each process that was heard began
	replaced  map[string]ended         // who ended without leaving the ring: another of their name has begun, or silence
	released  map[string]int64         // until when the ticks are theirs who have said goodbye
	leaving   map[string]time.Duration // of those, who still has to settle some, and when they were heard last
	left      map[string]time.Duration // since when those are gone
	down      bool
	deaf      bool
	echo      time.Duration // when this process was last heard by itself; 0: never
}

// ended is what is known of a process that ended: until when its ticks were settled,
// and since when those of its checks are the business of another of its name; 0: of none.
type ended struct {
	settledMS, nextMS int64
}

func newReplicas(self string) *replicas {
	return &replicas{
		self: self, members: tick.NewMembers(), settledMS: map[string]int64{}, startedMS: map[string]int64{},
		heard: map[string]time.Duration{}, replaced: map[string]ended{}, left: map[string]time.Duration{},
		released: map[string]int64{}, leaving: map[string]time.Duration{},
	}
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
	started := status.GetStartedAt().AsTime().UnixMilli()
	before, known := r.startedMS[name]
	if !known && len(r.startedMS) >= mostReplicas {
		return false
	}
	if known && before != started {
		r.end(name, settlesFrom(status))
		delete(r.released, name)
	}
	if _, gone := r.released[name]; gone && status.GetRunning() {
		return false // sent before the goodbye: nobody comes back from that
	}
	r.startedMS[name] = started
	r.settledMS[name], r.heard[name] = settledOf(status), mono
	if !status.GetRunning() {
		return r.goodbye(name, releasedOf(status), mono)
	}
	r.members.Heard(name, mono)
	// Only the loop may find that somebody is gone: it knows whether this process
	// was there to hear.
	return !r.members.Ring().Has(name) || len(r.replaced) > 0
}

// goodbye takes out a member that stops. It says so every second until it has
// settled what is still its own.
func (r *replicas) goodbye(name string, releasedMS int64, mono time.Duration) (urgent bool) {
	_, again := r.released[name]
	r.released[name] = releasedMS
	if r.settledMS[name] < releasedMS {
		r.leaving[name] = mono
	} else {
		delete(r.leaving, name)
	}
	r.members.Goodbye(name)
	return !again
}

// end notes that a process is gone which may have settled less than it had, and
// since when another of its name settles; 0: there is none, or it does not say.
func (r *replicas) end(name string, nextMS int64) {
	e, known := r.replaced[name]
	if !known {
		e.settledMS = r.settledMS[name]
	}
	e.nextMS = max(e.nextMS, nextMS)
	r.replaced[name] = e
	delete(r.leaving, name)
}

// replacements returns, once, those who are gone, and not by leaving the ring:
// another of their name has begun, or they were to settle what they had in flight
// when they left, and are silent.
func (r *replicas) replacements(mono time.Duration) map[string]ended {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, heard := range r.leaving {
		if !r.down && !r.deaf && mono-heard > tick.AliveFor {
			r.end(name, 0)
		}
	}
	if len(r.replaced) == 0 {
		return nil
	}
	replaced := r.replaced
	r.replaced = map[string]ended{}
	return replaced
}

// settledOf returns until when a member's ticks are settled. One that does not
// say has released all before it sent.
func settledOf(status *picketv1.WorkerStatus) int64 {
	if at := status.GetSettledUntil(); at != nil {
		return at.AsTime().UnixMilli()
	}
	return status.GetSentAt().AsTime().UnixMilli()
}

// releasedOf returns until when the ticks are a member's that leaves. One that does
// not say releases what it has settled.
func releasedOf(status *picketv1.WorkerStatus) int64 {
	if at := status.GetReleasedUntil(); at != nil {
		return at.AsTime().UnixMilli()
	}
	return settledOf(status)
}

// settlesFrom returns since when the ticks of a member's checks are its business; 0:
// it does not say.
func settlesFrom(status *picketv1.WorkerStatus) int64 {
	if at := status.GetSettlesFrom(); at != nil {
		return at.AsTime().UnixMilli()
	}
	return 0
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
	for name := range r.leaving {
		r.leaving[name] = mono
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
// ring or has lately left it, or no longer the business of others because it settles
// them itself. Members that went one after the other may have been
// dead together, and what the first had not settled was then the second's to
// explain: they count as having settled what the last of them had.
func (r *replicas) settled(ring tick.Ring, mono time.Duration) map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	settled := make(map[string]int64, len(r.settledMS))
	least, unsettled := int64(math.MaxInt64), int64(math.MaxInt64)
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
		if released, leaves := r.released[name]; leaves {
			at = max(at, released)
		}
		if _, leaving := r.leaving[name]; !leaving && mono-left > goneTogether {
			delete(r.settledMS, name)
			delete(r.startedMS, name)
			delete(r.heard, name)
			delete(r.left, name)
			delete(r.released, name)
			continue
		}
		settled[name] = at
		least = min(least, at)
		unsettled = min(unsettled, r.settledMS[name])
	}
	for name := range settled {
		_, left := r.released[name]
		switch {
		case ring.Has(name):
		case left:
			settled[name] = least
		default: // dead, and may have been to explain what one had in flight that left, and is dead too
			settled[name] = unsettled
		}
	}
	return settled
}

// silent returns until when those have settled who are in the ring and may be
// dead. What they have not is then this process's to explain as soon as it has
// found them gone, which others that never heard them cannot: until then it has
// not settled more itself. Nobody is [math.MaxInt64].
func (r *replicas) silent(mono time.Duration) (untilMS int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	untilMS = math.MaxInt64
	for name, at := range r.settledMS {
		if r.members.Ring().Has(name) && mono-r.heard[name] > silentAfter {
			untilMS = min(untilMS, at)
		}
	}
	return untilMS
}

// leavers returns until when those have settled who have left the ring and still
// have to settle what is their own, or were to until now: see replacements.
func (r *replicas) leavers() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	leavers := make(map[string]int64, len(r.replaced)+len(r.leaving))
	for name, ended := range r.replaced {
		leavers[name] = ended.settledMS
	}
	for name := range r.leaving {
		leavers[name] = r.settledMS[name]
	}
	return leavers
}

// said returns until when each member has said last that its ticks are settled.
func (r *replicas) said() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.settledMS)
}

// remember notes a member that was gone before this process could hear it.
func (r *replicas) remember(name string, settledMS int64, mono time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settledMS[name], r.left[name] = settledMS, mono
}

// former returns who owned the checks before this process, with what they had
// settled: the others that are alive, and those of the roster that are not. Those
// that are gone may have taken from each other what nobody had settled: all count
// as having settled what the last of them had. Others may not have found them gone
// yet and go before they do: those of the roster count as having left just now.
func (r *replicas) former(roster []*picketv1.WorkerStatus, now time.Time, mono time.Duration) (tick.Ring, map[string]int64) {
	roster = slices.DeleteFunc(slices.Clone(roster), func(status *picketv1.WorkerStatus) bool {
		return status.GetSentAt().AsTime().Sub(now) > rosterSlack // by a clock that was ahead then: it says nothing of now
	})
	ring := r.update(mono)
	settled := r.settled(ring, mono)
	alone := len(ring.Members()) == 1
	before := tick.NewMembers()
	for _, name := range ring.Members() {
		if name != r.self {
			before.Heard(name, mono)
		}
	}
	lastSign := now
	if alone {
		lastSign = time.Time{}
		for _, status := range roster {
			if at := status.GetSentAt().AsTime(); at.After(lastSign) {
				lastSign = at
			}
		}
	}
	least := int64(math.MaxInt64)
	for _, status := range roster {
		name := status.GetInstance()
		if name != r.self && ring.Has(name) || lastSign.Sub(status.GetSentAt().AsTime()) > rosterSlack {
			continue
		}
		before.Heard(name, mono)
		settled[name] = settledOf(status)
		least = min(least, settled[name])
		if name != r.self {
			r.remember(name, settled[name], mono)
		}
	}
	for name := range settled {
		if name == r.self || !ring.Has(name) {
			settled[name] = min(settled[name], least)
		}
	}
	return before.Update(mono), settled
}
