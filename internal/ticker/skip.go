package ticker

import (
	"slices"
	"strings"

	"github.com/picketd/picket/internal/tick"
)

// serverName names a server in the whole of Picket.
type serverName struct{ org, server string }

func (t *target) serverName() serverName { return serverName{t.org, t.server} }

// indexServer notes whose a check is, if anything is ever skipped, so that a nudge need
// not look at all checks.
func (s *scheduler) indexServer(c *check) {
	if s.opts.Skip != nil {
		name := c.target.serverName()
		s.servers[name] = append(s.servers[name], c)
	}
}

// unindexServer takes a check out again, before its target changes.
func (s *scheduler) unindexServer(c *check) {
	if s.opts.Skip == nil {
		return
	}
	name := c.target.serverName()
	rest := slices.DeleteFunc(s.servers[name], func(other *check) bool { return other == c })
	if s.servers[name] = rest; len(rest) == 0 {
		delete(s.servers, name)
	}
}

// want makes a tick wait for its turn, unless it is to be skipped.
func (s *scheduler) want(c *check, atMS, revision int64) {
	s.forgetSkipped(c)
	if cause, skip := s.skips(c.target); skip {
		c.skippedMS, c.skippedRevision = atMS, revision
		s.opts.Skipped(c.target, single(atMS, revision), cause)
		return
	}
	s.wait(c, atMS, revision, false)
}

// skips asks whether a check's server is to be left alone.
func (s *scheduler) skips(t *target) (cause string, skip bool) {
	if s.opts.Skip == nil {
		return "", false
	}
	reason, skip := s.opts.Skip(t.org, t.server)
	if skip && !strings.HasPrefix(reason, causeOverload) {
		reason = causeSkipped + reason
	}
	return reason, skip
}

// forgetSkipped makes a skipped tick one that is not made up for.
func (s *scheduler) forgetSkipped(c *check) {
	c.skippedMS = 0
	s.wheel.Remove(c.nudge)
	c.nudge = tick.Timer{}
}

// nudge has the checks of a server make up for the ticks that they skipped last:
// at once, but for many servers together no faster than the steady rate.
func (s *scheduler) nudge(name serverName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	for _, c := range s.servers[name] {
		if c.nudge != (tick.Timer{}) || !s.mayMakeUp(c, now) {
			continue
		}
		if at := s.pacer.Reserve(now, s.rate); at > now {
			c.nudge = s.wheel.Add(at, event{check: c, nudge: true})
			continue
		}
		s.makeUp(c, now)
	}
	s.dispatch(now)
	s.opts.Wake()
}

// mayMakeUp reports whether the tick skipped last is the last that was due, and
// this process's.
func (s *scheduler) mayMakeUp(c *check, nowMS int64) bool {
	if c.skippedMS == 0 || c.skippedMS > nowMS || !s.entitled(c, s.ring) {
		return false
	}
	_, _, younger := c.target.schedules.Last(c.target.serial, c.target.location, c.skippedMS, nowMS)
	return !younger
}

// makeUp runs the tick skipped last after all. It has its marker, which the
// outcome replaces.
func (s *scheduler) makeUp(c *check, nowMS int64) {
	c.nudge = tick.Timer{}
	if !s.mayMakeUp(c, nowMS) {
		return
	}
	if _, skip := s.skips(c.target); skip {
		return
	}
	at, revision := c.skippedMS, c.skippedRevision
	c.skippedMS = 0
	s.wait(c, at, revision, true)
}
