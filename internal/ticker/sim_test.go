package ticker

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	simLocation = "local"
	simEpochMS  = 1_700_000_000_000
)

// sim is a location in simulated time: replicas made of the real scheduler,
// membership, ledger and loop, and a bus between them that can be taken away.
// Probes, publishing and the passing of time are simulated.
type sim struct {
	mono     time.Duration
	targets  []*target
	unlisted map[string]bool // targets that are missing from the catalog, by id
	replicas []*simReplica
	roster   map[string]*picketv1.WorkerStatus
	down     bool          // the bus
	server   time.Duration // of the stream's clock to the true one
	refused  int           // for their time
	doubtful span          // ticks that may be looked at twice: nobody knows whether they were refused

	// What the stream has: real outcomes and markers, by check and tick.
	ran    map[string]map[int64]simRun
	missed map[string][]tick.Span
	causes map[string]int
	// lasts says how long a probe takes.
	lasts  func(t *target, atMS int64) time.Duration
	faults []string
}

type simRun struct {
	by      string
	startMS int64
	count   int
}

// simReplica is one process.
type simReplica struct {
	sim    *sim
	name   string
	sched  *scheduler
	reps   *replicas
	ledger *ledger
	engine *engine

	startedMS            int64
	joined               bool
	joinAt, wakeAt       time.Duration
	frozenUntil          time.Duration
	stopping             bool
	goodbyeAt            time.Duration // when it is said again
	jobs                 []simJob
	unsent               []func() // results that wait for the bus
	sent                 int64
	inbox                []*picketv1.WorkerStatus // heard while frozen
	former               []*picketv1.WorkerStatus // the roster before this process was in it
	enrolled             bool
	leftMS               int64
	lastRun              map[string]int64
	hasRun               map[string]map[int64]bool
	offset               time.Duration // of its clock to the true one
	inFlight, mostAtOnce int
	enrolledAt, lookAt   time.Duration // when it wrote itself into the roster, and looks next whether it is still there
	explained            int           // ticks that it reported missed
	promised             map[int64]int // ticks that are to be settled, by instant
}

type simJob struct {
	job    job
	doneAt time.Duration
}

func newSim(targets []*target) *sim {
	return &sim{
		targets: targets, unlisted: map[string]bool{}, roster: map[string]*picketv1.WorkerStatus{},
		ran: map[string]map[int64]simRun{}, missed: map[string][]tick.Span{}, causes: map[string]int{},
		lasts: func(*target, int64) time.Duration { return 5 * time.Millisecond },
	}
}

func simTarget(i int, intervalMS, timeoutMS, effectiveMS int64) *target {
	id := fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i)
	return &target{
		org: "default", server: fmt.Sprintf("server-%d", i), name: "health", kind: "http", id: id, location: simLocation,
		key: tick.KeyOf(id), serial: int64(i), revision: 1, timeoutMS: timeoutMS,
		schedules: tick.Schedules{{Revision: 1, IntervalMS: intervalMS, EffectiveAtMS: effectiveMS}},
	}
}

// unlist takes checks out of the catalog, and list puts them back, as they were.
func (s *sim) unlist(targets ...*target) {
	for _, t := range targets {
		s.unlisted[t.id] = true
		for _, r := range s.replicas {
			r.sched.remove(t.id)
		}
	}
}

func (s *sim) list(targets ...*target) {
	for _, t := range targets {
		if !s.unlisted[t.id] {
			continue
		}
		delete(s.unlisted, t.id)
		for _, r := range s.replicas {
			r.sched.put(t)
		}
	}
}

func (s *sim) nowMS() int64 { return simEpochMS + s.mono.Milliseconds() }

func (s *sim) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf("at %v: ", s.mono)+fmt.Sprintf(format, args...))
}

// start begins a process; it joins after it has listened.
func (s *sim) start(name string, opts schedulerOptions) *simReplica {
	r := &simReplica{
		sim: s, name: name, reps: newReplicas(name), ledger: newLedger(),
		startedMS: s.nowMS(), joinAt: s.mono + listenFor, lastRun: map[string]int64{}, hasRun: map[string]map[int64]bool{},
		promised: map[int64]int{},
	}
	opts.Self, opts.NowMS, opts.Starter = name, r.nowMS, r
	opts.MaxInFlight = cmp.Or(opts.MaxInFlight, 1000)
	opts.Due, opts.Miss, opts.Skipped = r.promise, r.miss, r.miss
	opts.Busy, opts.Lag, opts.Wake = func(bool) {}, func(time.Duration) {}, func() { r.wakeAt = s.mono }
	r.sched = newScheduler(opts)
	r.engine = &engine{replicas: r.reps, sched: r.sched, nowMS: r.nowMS, beat: r.beat, log: slog.New(slog.DiscardHandler)}
	if s.down {
		r.reps.down = true
		r.reps.members.Freeze()
	}
	for _, t := range s.targets {
		if !s.unlisted[t.id] {
			r.sched.put(t)
		}
	}
	s.replicas = append(s.replicas, r)
	if !s.down {
		r.enroll()
	}
	return r
}

// enroll reads who was there before, and writes this process into the roster: the
// measurement of the clock does, long before it has joined.
func (r *simReplica) enroll() {
	r.former = slices.Collect(maps.Values(r.sim.roster))
	if last := r.sim.roster[r.name]; last != nil {
		r.ledger.hold(settledOf(last))
	}
	r.sim.roster[r.name] = r.status()
	r.enrolled, r.lookAt = true, r.sim.mono+rosterCheckEvery
}

// look writes this process into the roster again when somebody has emptied that.
func (r *simReplica) look() {
	s := r.sim
	if !r.enrolled || s.down || s.mono < r.lookAt {
		return
	}
	r.lookAt = s.mono + rosterCheckEvery
	if s.roster[r.name] == nil {
		s.roster[r.name] = r.status()
	}
}

func (r *simReplica) nowMS() int64 { return simEpochMS + (r.sim.mono + r.offset).Milliseconds() }

// start implements starter.
func (r *simReplica) start(j job) {
	if last, ok := r.lastRun[j.target.id]; ok && j.atMS <= last {
		r.sim.fault("%s runs tick %d of %s after %d", r.name, j.atMS, j.target.id, last)
	}
	r.lastRun[j.target.id] = j.atMS
	if r.hasRun[j.target.id] == nil {
		r.hasRun[j.target.id] = map[int64]bool{}
	}
	doubtful := r.sim.doubtful.fromMS < j.atMS && j.atMS <= r.sim.doubtful.untilMS
	if r.hasRun[j.target.id][j.atMS] && !doubtful {
		r.sim.fault("%s runs tick %d of %s twice", r.name, j.atMS, j.target.id)
	}
	r.hasRun[j.target.id][j.atMS] = true
	if j.atMS > j.startMS {
		r.sim.fault("%s runs tick %d of %s %d ms early", r.name, j.atMS, j.target.id, j.atMS-j.startMS)
	}
	for _, other := range r.jobs {
		if other.job.check == j.check {
			r.sim.fault("%s has two probes of %s in flight", r.name, j.target.id)
		}
	}
	r.inFlight++
	r.mostAtOnce = max(r.mostAtOnce, r.inFlight)
	r.jobs = append(r.jobs, simJob{j, r.sim.mono + max(r.sim.lasts(j.target, j.atMS), time.Millisecond)})
}

// rest implements starter.
func (r *simReplica) rest(*worker) { r.inFlight-- }

func (r *simReplica) promise(atMS int64) {
	r.promised[atMS]++
	r.ledger.add(atMS)
}

// publish gets something to the stream now, or when the bus is back.
func (r *simReplica) publish(atMS int64, deliver func()) {
	if r.promised[atMS]--; r.promised[atMS] < 0 {
		r.sim.fault("%s settles a tick at %d that is not open", r.name, atMS)
	}
	r.ledger.queue(atMS, 0, func() { r.unsent = append(r.unsent, deliver) })
	r.flush()
}

// takes reports whether a tick is near enough to the stream's time.
func (s *sim) takes(atMS int64) bool {
	now := simEpochMS + (s.mono + s.server).Milliseconds()
	if atMS < now-25*time.Hour.Milliseconds() || atMS > now+mostEarlyMS {
		s.refused++
		return false
	}
	return true
}

// publishAgain does so with what its marker has settled.
func (r *simReplica) publishAgain(deliver func()) {
	r.ledger.pass(1, func() { r.unsent = append(r.unsent, deliver) })
	r.flush()
}

func (r *simReplica) flush() {
	if r.sim.down {
		return
	}
	for _, deliver := range r.unsent {
		deliver()
		r.sent++
	}
	r.unsent = nil
}

func (r *simReplica) miss(t *target, span tick.Span, cause string) {
	r.explained += int(span.Count)
	r.publish(span.FirstMS, func() {
		if !r.sim.takes(span.FirstMS) {
			return
		}
		r.sim.missed[t.id] = append(r.sim.missed[t.id], span)
		r.sim.causes[cause] += int(span.Count)
	})
}

func (r *simReplica) done(j simJob) {
	t, s := j.job.target, r.sim
	deliver := func() {
		if !s.takes(j.job.atMS) {
			return
		}
		if s.ran[t.id] == nil {
			s.ran[t.id] = map[int64]simRun{}
		}
		run := s.ran[t.id][j.job.atMS]
		if run.count++; run.count == 1 {
			run.by, run.startMS = r.name, j.job.startMS
		}
		s.ran[t.id][j.job.atMS] = run
	}
	if j.job.again {
		r.publishAgain(deliver)
	} else {
		r.publish(j.job.atMS, deliver)
	}
	r.sched.finish(j.job, nil)
}

func (r *simReplica) status() *picketv1.WorkerStatus {
	r.ledger.settle(r.sent)
	owed := r.engine.owed(r.sim.mono)
	status := &picketv1.WorkerStatus{
		Instance: r.name, Running: true, StartedAt: timestamppb.New(time.UnixMilli(r.startedMS)), SentAt: timestamppb.New(time.UnixMilli(r.nowMS())),
		SettledUntil: timestamppb.New(time.UnixMilli(min(owed, r.ledger.until(r.nowMS())))),
	}
	if from := r.sched.settlesFrom(); from != 0 {
		status.SettlesFrom = timestamppb.New(time.UnixMilli(from))
	}
	return status
}

func (r *simReplica) beat() {
	if r.sim.down {
		return
	}
	r.sim.send(r.status())
	if r.enrolledAt == 0 || r.sim.mono-r.enrolledAt >= enrollEvery {
		r.sim.roster[r.name], r.enrolledAt = r.status(), r.sim.mono
	}
}

func (s *sim) send(status *picketv1.WorkerStatus) {
	for _, r := range s.replicas {
		r.inbox = append(r.inbox, status)
	}
}

// stop ends a process by intention: goodbye, then what is in flight.
func (r *simReplica) stop() {
	r.leftMS = r.engine.leave(r.sim.mono)
	r.stopping = true
	r.goodbye()
	r.signOff()
}

// goodbye says what is settled, every second from when a stop begins until it is done.
func (r *simReplica) goodbye() {
	r.goodbyeAt = r.sim.mono + beatEvery
	if r.joined && !r.sim.down {
		r.sim.send(r.leaving())
	}
}

func (r *simReplica) leaving() *picketv1.WorkerStatus {
	status := r.status()
	status.Running = false
	status.SettledUntil = timestamppb.New(time.UnixMilli(r.ledger.until(r.leftMS)))
	status.ReleasedUntil = timestamppb.New(time.UnixMilli(r.leftMS))
	return status
}

// signOff writes what is settled into the roster, when a stop begins and when it is done.
func (r *simReplica) signOff() {
	if !r.joined || r.sim.down {
		return
	}
	r.sim.roster[r.name] = r.leaving()
}

// kill ends a process at once; what it had not published is gone.
func (r *simReplica) kill() {
	r.sim.replicas = slices.DeleteFunc(r.sim.replicas, func(o *simReplica) bool { return o == r })
}

func (s *sim) setDown(down bool) {
	s.down = down
	for _, r := range s.replicas {
		r.reps.connected(!down, s.mono)
		r.flush()
	}
}

// run lets time pass, in steps of a millisecond where something happens and of a
// slot elsewhere.
func (s *sim) run(d time.Duration) {
	for end := s.mono + d; s.mono < end; s.mono += time.Millisecond {
		for _, r := range slices.Clone(s.replicas) {
			r.step()
		}
	}
}

func (r *simReplica) step() {
	s := r.sim
	if s.mono < r.frozenUntil {
		return
	}
	for _, status := range r.inbox {
		if r.reps.hear(status, s.mono) {
			r.wakeAt = s.mono
		}
	}
	r.inbox = r.inbox[:0]
	for i := 0; i < len(r.jobs); i++ {
		if j := r.jobs[i]; j.doneAt <= s.mono {
			r.jobs = slices.Delete(r.jobs, i, i+1)
			i--
			r.done(j)
		}
	}
	if !r.stopping {
		r.look()
	}
	switch {
	case r.stopping:
		if r.sched.advance(false); r.sched.idle() && len(r.unsent) == 0 {
			r.goodbye()
			r.signOff()
			r.kill()
		} else if s.mono >= r.goodbyeAt {
			r.goodbye()
		}
	case !r.joined:
		if s.mono >= r.joinAt && !s.down && r.reps.update(s.mono).Has(r.name) {
			r.joined = true
			if !r.enrolled {
				r.enroll()
			}
			r.engine.join(r.former, s.mono)
			r.ledger.join()
			r.wakeAt = s.mono
		}
	case s.mono >= r.wakeAt:
		r.wakeAt = s.mono + time.Hour // a wake-up during the turn comes before
		wait := r.engine.turn(s.mono)
		r.wakeAt = min(r.wakeAt, s.mono+max(wait, time.Millisecond))
	}
}

// audit returns what is wrong with the ticks in [fromMS, toMS): each is run or
// reported missed.
func (s *sim) audit(fromMS, toMS int64) []string {
	faults := slices.Clone(s.faults)
	for _, t := range s.targets {
		for at := range t.schedules.Due(t.serial, t.location, fromMS, toMS) {
			if s.ran[t.id][at].count > 0 {
				continue
			}
			if !slices.ContainsFunc(s.missed[t.id], func(m tick.Span) bool { return m.FirstMS <= at && at <= m.LastMS }) {
				faults = append(faults, fmt.Sprintf("tick %v of %s: neither run nor reported missed",
					time.Duration(at-simEpochMS)*time.Millisecond, t.id))
			}
		}
	}
	return faults
}

// counts returns how many ticks in [fromMS, toMS) were due, run, and run more than once.
func (s *sim) counts(fromMS, toMS int64) (due, ran, doubled int) {
	for _, t := range s.targets {
		for at := range t.schedules.Due(t.serial, t.location, fromMS, toMS) {
			due++
			if n := s.ran[t.id][at].count; n > 0 {
				ran++
				if n > 1 {
					doubled++
				}
			}
		}
	}
	return due, ran, doubled
}

type (
	tickStep     = tick.Step
	tickSchedule = tick.Schedule
)
