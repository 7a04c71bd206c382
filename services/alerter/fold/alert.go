package fold

import (
	"strconv"
	"strings"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// fingerprint of the alert of a check. A partition check is about the database, not about its server.
func (c *check) fingerprint() string {
	switch {
	case isPartition(c.kind, c.name):
		return "partition-missing:" + c.server.name + ":" + c.name
	case c.name == checkHealth:
		return "system-health:" + c.server.name
	default:
		return "system-health:" + c.server.name + ":" + c.name
	}
}

// verdict is the kind and severity of an alert of the check at a level.
func (c *check) verdict(l level) (kind, severity string) {
	switch {
	case isPartition(c.kind, c.name):
		return KindPartitionMissing, SeverityCritical
	case c.name == checkMetrics:
		return KindMetricsFailing, SeverityWarning
	case l == critical:
		return KindCritical, SeverityCritical
	case l == unreachable:
		return KindUnreachable, SeverityCritical
	default:
		return KindDegraded, SeverityWarning
	}
}

// alertLevel is the level that an alert's kind stands for; false for kinds that have but one.
func alertLevel(kind string) (level, bool) {
	switch kind {
	case KindCritical:
		return critical, true
	case KindUnreachable:
		return unreachable, true
	case KindDegraded:
		return degraded, true
	default:
		return good, false
	}
}

// summary says in one sentence what is wrong, with the words of the last bad result.
func (c *check) summary(kind string) string {
	var b strings.Builder
	switch kind {
	case KindPartitionMissing:
		b.WriteString("a partition is missing")
	case KindMetricsFailing:
		b.WriteString("metrics of " + c.server.name + " cannot be collected")
	default:
		b.WriteString(c.server.name)
		if c.name != checkHealth {
			b.WriteString(" (" + c.name + ")")
		}
		b.WriteString(" is " + kind)
	}
	for i := len(c.evidence) - 1; i >= 0; i-- {
		e := &c.evidence[i]
		if l, ok := levelOf(e.status); !ok || l == good {
			continue
		}
		switch {
		case e.message != "":
			b.WriteString(": " + e.message)
		case e.reason != "":
			b.WriteString(": " + e.reason)
		case e.httpStatus != 0:
			b.WriteString(": http " + strconv.Itoa(int(e.httpStatus)))
		}
		break
	}
	return b.String()
}

// evaluate decides about the alert of a check after one of its results was folded. The rules are in the package comment.
func (s *State) evaluate(c *check, out *Output) {
	a, quiet := c.alert, c.server.lifecycle == lifecycleMaintenance
	if s.disabled || (a == nil && !c.bad()) {
		return
	}
	v := s.votes(c)
	o := &owned{alert: a, check: c}
	switch {
	case a == nil:
		if quiet || v.freshBad < c.rules.quorum {
			return
		}
		fails := v.top(&v.fresh, c.rules.quorum)
		name := Pending
		if fails > good {
			name = Opened
		} else {
			fails = v.top(&v.freshStatus, c.rules.quorum)
		}
		alert := Alert{
			Org: c.server.org, Fingerprint: c.fingerprint(), Server: c.server.name, Check: c.name, CheckID: c.id,
			Since: fromMS(v.since), Triggers: v.triggers,
		}
		alert.Kind, alert.Severity = c.verdict(fails)
		alert.Summary = c.summary(alert.Kind)
		if name == Opened {
			s.open(o, alert, c.proof(), out)
		} else {
			s.pend(o, alert, c.proof(), out)
		}
	case a.State == Pending:
		if v.bad < c.rules.quorum {
			s.close(o, Cleared, c.proof(), out)
			return
		}
		if fails := v.top(&v.fresh, c.rules.quorum); !quiet && v.freshBad >= c.rules.quorum && fails > good {
			alert := *a
			alert.Kind, alert.Severity = c.verdict(fails)
			alert.Summary = c.summary(alert.Kind)
			s.open(o, alert, c.proof(), out)
		}
	default:
		held := v.top(&v.held, c.rules.quorum)
		if held == good {
			s.close(o, Recovered, c.proof(), out)
			return
		}
		is, graded := alertLevel(a.Kind)
		if quiet || !graded {
			return
		}
		if to := min(max(is, v.top(&v.fresh, c.rules.quorum)), held); to != is {
			s.count(a, -1)
			a.Kind, a.Severity = c.verdict(to)
			a.Summary = c.summary(a.Kind)
			s.count(a, +1)
			s.emit(o, Updated, a.State, a.Summary, c.proof(), out)
		}
	}
}

// ballot is what the locations of a check say. The arrays hold, by level, how many are at least that bad.
type ballot struct {
	fresh, held   [levels]int // that fail; all, and the fresh ones
	freshStatus   [levels]int // of fresh ones, by the last result
	bad, freshBad int         // with a bad last result
	since         int64       // scheduled_at of the first bad result of the streaks that last, ms
	triggers      int64       // results in the longest of them
}

func (v *ballot) top(count *[levels]int, quorum int) level {
	for l := critical; l > good; l-- {
		if count[l] >= quorum {
			return l
		}
	}
	return good
}

func (s *State) votes(c *check) ballot {
	var v ballot
	reach := 3*c.interval(s.now) + c.timeout
	for i := range c.series {
		se := &c.series[i]
		if se.last == 0 {
			continue
		}
		fresh := s.now-se.last <= reach
		for l := degraded; l <= se.level; l++ {
			v.held[l]++
			if fresh {
				v.fresh[l]++
			}
		}
		if se.status == good {
			continue
		}
		v.bad++
		if fresh {
			v.freshBad++
			for l := degraded; l <= se.status; l++ {
				v.freshStatus[l]++
			}
		}
		if st := se.streaks[degraded]; v.since == 0 || st.begin < v.since {
			v.since = st.begin
		}
		v.triggers = max(v.triggers, int64(se.streaks[degraded].n))
	}
	return v
}

// pend, open and close are the state machine. The alert given is what it becomes; its owner is in o.
func (s *State) pend(o *owned, a Alert, proof []*picketv1.Evidence, out *Output) {
	a.State, a.PendingAt = Pending, fromMS(s.now)
	a.ID = identity(a.Org, a.Fingerprint, s.epoch, s.seq, "")
	s.attach(o, &a)
	s.emit(o, Pending, "", a.Summary, proof, out)
}

func (s *State) open(o *owned, a Alert, proof []*picketv1.Evidence, out *Output) {
	from := ""
	if o.alert == nil { // opened by its first bad result
		a.PendingAt = fromMS(s.now)
		a.ID = identity(a.Org, a.Fingerprint, s.epoch, s.seq, "")
	} else {
		from = o.alert.State
		s.detach(o)
	}
	a.State, a.OpenedAt = Open, fromMS(s.now)
	s.attach(o, &a)
	s.emit(o, Opened, from, a.Summary, proof, out)
}

func (s *State) close(o *owned, reason string, proof []*picketv1.Evidence, out *Output) {
	a, from := o.alert, o.alert.State
	s.detach(o)
	a.State, a.Reason, a.ClosedAt = Closed, reason, fromMS(s.now)
	what := a.Server
	switch {
	case a.Kind == KindProberGone:
		what = "the location " + a.Location
	case a.Kind == KindStreamHole:
		what = "the stream"
	case a.Check != "" && a.Check != checkHealth:
		what += " (" + a.Check + ")"
	}
	summary := what + " recovered"
	switch reason {
	case Cleared:
		summary = what + " is good again before the alert opened"
	case Removed:
		summary = what + " is not watched any more"
	}
	s.emit(o, Closed, from, summary, proof, out)
}

func (s *State) emit(o *owned, name, from, summary string, proof []*picketv1.Evidence, out *Output) {
	s.emitBy(o, name, from, summary, "", proof, out)
}

// emitBy is emit for what a person did.
func (s *State) emitBy(o *owned, name, from, summary, actor string, proof []*picketv1.Evidence, out *Output) {
	a := o.alert
	out.Transitions = append(out.Transitions, Transition{
		From: from, Actor: actor, Name: name, EventID: identity(a.Org, a.Fingerprint, s.epoch, s.seq, name), Alert: *a, Summary: summary,
		At: fromMS(s.now), Epoch: s.epoch, Sequence: s.seq, Evidence: proof,
	})
}

// attach makes the alert the one of its owner; detach undoes it.
func (s *State) attach(o *owned, a *Alert) {
	o.alert = a
	s.alerts[orgName{a.Org, a.Fingerprint}], s.ids[a.ID] = o, o
	s.count(a, +1)
	switch {
	case o.check != nil:
		o.check.alert = a
		s.dirtyChunk[o.check.server.stateChunk()] = true
	case o.location != nil:
		o.location.alert = a
	case a.Kind == KindStreamHole:
		s.hole = a
	}
}

func (s *State) detach(o *owned) {
	a := o.alert
	delete(s.alerts, orgName{a.Org, a.Fingerprint})
	delete(s.ids, a.ID)
	s.count(a, -1)
	switch {
	case o.check != nil:
		o.check.alert = nil
		s.dirtyChunk[o.check.server.stateChunk()] = true
	case o.location != nil:
		o.location.alert = nil
	case s.hole == a:
		s.hole = nil
	}
}

func (s *State) count(a *Alert, by int) {
	key := Count{a.Severity, a.State}
	if s.counts[key] += by; s.counts[key] == 0 {
		delete(s.counts, key)
	}
}
