package ticker

import (
	"slices"
	"testing"
	"time"
)

// What is due while a check is missing from the catalog, which somebody has emptied, is explained when it comes back:
// whoever lived, died or came meanwhile, and whether the check comes back at once or in pieces.
func TestEmptiedCatalog(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(s *sim, first *simReplica){
		"nothing": func(s *sim, _ *simReplica) { s.run(8 * time.Second) },
		"killed before": func(s *sim, first *simReplica) {
			s.list(s.targets...)
			first.kill()
			s.run(3 * time.Second)
			s.unlist(s.targets...)
			s.start("prober-1", schedulerOptions{})
			s.run(listenFor + time.Second)
		},
		"killed, and another of its name": func(s *sim, first *simReplica) {
			s.run(2 * time.Second)
			first.kill()
			s.run(3 * time.Second)
			s.start("prober-1", schedulerOptions{})
			s.run(listenFor + time.Second)
		},
		"killed, and another": func(s *sim, first *simReplica) {
			first.kill()
			s.run(3 * time.Second)
			s.start("prober-2", schedulerOptions{})
			s.run(listenFor + time.Second)
		},
		"killed, and full again before another joins": func(s *sim, first *simReplica) {
			s.run(6 * time.Second)
			first.kill()
			s.run(time.Second)
			s.list(s.targets...)
			s.start("prober-2", schedulerOptions{})
		},
		"stopped, and full again before another joins": func(s *sim, first *simReplica) {
			s.run(6 * time.Second)
			first.stop()
			s.run(time.Second)
			s.list(s.targets...)
			s.start("prober-2", schedulerOptions{})
		},
		"another joins": func(s *sim, _ *simReplica) {
			s.run(4 * time.Second)
			s.start("prober-2", schedulerOptions{})
			s.run(listenFor + 4*time.Second)
		},
		"one of two dies": func(s *sim, first *simReplica) {
			s.list(s.targets...)
			s.start("prober-2", schedulerOptions{})
			s.run(listenFor + 4*time.Second)
			s.unlist(s.targets...)
			s.run(4 * time.Second)
			first.kill()
			s.run(8 * time.Second)
		},
		"after one that was killed while it stopped": func(s *sim, _ *simReplica) {
			s.list(s.targets...)
			second := s.start("prober-2", schedulerOptions{})
			s.run(listenFor + 4*time.Second)
			second.stop()
			second.kill()
			s.run(time.Millisecond)
			s.unlist(s.targets...)
			s.run(8 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(60, 2_000))
			s.lasts = func(c *target, _ int64) time.Duration { return time.Duration(c.timeoutMS) * time.Millisecond }
			first := s.start("prober-1", schedulerOptions{})
			s.run(10 * time.Second)
			s.unlist(s.targets...)
			happens(s, first)
			for part := range slices.Chunk(s.targets, 20) {
				s.list(part...)
				s.run(500 * time.Millisecond)
			}
			s.run(10 * time.Second)
			report(t, s.audit(simEpochMS+2_000, s.nowMS()-3_000))
		})
	}
}

// A check that goes and comes back under a process that lives goes on where it was: nothing is run twice, and what was run
// is not called missed, however long it was gone.
func TestCheckThatComesBack(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(60, 2_000))
	s.start("prober-1", schedulerOptions{})
	s.run(10 * time.Second)
	gone := s.nowMS()
	s.unlist(s.targets...)
	s.run(10 * time.Minute)
	s.list(s.targets...)
	back := s.nowMS()
	s.run(10 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-3_000))
	if due, ran, doubled := s.counts(simEpochMS+2_000, s.nowMS()-3_000); doubled != 0 || ran == 0 || ran == due {
		t.Errorf("due %d, run %d, doubled %d", due, ran, doubled)
	}
	for id, spans := range s.missed {
		for _, span := range spans {
			if span.FirstMS < gone-widestMS || span.LastMS > back {
				t.Errorf("ticks of %s missed from %d ms before it went until %d ms after it came", id, gone-span.FirstMS, span.LastMS-back)
			}
		}
	}
}

// A check that is new has nothing to explain before it began, also when the catalog says so late.
func TestNewCheckExplainsNothing(t *testing.T) {
	t.Parallel()
	s := newSim(nil)
	s.start("prober-1", schedulerOptions{})
	s.run(listenFor + 10*time.Second)
	began := s.nowMS() - 5_000
	s.targets = []*target{simTarget(1, 2_000, 1_800, began)}
	s.unlist(s.targets...)
	s.list(s.targets...)
	s.run(10 * time.Second)
	report(t, s.audit(began, s.nowMS()-100))
	for _, span := range s.missed[s.targets[0].id] {
		if span.FirstMS < began {
			t.Errorf("a tick %d ms before the check began is called missed", began-span.FirstMS)
		}
	}
}
