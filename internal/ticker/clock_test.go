package ticker

import (
	"fmt"
	"testing"
	"time"
)

// set has the server's clock, and a moment later every replica's, set.
func (s *sim) set(by time.Duration) {
	s.doubtful.fromMS = s.replicas[0].sched.past.soundMS
	s.server += by
	s.run(7 * time.Second) // until it is measured
	for _, r := range s.replicas {
		from := r.nowMS()
		s.doubtful.untilMS = from
		_, _ = r.sched.correct(func() (tickStep, bool) {
			r.offset += by
			return tickStep{FromMS: from, ToMS: from + by.Milliseconds()}, true
		})
		if by < 0 {
			clear(r.lastRun)
		}
	}
}

// measure has every replica find that its clock is right.
func (s *sim) measure() {
	for _, r := range s.replicas {
		r.sched.correct(func() (tickStep, bool) { return tickStep{}, false })
	}
}

// A clock that was wrong for a moment, by years even, and is right again: what was jumped over and comes back is looked
// at, what was looked at is not looked at again.
func TestClockIsWrongForAMoment(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	for _, by := range []time.Duration{time.Hour, 3 * year, -3 * year, -time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(100, 5_000))
			s.start("a", schedulerOptions{})
			s.run(20 * time.Second)
			s.measure()
			s.set(by)
			s.run(10 * time.Second)
			s.measure()
			s.set(-by)
			right := s.nowMS()
			s.run(60 * time.Second)
			report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
			due, ran, _ := s.counts(right+100, s.nowMS()-100)
			if due == 0 || ran != due {
				t.Errorf("since the clock is right, %d ticks were due and %d were run", due, ran)
			}
			started := map[int64]int{}
			for _, runs := range s.ran {
				for _, run := range runs {
					started[run.startMS/1000]++
				}
			}
			for second, n := range started {
				if n > 2*20+5 {
					t.Errorf("%d probes in the second %d; the steady rate is 20", n, second)
				}
			}
		})
	}
}

// What was published in the moments before a process has noticed that the server's clock went back, the stream takes for
// things to come, and refuses: it is looked at once more when its time comes.
func TestRefusedForTheFuture(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{-30 * time.Second, -90 * time.Second, -3 * time.Minute} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(40, 2_000))
			s.start("a", schedulerOptions{})
			s.run(20 * time.Second)
			s.measure()
			s.run(3 * time.Second)
			s.set(by)
			if refused := s.refused > 0; refused != (-by.Milliseconds() > mostEarlyMS) {
				t.Fatalf("%d refused", s.refused)
			}
			s.run(-by + 30*time.Second)
			report(t, s.audit(simEpochMS+2_000, simEpochMS+(s.mono+s.server).Milliseconds()-100))
		})
	}
}

// What lies in the slot that has just begun, and was not released yet, is not lost when the clock is set.
func TestClockStepsWithinASlot(t *testing.T) {
	t.Parallel()
	for _, checks := range []int{100, 1_000} { // wide slots and narrow ones
		for _, by := range []time.Duration{-time.Second, time.Minute, 3 * 365 * 24 * time.Hour} {
			t.Run(fmt.Sprint(checks, " ", by), func(t *testing.T) {
				t.Parallel()
				s := newSim(simTargets(checks, 1_000))
				s.start("a", schedulerOptions{})
				s.run(10*time.Second + 7*time.Millisecond)
				lived := s.replicas[0].nowMS()
				s.measure()
				s.set(by)
				s.run(5 * time.Second)
				until := s.replicas[0].nowMS() - 100
				if by > time.Hour {
					until = lived - widestMS // what was released then, and what was jumped over, the stream would refuse
				}
				report(t, s.audit(simEpochMS+2_000, until))
			})
		}
	}
}
