package ticker

import (
	"fmt"
	"testing"
	"time"
)

// Who joins loses no tick, also of checks so frequent that what is taken over is
// too old when its turn comes: the one before had run what was due until then.
func TestJoining(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(120, 1_000))
	s.start("a", schedulerOptions{})
	s.run(20 * time.Second)
	from := s.nowMS() - 5_000
	for _, name := range []string{"b", "c"} {
		s.start(name, schedulerOptions{})
		s.run(listenFor + 7*time.Millisecond + 2*time.Second)
	}
	if due, ran, _ := s.counts(from, s.nowMS()-1_000); due == 0 || ran != due {
		t.Errorf("due %d, run %d, missed %v", due, ran, s.causes)
	}
}

// Who stops runs what is due until then and says so; also what lies in the slot
// that has just begun. What comes after runs elsewhere.
func TestLeaving(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(1_000, 1_000)) // ten in every slot
	s.start("a", schedulerOptions{})
	b := s.start("b", schedulerOptions{})
	s.run(10*time.Second + 7*time.Millisecond)
	from := s.nowMS() - 5_000
	b.stop()
	s.run(5 * time.Second)
	report(t, s.audit(from, s.nowMS()-1_000))
	if due, ran, _ := s.counts(from, s.nowMS()-1_000); due == 0 || ran != due {
		t.Errorf("due %d, run %d, missed %v", due, ran, s.causes)
	}
}

// A process that ends before it has joined, by intention or not, takes nothing
// with it: the next of its name begins where the one before had ended.
func TestEndingBeforeJoining(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*simReplica){"stopped": (*simReplica).stop, "killed": (*simReplica).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(100, 2_000))
			a := s.start("a", schedulerOptions{})
			s.run(10 * time.Second)
			a.kill()
			s.run(3 * time.Second)
			again := s.start("a", schedulerOptions{})
			s.run(listenFor / 2)
			end(again)
			s.run(3 * time.Second)
			s.start("a", schedulerOptions{})
			s.run(10 * time.Second)
			report(t, s.audit(simEpochMS+2_000, s.nowMS()-2_000))
		})
	}
}

// Of three that had a check one after the other the first two die, the first with
// a tick in flight: the second had taken over to explain it, and the third does.
func TestTakenFromTwoThatDie(t *testing.T) {
	t.Parallel()
	for _, pause := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 400 * time.Millisecond} {
		for _, firstDiesFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v apart, in order %v", pause, firstDiesFirst), func(t *testing.T) {
				t.Parallel()
				s := newSim(simTargets(60, 2_000))
				s.lasts = func(c *target, _ int64) time.Duration { return time.Duration(c.timeoutMS) * time.Millisecond }
				first := s.start("prober-1", schedulerOptions{})
				s.run(listenFor + 1225*time.Millisecond)
				second := s.start("prober-2", schedulerOptions{})
				s.run(pause)
				s.start("prober-3", schedulerOptions{})
				s.run(1760*time.Millisecond - pause)
				dies, next := second, first
				if firstDiesFirst {
					dies, next = first, second
				}
				dies.kill()
				s.run(16 * time.Millisecond)
				next.kill()
				s.run(20 * time.Second)
				report(t, s.audit(simEpochMS+1_400, s.nowMS()-3_000))
			})
		}
	}
}

// A process that ends before it has joined had taken nothing from the one that
// lives, though the roster names it as one that was there.
func TestEndingBeforeJoiningOneThatDies(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(60, 10_000))
	s.lasts = func(c *target, _ int64) time.Duration { return time.Duration(c.timeoutMS) * time.Millisecond }
	first := s.start("prober-1", schedulerOptions{})
	s.run(15 * time.Second)
	second := s.start("prober-2", schedulerOptions{})
	s.run(listenFor / 2)
	second.kill()
	s.start("prober-3", schedulerOptions{})
	s.run(listenFor + 500*time.Millisecond)
	first.kill()
	s.run(30 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-12_000))
}

// A prober dies or stops before it has found another dead: who came meanwhile, and
// never heard that one, explains what it had in flight and what was due since.
func TestHeirOfTheDeadGoesToo(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*simReplica){"stopped": (*simReplica).stop, "killed": (*simReplica).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(60, 2_000))
			first, second := s.start("prober-1", schedulerOptions{}), s.start("prober-2", schedulerOptions{})
			s.run(10 * time.Second)
			first.kill()
			s.start("prober-3", schedulerOptions{})
			s.run(listenFor + 2*time.Millisecond)
			end(second)
			s.run(20 * time.Second)
			report(t, s.audit(simEpochMS+2_000, s.nowMS()-3_000))
		})
	}
}

// A prober that is killed and comes back under its name before it was missed: who
// had taken checks from it explains what it had in flight, and neither waits for
// the other to settle.
func TestComingBackAtOnce(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(60, 10_000))
	s.lasts = func(c *target, _ int64) time.Duration { return time.Duration(c.timeoutMS) * time.Millisecond }
	first := s.start("prober-1", schedulerOptions{})
	s.run(15 * time.Second)
	second := s.start("prober-2", schedulerOptions{})
	s.run(listenFor + 500*time.Millisecond)
	first.kill()
	s.run(time.Second)
	s.start("prober-1", schedulerOptions{})
	s.run(30 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-12_000))
	if settled := settledOf(second.status()); settled < s.nowMS()-12_000 {
		t.Errorf("settled until %d ms ago", s.nowMS()-settled)
	}
}

// A prober that is killed and comes back under its name before it was missed, and the
// roster that knew how far it had come was emptied: who heard that explains what was
// due since. With the roster there the next of its name does, and nobody else.
func TestComingBackWithoutTheRoster(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name            string
		emptied, twice  bool
		between, before time.Duration // its death and the start; the emptying and its death
	}{
		{name: "roster there", between: 1500 * time.Millisecond},
		{name: "roster emptied", emptied: true, before: 400 * time.Millisecond, between: 1500 * time.Millisecond},
		{name: "while it is gone", emptied: true, before: -time.Second, between: 1500 * time.Millisecond},
		{name: "at once", emptied: true, before: 400 * time.Millisecond, between: time.Millisecond},
		{name: "killed again", emptied: true, twice: true, before: 400 * time.Millisecond, between: 1500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(70, 2_000))
			inactive := s.targets[60:]
			for _, c := range inactive {
				c.inactive = true
			}
			survivors := []*simReplica{s.start("collector", schedulerOptions{}), s.start("collector-3", schedulerOptions{})}
			second := s.start("collector-2", schedulerOptions{})
			s.run(15 * time.Second)
			explained := func() (n int) {
				for _, r := range survivors {
					n += r.explained
				}
				return n
			}
			before := explained()
			if test.emptied && test.before > 0 {
				clear(s.roster)
			}
			s.run(max(test.before, 0))
			second.kill()
			s.run(max(-test.before, 0))
			if test.emptied {
				clear(s.roster)
			}
			s.run(test.between - max(-test.before, 0))
			second = s.start("collector-2", schedulerOptions{})
			if test.twice { // before it has joined
				s.run(listenFor / 2)
				second.kill()
				second = s.start("collector-2", schedulerOptions{})
			}
			s.run(30 * time.Second)
			s.targets = s.targets[:60]
			report(t, s.audit(simEpochMS+2_000, s.nowMS()-3_000))
			for _, c := range inactive {
				if missed := s.missed[c.id]; missed != nil {
					t.Errorf("missed of a server that is left alone: %v", missed)
				}
			}
			if test.emptied != (explained() > before) {
				t.Errorf("others explain %d ticks", explained()-before)
			}
			for _, r := range append(survivors, second) {
				if settled := settledOf(r.status()); settled < s.nowMS()-3_000 {
					t.Errorf("%s has settled until %d ms ago", r.name, s.nowMS()-settled)
				}
			}
		})
	}
}

// A prober that did not run for a while keeps the others in its ring until they
// had time to be heard. When it dies before it has found one of them gone, who is
// left explains what neither had looked at.
func TestWokenAndDeadBeforeItKnows(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(60, 2_000))
	first, second := s.start("prober-1", schedulerOptions{}), s.start("prober-2", schedulerOptions{})
	s.run(5 * time.Second)
	first.frozenUntil = s.mono + 7*time.Second
	second.kill()
	s.start("prober-3", schedulerOptions{})
	s.run(12*time.Second - time.Millisecond)
	first.kill()
	s.run(20 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-3_000))
}

// At no instant does a prober say that a tick is settled that the stream does not
// have, also not one of the slot that has begun.
func TestSettledIsPublished(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(100, 1_000))
	a := s.start("a", schedulerOptions{})
	s.run(listenFor + time.Second)
	for range 300 {
		s.run(time.Millisecond)
		settled := settledOf(a.status())
		report(t, s.audit(simEpochMS+1_300, settled+1))
	}
}

// A process that stops and is killed before what it had in flight has ended: who took
// its checks explains that, also when the heir is gone by then too, or when another
// of its name has begun.
func TestKilledWhileStopping(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(s *sim, heir *simReplica){
		"heir lives": func(*sim, *simReplica) {},
		"heir killed": func(s *sim, heir *simReplica) {
			s.start("prober-3", schedulerOptions{})
			s.run(listenFor + 20*time.Millisecond)
			heir.kill()
		},
		"heir stopped": func(s *sim, heir *simReplica) {
			s.start("prober-3", schedulerOptions{})
			s.run(listenFor + 20*time.Millisecond)
			heir.stop()
		},
		"restarted": func(s *sim, _ *simReplica) { s.start("prober-1", schedulerOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(60, 10_000))
			s.lasts = func(c *target, _ int64) time.Duration { return time.Duration(c.timeoutMS) * time.Millisecond }
			first, heir := s.start("prober-1", schedulerOptions{}), s.start("prober-2", schedulerOptions{})
			s.run(15 * time.Second)
			first.stop()
			s.run(1500 * time.Millisecond)
			first.kill()
			then(s, heir)
			s.run(30 * time.Second)
			report(t, s.audit(simEpochMS+2_000, s.nowMS()-12_000))
		})
	}
}
