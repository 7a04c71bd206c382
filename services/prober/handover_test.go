package prober

import (
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
