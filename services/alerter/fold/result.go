package fold

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// A result that claims another time than this around its stream time breaks the contract.
const (
	maxAge   = 25 * time.Hour
	maxAhead = 60 * time.Second
)

// proofSize is how many results a transition carries at most.
const proofSize = 5

// result folds one probe result and says why not, when not.
func (s *State) result(p *picketv1.ProbeResult, out *Output) Skip {
	l, moves := levelOf(p.GetStatus())
	if p.GetScheduledAt() == nil || (!moves && p.GetStatus() != picketv1.Status_STATUS_UNKNOWN) {
		return SkipContract
	}
	id, err := uuid.Parse(p.GetCheckId())
	if err != nil {
		return SkipContract
	}
	// Truncated like the identity in the store. The bounds also keep out what does not fit into milliseconds.
	scheduled := p.GetScheduledAt().GetSeconds()*1000 + int64(p.GetScheduledAt().GetNanos())/1e6
	if sec := p.GetScheduledAt().GetSeconds(); sec < 0 || sec > 1<<40 ||
		scheduled < s.now-maxAge.Milliseconds() || scheduled > s.now+maxAhead.Milliseconds() {
		return SkipContract
	}
	c := s.checks[id]
	if c == nil || c.server.lifecycle == lifecycleInactive {
		return SkipUnknown
	}
	if c.server.org != p.GetOrg() {
		return SkipContract // who may speak for one organization has no say in another
	}
	se := c.at(p.GetLocation())
	if se == nil {
		return SkipUnknown
	}
	s.heard(se.location, out)
	if !moves || p.GetOnDemand() {
		return SkipNoStreak
	}
	if se.last > s.now+maxAhead.Milliseconds() {
		// Folded while the server's clock was ahead: it must not keep what is seen now from counting until then.
		*se = series{location: se.location, status: se.status, level: se.level}
	}
	if scheduled <= se.last {
		return SkipLate
	}
	if se.last == 0 || se.status != l {
		s.touch(c.server)
	}
	se.fold(&c.rules, scheduled, l)
	s.dirtyChunk[c.server.stateChunk()] = true
	if l != good && c.alert != nil {
		c.alert.Triggers++
	}
	c.remember(p, scheduled, l)
	s.evaluate(c, out)
	return ""
}

// evidence is what is kept of a result that may have to explain a transition.
type evidence struct {
	status     picketv1.Status
	scheduled  int64
	location   string
	reason     string
	message    string
	latency    int64
	httpStatus int32
}

// remember keeps the last results of a check from its first bad one on; a check that is well costs nothing.
func (c *check) remember(p *picketv1.ProbeResult, scheduled int64, l level) {
	if l == good && c.alert == nil && !c.bad() {
		c.evidence = nil
		return
	}
	if len(c.evidence) == proofSize {
		copy(c.evidence, c.evidence[1:])
		c.evidence = c.evidence[:proofSize-1]
	}
	c.evidence = append(c.evidence, evidence{
		status: p.GetStatus(), scheduled: scheduled, location: p.GetLocation(), reason: clip(p.GetReason(), 64),
		message: clip(p.GetMessage(), 256), latency: p.GetLatencyUs(), httpStatus: p.GetHttpStatus(),
	})
}

// bad reports whether the last result of any location was bad.
func (c *check) bad() bool {
	for i := range c.series {
		if c.series[i].status != good {
			return true
		}
	}
	return false
}

// proof is the evidence for a transition, oldest first.
func (c *check) proof() []*picketv1.Evidence {
	proof := make([]*picketv1.Evidence, len(c.evidence))
	for i, e := range c.evidence {
		proof[i] = &picketv1.Evidence{
			Status: e.status, ScheduledAt: timestamppb.New(fromMS(e.scheduled)), Location: e.location, Reason: e.reason,
			Message: e.message, LatencyUs: e.latency, HttpStatus: e.httpStatus,
		}
	}
	return proof
}

// clip bounds a text that comes from outside, at a rune's border, and takes out what PostgreSQL refuses: bytes that are no
// UTF-8, and NUL. It copies, so that a result is not kept alive by it.
func clip(text string, size int) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
	if len(text) > size {
		for size > 0 && !utf8.RuneStart(text[size]) {
			size--
		}
		text = text[:size]
	}
	return strings.Clone(text)
}
