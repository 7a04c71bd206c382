package fold

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// BlindAfter is the longest time between two events in which nobody is taken to have been blind. Every alerter publishes a
// tick a second.
const BlindAfter = 5 * time.Second

// State is everything the fold knows. The zero value is not usable; see [New] and [Restore].
type State struct {
	epoch int64
	seq   uint64
	now   int64 // stream time of the last event, Unix ms; 0 before the first
	seen  int64 // ms of stream time in which somebody was looking
	// switched is the stream time up to which schedule versions were put into force.
	switched int64
	disabled bool

	servers   map[uuid.UUID]*server
	names     map[orgName]*server
	checks    map[uuid.UUID]*check
	locations map[orgName]*location
	order     []*location // locations by org and name
	switches  switchHeap
	shards    [shards][]*server // by id, each in the order of ids
	tombs     []tombstone       // oldest first
	buried    map[uuid.UUID]int64

	hole       *Alert // events were dropped
	holeUntil  int64  // seen, ms: when it closes if nothing more is dropped
	orphans    []*Alert
	waiting    []*Alert             // of the database, whose owners are not known yet; not in snapshots, since they come from there
	waitUntil  int64                // seen, ms: when they are orphans
	alerts     map[orgName]*owned   // by org and fingerprint, not closed
	ids        map[uuid.UUID]*owned // the same by id
	counts     map[Count]int
	dirtyChunk [chunks]bool

	touched    map[ServerName]struct{} // whose status may have changed, unless it may be all
	touchedAll bool
}

type orgName struct{ org, name string }

func (a orgName) compare(b orgName) int {
	return cmp.Or(cmp.Compare(a.org, b.org), cmp.Compare(a.name, b.name))
}

// owned is an alert and where it hangs: exactly one of the owners is set, none for an orphan and for the hole.
type owned struct {
	alert    *Alert
	check    *check
	location *location
}

// Count is a key of [State.Counts].
type Count struct{ Severity, State string }

// New returns the state before the first event.
func New() *State {
	return &State{
		servers: map[uuid.UUID]*server{}, names: map[orgName]*server{}, checks: map[uuid.UUID]*check{},
		locations: map[orgName]*location{}, alerts: map[orgName]*owned{}, ids: map[uuid.UUID]*owned{}, counts: map[Count]int{},
		buried: map[uuid.UUID]int64{}, touched: map[ServerName]struct{}{}, touchedAll: true,
	}
}

// Position is the last event folded.
func (s *State) Position() (epoch int64, seq uint64) { return s.epoch, s.seq }

// Resume says that folding goes on after seq of the stream made at epoch, without what lies between: the stream was
// recreated or rolled back. The caller records the gap.
func (s *State) Resume(epoch int64, seq uint64) { s.epoch, s.seq = epoch, seq }

// Enabled reports whether alerts are opened, changed and closed.
func (s *State) Enabled() bool { return !s.disabled }

// SetEnabled switches alerting. The switch is part of the state and acts from the next event on: to stay deterministic, the
// caller makes it durable (a snapshot) before it folds another event.
func (s *State) SetEnabled(on bool) { s.disabled = !on }

// Counts returns the number of alerts that are not closed by severity and state. The caller must not change it.
func (s *State) Counts() map[Count]int { return s.counts }

// Checks returns the number of checks known.
func (s *State) Checks() int { return len(s.checks) }

// Step folds one event. An event at or before the last one of its epoch changes nothing.
func (s *State) Step(ev Event) Output {
	var out Output
	if ev.Epoch == s.epoch && ev.Sequence <= s.seq {
		out.Skip = SkipReplayed
		return out
	}
	s.advance(ev, &out)
	if len(s.waiting) > 0 && s.seen >= s.waitUntil {
		s.orphans, s.waiting = append(s.orphans, s.waiting...), nil
	}
	if !s.disabled && len(s.orphans) > 0 {
		s.closeOrphans(&out)
	}
	switch p := ev.Payload.(type) {
	case *picketv1.ProbeResult:
		out.Skip = s.result(p, &out)
	case *picketv1.CatalogChange:
		out.Skip = s.change(p, &out)
	case *picketv1.ClockTick:
		s.tick(&out)
	case *picketv1.Command:
		out.Skip = s.command(p, &out)
	}
	return out
}

// advance moves position and time to the event and notices what is missing before it.
func (s *State) advance(ev Event, out *Output) {
	first := s.now == 0
	now := ev.Time.UnixMilli()
	gap := Gap{Epoch: s.epoch, FromTime: fromMS(s.now), ToTime: fromMS(now)}
	if first || now < s.now {
		gap.FromTime = gap.ToTime
	}
	lost := uint64(0)
	switch {
	case ev.Epoch != s.epoch && s.epoch != 0:
		gap.Reason, gap.FromSeq, gap.ToSeq = GapRecreated, s.seq+1, s.seq+1
		out.Gaps = append(out.Gaps, gap)
	case ev.Epoch == s.epoch && ev.Sequence > s.seq+1:
		lost = ev.Sequence - s.seq - 1
		gap.Reason, gap.FromSeq, gap.ToSeq = GapHole, s.seq+1, ev.Sequence-1
		out.Gaps = append(out.Gaps, gap)
	}
	switch passed := now - s.now; {
	case first || passed <= 0:
		// A server clock set back: no time passed that anybody could have been silent in.
	case passed > BlindAfter.Milliseconds():
		if lost == 0 {
			blind := gap
			blind.Epoch, blind.Reason, blind.FromSeq, blind.ToSeq = ev.Epoch, GapBlind, s.seq, ev.Sequence
			out.Gaps = append(out.Gaps, blind)
		}
	default:
		s.seen += passed
	}
	s.epoch, s.seq, s.now = ev.Epoch, ev.Sequence, now
	if lost > 0 && !first {
		s.dropped(lost, out)
	}
}

// tick is the only place where absence decides.
func (s *State) tick(out *Output) {
	s.switchSchedules(out)
	for len(s.tombs) > 0 && s.now-s.tombs[0].at > tombstoneFor.Milliseconds() {
		if t := s.tombs[0]; s.buried[t.id] == t.revision {
			delete(s.buried, t.id)
		}
		s.tombs = s.tombs[1:]
	}
	for _, l := range s.order {
		s.absence(l, out)
	}
	if s.hole != nil && s.seen >= s.holeUntil && !s.disabled {
		s.close(&owned{alert: s.hole}, Recovered, nil, out)
	}
}

// dropped opens the alert about events that were lost, or prolongs it.
func (s *State) dropped(lost uint64, out *Output) {
	if s.disabled {
		return
	}
	s.holeUntil = s.seen + holeFor.Milliseconds()
	if s.hole != nil {
		s.hole.Triggers++
		return
	}
	s.open(&owned{}, Alert{
		Org: PlatformOrg, Fingerprint: "stream-hole", Kind: KindStreamHole, Severity: SeverityCritical, Server: Platform,
		Summary: fmt.Sprintf("the stream dropped %d events before they were read", lost), Since: fromMS(s.now), Triggers: 1,
	}, nil, out)
}

// holeFor is how long the alert about dropped events stays after the last of them, in time seen.
const holeFor = 5 * time.Minute

// closeOrphans closes alerts whose owner went away while alerting was disabled, or never came back.
func (s *State) closeOrphans(out *Output) {
	orphans := s.orphans
	s.orphans = nil
	slices.SortFunc(orphans, func(a, b *Alert) int {
		return orgName{a.Org, a.Fingerprint}.compare(orgName{b.Org, b.Fingerprint})
	})
	for _, a := range orphans {
		s.close(&owned{alert: a}, Removed, nil, out)
	}
}

func fromMS(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
