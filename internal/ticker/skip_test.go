package ticker

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// skipper says of some servers that they are to be left alone.
type skipper map[string]bool

func (s skipper) skip(_, server string) (string, bool) { return "critical", s[server] }

func (t *target) due(fromMS, toMS int64) (ticks []int64) {
	for at := range t.schedules.Due(t.serial, t.location, fromMS, toMS) {
		ticks = append(ticks, at)
	}
	return ticks
}

// What is skipped says so and why, and is not run; a server that comes back is
// looked at once for the tick that it skipped last.
func TestSkipAndNudge(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(20, 10_000))
	skipped := skipper{"server-7": true}
	a := s.start("a", schedulerOptions{Skip: skipped.skip})
	s.run(25 * time.Second)
	c := s.targets[6]
	if n := len(s.ran[c.id]); n != 0 {
		t.Fatalf("a server that is to be left alone was looked at %d times", n)
	}
	if s.causes["missed_critical"] < 2 {
		t.Fatalf("missed: %v", s.causes)
	}
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))

	ticks := c.due(simEpochMS, s.nowMS())
	last := ticks[len(ticks)-1]
	a.sched.nudge(c.serverName()) // still to be left alone
	s.run(time.Second)
	if n := len(s.ran[c.id]); n != 0 {
		t.Fatalf("looked at %d times while it is to be left alone", n)
	}
	delete(skipped, "server-7")
	settled := a.ledger.until(a.nowMS())
	back := s.nowMS()
	a.sched.nudge(c.serverName())
	a.sched.nudge(c.serverName())
	if now := a.ledger.until(a.nowMS()); now < settled {
		t.Errorf("what was settled until %d is settled until %d", settled, now)
	}
	s.run(50 * time.Millisecond)
	if run := s.ran[c.id][last]; run.count != 1 || run.startMS != back || len(s.ran[c.id]) != 1 {
		t.Errorf("tick %d was run as %+v, back at %d", last, run, back)
	}
	if until := settledOf(a.status()); until < s.nowMS()-200 {
		t.Errorf("settled until %d ms ago", s.nowMS()-until)
	}
	a.sched.nudge(c.serverName()) // nothing is left to make up for
	s.run(30 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
	if due, ran := c.due(back, s.nowMS()-100), len(s.ran[c.id])-1; ran != len(due) {
		t.Errorf("%d ticks of %d were run afterwards", ran, len(due))
	}
	for at, run := range s.ran[c.id] {
		if run.count != 1 {
			t.Errorf("tick %d was run %d times", at, run.count)
		}
	}
}

// What was skipped is made up for only while it is the last that was due: not in
// the slot in which the next is, and not after the clock has gone back behind one
// that was run.
func TestWhatIsTooOldIsNotMadeUpFor(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(1, 10_000))
	c := s.targets[0]
	skipped := skipper{c.server: true}
	a := s.start("a", schedulerOptions{Skip: skipped.skip})
	s.run(15 * time.Second)
	ticks := c.due(simEpochMS, s.nowMS()+10_000)
	last, next := ticks[len(ticks)-2], ticks[len(ticks)-1]
	delete(skipped, c.server)
	s.run(time.Duration(next-s.nowMS()) * time.Millisecond) // it is due, and not released
	a.sched.nudge(c.serverName())
	s.run(time.Second)
	if s.ran[c.id][last].count != 0 || s.ran[c.id][next].count != 1 {
		t.Errorf("run were %v, of %d and %d", s.ran[c.id], last, next)
	}
	before := a.nowMS()
	a.sched.correct(func() (tickStep, bool) {
		a.offset -= 5 * time.Second
		return tickStep{FromMS: before, ToMS: before - 5_000}, true
	})
	a.sched.nudge(c.serverName())
	s.run(3 * time.Second)
	if s.ran[c.id][last].count != 0 {
		t.Error("a tick was run that is before one that was")
	}
	report(t, s.faults)
}

// A whole fleet that comes back is looked at no faster than steadily, and a check
// that is removed meanwhile leaves nothing behind.
func TestNudgesArePaced(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(600, 30_000)) // 20 a second
	skipped := skipper{}
	for _, c := range s.targets {
		skipped[c.server] = true
	}
	a := s.start("a", schedulerOptions{Skip: skipped.skip})
	s.run(45 * time.Second)
	clear(skipped)
	for _, c := range s.targets {
		a.sched.nudge(c.serverName())
	}
	from := s.nowMS()
	s.run(5 * time.Second)
	perWindow := map[int64]int{}
	madeUp := 0
	for _, runs := range s.ran {
		for at, run := range runs {
			perWindow[(run.startMS-from)/500]++
			if at < from {
				madeUp++
			}
		}
	}
	for w, n := range perWindow {
		if n > 2*20/2+4 {
			t.Errorf("%d in half a second after %d ms; the steady rate is 20 a second", n, w*500)
		}
	}
	if madeUp < 80 || madeUp > 110 {
		t.Errorf("%d ticks made up for in 5 s", madeUp)
	}
	a.sched.retain(map[string]struct{}{})
	s.run(time.Second)
	if n := a.sched.wheel.Len(); n != 0 || len(a.sched.servers) != 0 {
		t.Errorf("%d timers and %d servers are left of no checks", n, len(a.sched.servers))
	}
}

// Servers go and come back, are nudged at any time and by any replica, while
// replicas come and go: every due tick is run or explained, none of a replica is
// run twice, and none that is not behind all that it ran.
func TestSkippingLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(nil)
		for i := range rapid.IntRange(1, 12).Draw(t, "checks") {
			c := simTarget(i+1, rapid.SampledFrom([]int64{2_000, 5_000, 10_000}).Draw(t, "interval"), 1_500, simEpochMS)
			c.server = fmt.Sprintf("server-%d", i%4)
			s.targets = append(s.targets, c)
		}
		slow := rapid.IntRange(1, 5).Draw(t, "slow")
		s.lasts = func(c *target, atMS int64) time.Duration {
			if int(c.serial+atMS/1000)%slow == 0 {
				return time.Duration(c.timeoutMS) * time.Millisecond
			}
			return 20 * time.Millisecond
		}
		skipped := skipper{}
		started := 0
		start := func() {
			started++
			s.start(fmt.Sprintf("collector-%d", started), schedulerOptions{Skip: skipped.skip})
		}
		start()
		s.run(listenFor + 50*time.Millisecond)
		from := s.nowMS() + 200
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			s.run(time.Duration(rapid.IntRange(0, 4_000).Draw(t, "pause")) * time.Millisecond)
			server := fmt.Sprintf("server-%d", rapid.IntRange(0, 3).Draw(t, "server"))
			switch rapid.SampledFrom([]string{"down", "up", "nudge", "start", "stop", "kill"}).Draw(t, "event") {
			case "down":
				skipped[server] = true
			case "up":
				delete(skipped, server)
				fallthrough
			case "nudge":
				for _, r := range s.replicas {
					r.sched.nudge(serverName{"default", server})
				}
			case "start":
				if len(s.replicas) < 3 {
					start()
				}
			case "stop":
				if r := s.replicas[0]; len(s.replicas) > 1 && !r.stopping && r.joined {
					r.stop()
				}
			case "kill":
				if r := s.replicas[0]; len(s.replicas) > 1 && !r.stopping && s.replicas[1].joined && !s.replicas[1].stopping {
					r.kill()
				}
			}
			if len(s.replicas) == 0 {
				start()
			}
		}
		s.run(30 * time.Second)
		for _, fault := range s.audit(from, s.nowMS()-12_000) {
			t.Error(fault)
		}
	})
}
