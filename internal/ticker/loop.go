package ticker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	beatEvery = time.Second
	// suspendedAfter is how late a wake-up may be before the process counts as
	// having been suspended.
	suspendedAfter = 2 * time.Second
	// trimEvery is how long a worker may rest before it is let go.
	trimEvery = time.Minute
	// enrollEvery is how often the roster is written, and the clock measured by it.
	enrollEvery = 10 * time.Second
	// rosterCheckEvery is how often this process makes sure that it is still in the
	// roster: what somebody has emptied cannot say where it had been when it dies.
	rosterCheckEvery = time.Second
	retryEvery       = time.Second
	// measureFor bounds one measurement; an answer that takes longer says nothing.
	measureFor = 5 * time.Second
)

// engine is the inside of the wheel loop: given the time, it does what is to be
// done and says when to come again. It is not safe for concurrent use.
type engine struct {
	replicas *replicas
	sched    *scheduler
	nowMS    func() int64
	// beat is called once a second.
	beat func()
	log  *slog.Logger

	ring     tick.Ring
	planned  time.Duration // when it was to be called
	nextBeat time.Duration
}

// join makes this process own its share. The roster says who was there before.
func (e *engine) join(roster []*picketv1.WorkerStatus, mono time.Duration) {
	former, settled := e.replicas.former(roster, time.UnixMilli(e.nowMS()), mono)
	e.ring = e.replicas.update(mono)
	e.sched.activate(e.ring, former, settled)
	e.planned, e.nextBeat = mono, mono
}

// turn does what is due and returns how long nothing will be, at most until the
// next heartbeat.
func (e *engine) turn(mono time.Duration) (wait time.Duration) {
	suspended := mono-e.planned > suspendedAfter
	if suspended {
		e.replicas.suspended(mono)
		e.log.Warn("process did not run", "for", mono-e.planned)
	}
	ring := e.replicas.update(mono) // before: one that is heard meanwhile has then not been given its checks back
	if replaced := e.replicas.replacements(mono); replaced != nil {
		e.sched.replace(replaced)
	}
	if !ring.Equal(e.ring) {
		before := e.ring
		e.ring = ring
		e.sched.follow(ring, e.replicas.settled(ring, mono), e.replicas.leavers(), suspended)
		e.log.Info("replicas changed", "before", before.Members(), "now", ring.Members(), "owned", e.sched.figures().Owned)
	}
	e.sched.advance(suspended)
	if mono >= e.nextBeat {
		e.beat()
		e.nextBeat += beatEvery * (1 + (mono-e.nextBeat)/beatEvery)
	}
	wait = e.nextBeat - mono
	if next, ok := e.sched.next(); ok {
		wait = min(wait, time.Duration(next-e.nowMS())*time.Millisecond)
	}
	if at, ok := e.replicas.changes(mono); ok {
		wait = min(wait, at-mono)
	}
	wait = max(wait, 0)
	e.planned = mono + wait
	return wait
}

// leave ends the ticking and returns the instant after which every tick is the
// others' business.
func (e *engine) leave(mono time.Duration) (untilMS int64) {
	if replaced := e.replicas.replacements(mono); replaced != nil {
		e.sched.replace(replaced)
	}
	settled := e.replicas.settled(e.ring, mono)
	maps.Copy(settled, e.replicas.leavers())
	return min(e.replicas.silent(mono), e.sched.stop(settled))
}

// owed returns until when those have settled whom this process would have to
// explain. It is safe for concurrent use.
func (e *engine) owed(mono time.Duration) (untilMS int64) {
	return min(e.replicas.silent(mono), e.sched.owed(e.replicas.said()))
}

// turn turns the wheel until ctx ends: it wakes when something is due and once a
// second for the heartbeat, which so says that the wheel turns.
func (k *Ticker) turn(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.wake:
		case <-trim.C:
			k.sched.mu.Lock()
			k.workers.trim()
			k.sched.mu.Unlock()
		}
		timer.Reset(k.engine.turn(k.mono()))
	}
}

// status is the heartbeat of this moment.
func (k *Ticker) status() *picketv1.WorkerStatus {
	k.ledger.settle(k.publisher.Stats().Settled)
	now := k.clock.Now()
	owed := k.engine.owed(k.mono()) // before the ledger, which takes up what is explained
	settled := k.ledger.until(now.UnixMilli())
	status := k.kit.Status(now)
	status.Owned = int64(k.sched.figures().Owned)
	status.SettledUntil = timestamppb.New(time.UnixMilli(min(settled, owed)))
	if from := k.sched.settlesFrom(); from != 0 {
		status.SettlesFrom = timestamppb.New(time.UnixMilli(from))
	}
	k.stats.fill(status, now.UnixMilli(), settled)
	return status
}

// beat hands a heartbeat to the sender. While the sender is stuck in a dead
// connection the wheel goes on; what it does not take is not sent.
func (k *Ticker) beat() {
	status := k.status()
	select {
	case k.beats <- status:
	default:
	}
	if k.conn.Connected() {
		k.reporter.markDropped()
	}
	// A disk that is full answers nothing, on a connection that is well.
	k.kit.Health.Set("publishing", k.publisher.Stats().Err)
	k.reportCycles()
}

// sendBeats sends the loop's heartbeats until ctx ends.
func (k *Ticker) sendBeats(ctx context.Context) error {
	for {
		select {
		case status := <-k.beats:
			if err := k.conn.Heartbeat(status); err != nil && !errors.Is(err, bus.ErrDisconnected) {
				k.log.Warn("heartbeat not sent", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sayGoodbye tells the others at once that every tick after an instant is
// theirs; those until then this process still settles.
func (k *Ticker) sayGoodbye(untilMS int64) {
	if !k.repeatGoodbye(untilMS) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), retryEvery)
	defer cancel()
	if err := k.conn.Flush(ctx); err != nil {
		k.log.Warn("goodbye not confirmed", "err", err)
	}
}

// keepSaying repeats the goodbye every second until stop is called, so that who took
// the checks knows that this process still settles what is its own.
func (k *Ticker) keepSaying(untilMS int64) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var said sync.WaitGroup
	said.Go(func() {
		ticker := time.NewTicker(beatEvery)
		defer ticker.Stop()
		for received(ctx, ticker.C) {
			k.repeatGoodbye(untilMS)
		}
	})
	return func() { cancel(); said.Wait() }
}

func (k *Ticker) repeatGoodbye(untilMS int64) (sent bool) {
	err := k.conn.Heartbeat(k.leaving(untilMS))
	if err != nil && !errors.Is(err, bus.ErrDisconnected) {
		k.log.Warn("goodbye not sent", "err", err)
	}
	return err == nil
}

// leaving is the heartbeat of a process that leaves the ticks after an instant to others.
func (k *Ticker) leaving(untilMS int64) *picketv1.WorkerStatus {
	status := k.status()
	status.Running, status.Ready, status.Owned = false, false, 0
	status.SettledUntil = timestamppb.New(time.UnixMilli(k.ledger.until(untilMS)))
	status.ReleasedUntil = timestamppb.New(time.UnixMilli(untilMS))
	return status
}

// signOff writes into the roster what of the ticks until an instant is settled:
// who starts next, and finds nobody alive, begins there. It is written before and
// after the last probes have ended, for a stop may be cut short.
func (k *Ticker) signOff(untilMS int64) {
	if !k.conn.Connected() {
		return // the roster keeps what it said when last written
	}
	ctx, cancel := context.WithTimeout(context.Background(), retryEvery)
	defer cancel()
	if _, err := k.conn.EnrollWorker(ctx, k.leaving(untilMS), k.clock.Now); err != nil {
		k.log.Warn("roster not written at the stop", "err", err)
	}
}

// followClock reads who was there before, and then measures the clock until ctx
// ends; at once, when what that has written into the roster is gone. It reports the
// roster with the first measurement.
func (k *Ticker) followClock(ctx context.Context, measured chan<- []*picketv1.WorkerStatus) {
	var roster []*picketv1.WorkerStatus
	known := false
	var entry *bus.Enrollment // nil: to be written
	var next time.Duration    // when it is written anew
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if entry != nil && k.mono() < next && k.stands(ctx, entry) {
			timer.Reset(rosterCheckEvery)
			continue
		}
		var err error
		if !known {
			if roster, err = k.conn.Roster(ctx, k.kit.Name, k.kit.Location); err == nil {
				known = true
				k.holdPredecessor(roster)
			}
		}
		if err == nil {
			entry, err = k.measure(ctx)
			next = k.mono() + enrollEvery
		}
		switch err {
		case nil:
			if measured != nil {
				measured <- roster
				measured = nil
			}
			timer.Reset(rosterCheckEvery)
		default:
			if ctx.Err() == nil && k.conn.Connected() {
				k.log.Warn("clock not measured", "err", err)
			}
			timer.Reset(retryEvery)
		}
	}
}

// stands reports whether this process's entry in the roster is there. No answer says nothing.
func (k *Ticker) stands(ctx context.Context, entry *bus.Enrollment) bool {
	if !k.conn.Connected() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, retryEvery)
	defer cancel()
	stands, err := entry.Stands(ctx)
	return stands || err != nil
}

// holdPredecessor keeps what the last process of this name has said of itself in
// the roster, which is written anew from now on, until this one has joined.
func (k *Ticker) holdPredecessor(roster []*picketv1.WorkerStatus) {
	for _, status := range roster {
		if status.GetInstance() == k.kit.Instance {
			k.ledger.hold(settledOf(status))
		}
	}
}

// measure writes this process into the roster and corrects the clock by it. An
// error smaller than the measurement's own is none.
func (k *Ticker) measure(ctx context.Context) (*bus.Enrollment, error) {
	ctx, cancel := context.WithTimeout(ctx, measureFor)
	defer cancel()
	entry, err := k.conn.EnrollWorker(ctx, k.status(), k.clock.Now)
	if err != nil {
		return nil, err
	}
	step, stepped := k.sched.correct(func() (step tick.Step, stepped bool) {
		if entry.Ahead.Abs() <= entry.RoundTrip/2 {
			return step, false
		}
		if step, stepped = k.clock.Observe(entry.Ahead); stepped && refusedAfter(step) {
			k.reporter.turn.Add(1)
		}
		return step, stepped
	})
	if stepped {
		k.metrics.steps.Inc()
		k.log.Warn("clock set", "by", time.Duration(step.ToMS-step.FromMS)*time.Millisecond, "round_trip", entry.RoundTrip)
	}
	return entry, nil
}
