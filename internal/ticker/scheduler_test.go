package ticker

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/picketd/picket/internal/tick"
)

func simTargets(n int, intervalMS int64) []*target {
	targets := make([]*target, n)
	for i := range targets {
		targets[i] = simTarget(i+1, intervalMS, intervalMS*9/10, 0)
	}
	return targets
}

func report(t *testing.T, faults []string) {
	t.Helper()
	for i, fault := range faults {
		if i == 10 {
			t.Fatalf("and %d more", len(faults)-i)
		}
		t.Error(fault)
	}
}

func TestEveryTickIsRunOnce(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(200, 10_000))
	s.start("a", schedulerOptions{})
	s.run(listenFor + 10*time.Millisecond)
	from := s.nowMS()
	s.run(60 * time.Second)
	to := s.nowMS() - 100
	report(t, s.audit(from, to))
	due, ran, doubled := s.counts(from, to)
	if due == 0 || ran != due || doubled != 0 {
		t.Errorf("due %d, run %d, doubled %d", due, ran, doubled)
	}
	for id, runs := range s.ran {
		for at, run := range runs {
			if late := run.startMS - at; late < 0 || late > widestMS && at >= from {
				t.Errorf("tick %d of %s started %d ms late", at, id, late)
			}
		}
	}
}

// The less there is to do, the longer the first of those that are released together waits for the others; and each check
// waits for the same time in every period.
func TestSlots(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ perSecond, widthMS int64 }{{40, 50}, {200, 50}, {500, 20}, {1000, 10}} {
		t.Run(fmt.Sprint(c.perSecond), func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(int(c.perSecond), 1000))
			s.start("a", schedulerOptions{})
			s.run(listenFor + 2*time.Second) // the first were armed when the others were not known
			from := s.nowMS()
			const seconds = 10
			s.run(seconds * time.Second)
			woken := map[int64]bool{}
			for id, runs := range s.ran {
				lates := map[int64]bool{}
				for at, run := range runs {
					if at < from {
						continue
					}
					late := run.startMS - at
					woken[run.startMS] = true
					if lates[late] = true; late < 0 || late >= c.widthMS {
						t.Errorf("tick %d of %s started %d ms late", at, id, late)
					}
				}
				if len(lates) > 1 {
					t.Errorf("%s was late by %v", id, slices.Sorted(maps.Keys(lates)))
				}
			}
			if most := seconds*1000/c.widthMS + 1; int64(len(woken)) > most {
				t.Errorf("woken %d times for ticks in %d s, more than %d", len(woken), seconds, most)
			}
		})
	}
}

// All of a fleet is looked at within one interval of the start.
func TestAllAreProbedWithinOneInterval(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(500, 5_000))
	s.start("a", schedulerOptions{})
	s.run(listenFor + 5*time.Second + 100*time.Millisecond)
	if len(s.ran) != 500 {
		t.Errorf("%d of 500 checks were probed within one interval", len(s.ran))
	}
}

func TestReplicasShare(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(900, 10_000))
	a := s.start("a", schedulerOptions{})
	s.run(20 * time.Second)
	b, c := s.start("b", schedulerOptions{}), s.start("c", schedulerOptions{})
	s.run(listenFor + 2*time.Second)
	for _, r := range []*simReplica{a, b, c} {
		if owned := r.sched.figures().Owned; owned < 240 || owned > 360 {
			t.Errorf("%s owns %d of 900", r.name, owned)
		}
	}
	from := s.nowMS()
	s.run(30 * time.Second)
	_, ran, doubled := s.counts(from, s.nowMS()-100)
	if doubled != 0 || ran == 0 {
		t.Errorf("%d of %d ticks were run by more than one", doubled, ran)
	}
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
}

// A prober dies: its checks run elsewhere within five seconds and a slot, and no
// tick beyond is late.
func TestTakeover(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(600, 10_000))
	s.start("a", schedulerOptions{})
	b := s.start("b", schedulerOptions{})
	s.run(20 * time.Second)
	died := s.nowMS()
	b.kill()
	s.run(30 * time.Second)
	to := s.nowMS() - 100
	report(t, s.audit(simEpochMS+2_000, to))
	for _, c := range s.targets {
		for at := range c.schedules.Due(c.serial, c.location, died+5_000+widestMS, to) {
			if run := s.ran[c.id][at]; run.count == 0 || run.startMS-at > widestMS {
				t.Errorf("tick %d ms after the death of %s: started %d ms late", at-died, c.id, run.startMS-at)
			}
		}
	}
	// Half of a 10 s interval has passed when the first are taken over: they are
	// run or missed by that rule, and the rest of the fleet is not held up.
	due, ran, _ := s.counts(died, died+5_000)
	if missed := due - ran; missed > due/4 {
		t.Errorf("%d of %d ticks during the takeover are missed", missed, due)
	}
}

// What is taken over comes at no more than twice the steady rate.
func TestTakeoverIsPaced(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(1_200, 30_000)) // 40 a second
	s.start("a", schedulerOptions{})
	b := s.start("b", schedulerOptions{})
	s.run(40 * time.Second)
	b.kill()
	from := s.nowMS()
	s.run(30 * time.Second)
	const window = 500
	perWindow := map[int64]int{}
	for _, runs := range s.ran {
		for _, run := range runs {
			if run.startMS >= from {
				perWindow[(run.startMS-from)/window]++
			}
		}
	}
	for w, n := range perWindow {
		if n > 2*40*window/1000+4 {
			t.Errorf("%d probes in half a second, %v after the death; the steady rate is 40 a second",
				n, time.Duration(w*window)*time.Millisecond)
		}
	}
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
}

func TestAGoodbyeActsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(600, 10_000))
	s.start("a", schedulerOptions{})
	b := s.start("b", schedulerOptions{})
	s.run(20 * time.Second)
	from := s.nowMS()
	b.stop()
	s.run(10 * time.Second)
	due, ran, doubled := s.counts(from, s.nowMS()-100)
	if due != ran || doubled != 0 {
		t.Errorf("due %d, run %d, doubled %d", due, ran, doubled)
	}
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
}

// Hanging targets never delay healthy ones.
func TestHangingTargetsDelayNobody(t *testing.T) {
	t.Parallel()
	targets := simTargets(1_000, 10_000)
	s := newSim(targets)
	s.lasts = func(c *target, _ int64) time.Duration {
		if c.serial%10 == 0 {
			return time.Duration(c.timeoutMS) * time.Millisecond
		}
		return 5 * time.Millisecond
	}
	s.start("a", schedulerOptions{})
	s.run(2 * time.Second)
	from := s.nowMS()
	s.run(40 * time.Second)
	to := s.nowMS() - 10_000
	due, ran, _ := s.counts(from, to)
	if ran != due {
		t.Errorf("%d of %d ticks were run", ran, due)
	}
	for id, runs := range s.ran {
		for at, run := range runs {
			if at >= from && run.startMS-at > widestMS {
				t.Errorf("tick %d of %s started %d ms late", at, id, run.startMS-at)
			}
		}
	}
}

// More is due than can run: higher priority first, and what could not run is
// reported as missed.
func TestOverload(t *testing.T) {
	t.Parallel()
	targets := simTargets(400, 5_000)
	for i, c := range targets {
		if i%10 == 0 {
			c.priority = 5
		}
	}
	s := newSim(targets)
	s.lasts = func(*target, int64) time.Duration { return 4 * time.Second }
	r := s.start("a", schedulerOptions{MaxInFlight: 100})
	s.run(40 * time.Second)
	if r.mostAtOnce > 100 {
		t.Errorf("%d probes in flight, the bound is 100", r.mostAtOnce)
	}
	from, to := int64(simEpochMS+10_000), s.nowMS()-10_000
	report(t, s.audit(from, to))
	ran, least, most := map[bool]int{}, 1<<30, 0
	for _, c := range targets {
		n := 0
		for at := range c.schedules.Due(c.serial, c.location, from, to) {
			if s.ran[c.id][at].count > 0 {
				n++
			}
		}
		if c.priority > 0 {
			ran[true] += n
			continue
		}
		ran[false] += n
		least, most = min(least, n), max(most, n)
	}
	if want := 40 * 4; ran[true] < want*9/10 {
		t.Errorf("%d ticks of high priority were run, want all %d", ran[true], want)
	}
	if s.causes[causeOverload] == 0 || ran[false] == 0 {
		t.Errorf("missed: %v, run at low priority: %d", s.causes, ran[false])
	}
	if most-least > 1 {
		t.Errorf("of equal checks one was looked at %d times and another %d times", least, most)
	}
}

func TestHostBatches(t *testing.T) {
	t.Parallel()
	targets := simTargets(100, 10_000)
	for i, c := range targets {
		if i < 60 {
			c.hostName = "gateway"
		}
	}
	s := newSim(targets)
	inFlight, most := 0, 0
	s.lasts = func(c *target, _ int64) time.Duration {
		if c.hostName == "" {
			return 5 * time.Millisecond
		}
		return 3 * time.Second
	}
	r := s.start("a", schedulerOptions{HostBatchSize: 10, HostBatchDelay: 500 * time.Millisecond})
	for range 40_000 {
		s.run(time.Millisecond)
		inFlight = 0
		for _, j := range r.jobs {
			if j.job.target.hostName != "" {
				inFlight++
			}
		}
		most = max(most, inFlight)
	}
	if f := r.sched.figures(); f.Waiting == 0 || f.Waiting > 60 {
		t.Errorf("%d checks wait for their host", f.Waiting)
	}
	a := r.sched
	a.retain(map[string]struct{}{})
	if f := a.figures(); f.Waiting != 0 {
		t.Errorf("%d checks wait when there are none", f.Waiting)
	}
	s.run(10 * time.Second)
	if len(a.hosts) != 0 {
		t.Errorf("%d hosts are remembered without a check", len(a.hosts))
	}
	if most != 10 {
		t.Errorf("at most %d probes in flight to one host, want 10", most)
	}
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-12_000))
	for _, c := range targets[60:] {
		for at, run := range s.ran[c.id] {
			if late := run.startMS - at; late > widestMS && at > simEpochMS+2_000 {
				t.Errorf("a check on another host was started %d ms late", late)
			}
		}
	}
	// 10 places, each 3 s and half a second of pause: at most 2.86 a second.
	started := 0
	for _, c := range targets[:60] {
		started += len(s.ran[c.id])
	}
	if started > 120 || started < 90 {
		t.Errorf("%d probes to the host in 40 s", started)
	}
}

// A process that did not run for a while: what is too old is missed and says so,
// and there is no burst.
func TestSuspension(t *testing.T) {
	t.Parallel()
	s := newSim(simTargets(300, 10_000)) // 30 a second
	a := s.start("a", schedulerOptions{})
	s.run(20 * time.Second)
	a.frozenUntil = s.mono + 30*time.Second
	s.run(30 * time.Second)
	woke := s.nowMS()
	s.run(20 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
	if s.causes[causeSuspended] < 600 {
		t.Errorf("missed: %v", s.causes)
	}
	started := 0
	for _, runs := range s.ran {
		for _, run := range runs {
			if run.startMS >= woke && run.startMS < woke+1000 {
				started++
			}
		}
	}
	if started > 2*30+10 {
		t.Errorf("%d probes in the first second; the steady rate is 30 a second", started)
	}
}

func TestClockSteps(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{20 * time.Minute, 7 * time.Second, -7 * time.Second, -18 * time.Second} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			s := newSim(simTargets(300, 10_000))
			a := s.start("a", schedulerOptions{})
			s.run(20 * time.Second)
			before := a.nowMS()
			s.server = step
			_, stepped := a.sched.correct(func() (tickStep, bool) {
				a.offset += step
				return tickStep{FromMS: before, ToMS: before + step.Milliseconds()}, true
			})
			if !stepped {
				t.Fatal("not stepped")
			}
			s.run(40 * time.Second)
			report(t, s.audit(simEpochMS+2_000, a.nowMS()-100))
			for id, runs := range s.ran {
				for at, run := range runs {
					if run.count > 1 {
						t.Errorf("tick %d of %s was run %d times", at, id, run.count)
					}
				}
			}
			if jumped := s.causes[causeClock]; step > 0 != (jumped > 0) {
				t.Errorf("missed: %v", s.causes)
			}
		})
	}
}

// An edited check keeps its history: ticks of the old and of the new version are
// each run once, and an older revision changes nothing.
func TestRedefinition(t *testing.T) {
	t.Parallel()
	targets := simTargets(50, 10_000)
	s := newSim(targets)
	a := s.start("a", schedulerOptions{})
	s.run(15 * time.Second)
	for i, old := range targets {
		c := *old
		c.revision = 2
		c.schedules = append(c.schedules[:1:1], tickSchedule{Revision: 2, IntervalMS: 5_000, EffectiveAtMS: s.nowMS() + 10_000})
		if i%2 == 0 {
			c.schedules[1].IntervalMS = 0
		}
		s.targets[i] = &c
		a.sched.put(&c)
		a.sched.put(old)
	}
	s.run(40 * time.Second)
	report(t, s.audit(simEpochMS+2_000, s.nowMS()-100))
	due, ran, doubled := s.counts(simEpochMS+2_000, s.nowMS()-100)
	if due != ran || doubled > 0 {
		t.Errorf("due %d, run %d, doubled %d", due, ran, doubled)
	}
	inactive := *s.targets[1]
	inactive.revision, inactive.inactive = 3, true
	a.sched.put(&inactive)
	s.run(time.Second)
	before := len(s.ran[inactive.id])
	s.run(20 * time.Second)
	if after := len(s.ran[inactive.id]); after != before {
		t.Errorf("an inactive server was probed %d times", after-before)
	}
	a.sched.retain(map[string]struct{}{})
	if f := a.sched.figures(); f.Known != 0 || f.Owned != 0 || a.sched.rate != 0 || a.sched.wheel.Len() != 0 {
		t.Errorf("after all checks are removed: %+v, rate %v, %d timers", f, a.sched.rate, a.sched.wheel.Len())
	}
}

// Replicas come, go, die and freeze, the bus goes and comes, and so does what the
// catalog says: every due tick is run or reported missed, and none of them runs a tick that is not behind all
// that it ran.
func TestNothingIsLostSilently(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "checks")
		targets := make([]*target, n)
		for i := range targets {
			interval := rapid.SampledFrom([]int64{2_000, 5_000, 10_000, 15_000}).Draw(t, "interval")
			targets[i] = simTarget(i+1, interval, interval*9/10, simEpochMS)
		}
		s := newSim(targets)
		slow := rapid.IntRange(2, 9).Draw(t, "slow")
		s.lasts = func(c *target, atMS int64) time.Duration {
			if int(c.serial+atMS/1000)%slow == 0 {
				return time.Duration(c.timeoutMS) * time.Millisecond
			}
			return 20 * time.Millisecond
		}
		started := 0
		startAs := func(name string) {
			r := s.start(name, schedulerOptions{})
			r.offset = time.Duration(rapid.IntRange(-100, 100).Draw(t, "offset")) * time.Millisecond
		}
		start := func() {
			started++
			startAs(fmt.Sprintf("prober-%d", started))
		}
		start()
		s.run(listenFor + 50*time.Millisecond)
		from := s.nowMS() + 200
		running := func() (out []*simReplica) {
			for _, r := range s.replicas {
				if !r.stopping {
					out = append(out, r)
				}
			}
			return out
		}
		for range rapid.IntRange(1, 8).Draw(t, "events") {
			s.run(time.Duration(rapid.IntRange(0, 12_000).Draw(t, "pause")) * time.Millisecond)
			alive := running()
			switch event := rapid.SampledFrom([]string{"start", "kill", "stop", "stop and kill", "freeze", "bus", "restart", "catalog", "roster"}).Draw(t, "event"); {
			case event == "start" && len(alive) < 4:
				start()
			case event == "bus":
				s.setDown(!s.down)
			case event == "catalog" && len(s.unlisted) > 0:
				s.list(targets...)
			case event == "catalog" && rapid.Bool().Draw(t, "all"): // what happens then, happens without
				s.unlist(targets...)
			case event == "catalog": // some, for a while, and then nobody dies before all have said what they found
				s.unlist(targets[rapid.IntRange(0, n-1).Draw(t, "but"):]...)
				s.run(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "for")) * time.Millisecond)
				s.list(targets...)
				s.run(2 * enrollEvery)
			case len(alive) == 0 || event == "restart" && s.down:
			case event == "restart": // all at once, as a machine does; under the same name or another
				for _, r := range slices.Clone(s.replicas) {
					r.kill()
				}
				s.run(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "for")) * time.Millisecond)
				if rapid.Bool().Draw(t, "same name") {
					started--
				}
				start()
			case event == "freeze":
				r := alive[rapid.IntRange(0, len(alive)-1).Draw(t, "who")]
				r.frozenUntil = s.mono + time.Duration(rapid.IntRange(500, 20_000).Draw(t, "for"))*time.Millisecond
			case len(alive) == 1: // somebody must live to tell
			case event == "roster" && !s.down: // emptied when all are at work and nobody is missing; one is killed and back before it is missed
				for slices.ContainsFunc(running(), func(r *simReplica) bool { return !r.joined || r.frozenUntil > s.mono }) {
					s.run(time.Second)
				}
				s.run(tick.AliveFor + 2*time.Second)
				clear(s.roster)
				s.run(time.Duration(rapid.IntRange(0, 2_000).Draw(t, "after")) * time.Millisecond)
				r := alive[rapid.IntRange(0, len(alive)-1).Draw(t, "who")]
				r.kill()
				s.run(time.Duration(rapid.IntRange(0, 2_000).Draw(t, "for")) * time.Millisecond)
				startAs(r.name)
				s.run(listenFor + 2*time.Second)
			case event == "kill":
				alive[rapid.IntRange(0, len(alive)-1).Draw(t, "who")].kill()
			case event == "stop":
				alive[rapid.IntRange(0, len(alive)-1).Draw(t, "who")].stop()
			case event == "stop and kill": // while it waits for what is in flight
				r := alive[rapid.IntRange(0, len(alive)-1).Draw(t, "who")]
				r.stop()
				s.run(time.Duration(rapid.IntRange(0, 12_000).Draw(t, "for")) * time.Millisecond)
				r.kill()
			}
		}
		if s.down {
			s.setDown(false)
		}
		s.list(targets...)
		s.run(60 * time.Second)
		// A probe that hangs makes the next tick wait, which may hang in turn.
		for _, fault := range s.audit(from, s.nowMS()-30_000) {
			t.Error(fault)
		}
	})
}
