package fold

import (
	"github.com/google/uuid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Verbs of commands.
const (
	VerbAcknowledge = "acknowledge"
	VerbClose       = "close"
)

// How much of what a person says is kept.
const (
	actorSize = 128
	noteSize  = 256
)

// command folds what a person wants done about an alert, and says why it was not, when it was not. Nothing of it depends on
// anything but the state and the command, so that replay does the same again.
func (s *State) command(p *picketv1.Command, out *Output) Skip {
	id, err := uuid.Parse(p.GetAlertId())
	if err != nil {
		return SkipContract
	}
	o := s.ids[id]
	if o == nil || o.alert.Org != p.GetOrg() { // closed already, never there, or another organization's: all the same to who asks
		return SkipUnknownAlert
	}
	if s.disabled {
		return SkipState
	}
	actor, note := clip(p.GetActor(), actorSize), clip(p.GetNote(), noteSize)
	switch p.GetVerb() {
	case VerbAcknowledge:
		if o.alert.State != Open {
			return SkipState
		}
		s.acknowledge(o, actor, note, out)
	case VerbClose:
		if !Closable(o.alert.Kind, o.alert.State) {
			return SkipState
		}
		s.closeByHand(o, actor, note, out)
	default:
		return SkipContract
	}
	return ""
}

// Closable reports whether a person may close an alert of a kind in a state. That a location is gone is not ended by
// saying so: it ends when the location is heard again, or when nothing is due there any more.
func Closable(kind, state string) bool {
	return (state == Open || state == Acknowledged) && kind != KindProberGone
}

func (s *State) acknowledge(o *owned, actor, note string, out *Output) {
	a := o.alert
	s.count(a, -1)
	a.State, a.AckedAt, a.AckedBy = Acknowledged, fromMS(s.now), actor
	s.count(a, +1)
	if o.check != nil {
		s.dirtyChunk[o.check.server.stateChunk()] = true
	}
	s.emitBy(o, Acknowledged, Open, said(actor, "acknowledged it", note), actor, nil, out)
}

// closeByHand ends the incident. What the check has shown so far, but for its last results, belongs to it: an alert comes
// again by the rules, not with the very next result.
func (s *State) closeByHand(o *owned, actor, note string, out *Output) {
	a, from := o.alert, o.alert.State
	s.detach(o)
	a.State, a.Reason, a.ClosedAt = Closed, Manual, fromMS(s.now)
	if o.check != nil {
		o.check.beginAnew()
	}
	s.emitBy(o, Closed, from, said(actor, "closed it", note), actor, nil, out)
}

// beginAnew forgets all but the last result of each location.
func (c *check) beginAnew() {
	c.evidence = nil
	for i := range c.series {
		se := &c.series[i]
		if se.last == 0 {
			continue
		}
		fresh := series{location: se.location}
		fresh.fold(&c.rules, se.last, se.status)
		*se = fresh
	}
}

func said(actor, did, note string) string {
	if actor == "" {
		actor = "somebody"
	}
	if note == "" {
		return actor + " " + did
	}
	return actor + " " + did + ": " + note
}
