package ticker

import "slices"

// given notes from whom this process has a check who has still to settle ticks of it.
func (s *scheduler) given(c *check, giver string, fromMS int64) {
	s.givers[giver] = max(s.givers[giver], fromMS)
	for i := range c.gifts {
		if c.gifts[i].giver == giver {
			c.gifts[i].givenMS = max(c.gifts[i].givenMS, fromMS)
			return
		}
	}
	c.gifts = append(c.gifts, gift{giver, fromMS})
}

// owed returns until when everybody has settled who gave checks to this process
// and may die before what it gave is settled. That is then this process's to
// explain, and when it is dead too, of whoever takes its checks: it may not say
// that it has settled more, nor what the wheel still holds, such as the rest of
// the slot that has begun. Nothing owed is [math.MaxInt64].
func (s *scheduler) owed(settledMS map[string]int64) (untilMS int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	untilMS = s.unknown()
	if next, ok := s.wheel.Next(); ok {
		untilMS = min(untilMS, next-widestMS-1)
	}
	for giver, givenMS := range s.givers {
		settled, known := settledMS[giver]
		if !known || settled >= givenMS {
			delete(s.givers, giver)
			continue
		}
		untilMS = min(untilMS, settled)
	}
	return untilMS
}

// explain looks back at members that gave a check away and have ended since: what
// they had not settled of it by then, nobody will.
func (s *scheduler) explain(c *check, settledMS map[string]int64, ended func(giver string) bool) {
	c.gifts = slices.DeleteFunc(c.gifts, func(g gift) bool {
		if !ended(g.giver) {
			return false
		}
		if settled, known := settledMS[g.giver]; known {
			if span := c.target.missed(settled, g.givenMS); span.Count > 0 {
				s.miss(c.target, span, causeTakeover)
			}
		}
		return true
	})
}

// replace looks back at members whose place another process of their name has
// taken, or who ended while they left. What they gave to this one is no longer
// theirs to settle. Nor is what they had themselves, when the other does not know how
// far they had come and begins behind it.
func (s *scheduler) replace(replaced map[string]ended) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.NowMS()
	settledMS := make(map[string]int64, len(replaced))
	for name, ended := range replaced {
		settledMS[name] = ended.settledMS
		delete(s.givers, name)
	}
	gone := func(giver string) bool { _, gone := settledMS[giver]; return gone }
	for _, c := range s.checks {
		s.explain(c, settledMS, gone)
		ended, gone := replaced[s.ring.Owner(c.target.key)]
		if !gone || c.target.inactive {
			continue
		}
		after := max(ended.settledMS, c.decidedMS, leastMS(now))
		if span := c.target.missed(after, min(ended.nextMS, now+joinOverlapMS)); span.Count > 0 {
			s.miss(c.target, span, causeTakeover)
		}
	}
}
