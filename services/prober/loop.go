package prober

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober/probe"
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
	retryEvery  = time.Second
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
	if replaced := e.replicas.replacements(); replaced != nil {
		e.sched.replace(replaced)
	}
	if ring := e.replicas.update(mono); !ring.Equal(e.ring) {
		before := e.ring
		e.ring = ring
		e.sched.follow(ring, e.replicas.settled(ring, mono), suspended)
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
	return min(e.replicas.silent(mono), e.sched.stop(e.replicas.settled(e.ring, mono)))
}

// owed returns until when those have settled whom this process would have to
// explain. It is safe for concurrent use.
func (e *engine) owed(mono time.Duration) (untilMS int64) {
	return min(e.replicas.silent(mono), e.sched.owed(e.replicas.said()))
}

// turn turns the wheel until ctx ends: it wakes when something is due and once a
// second for the heartbeat, which so says that the wheel turns.
func (p *Service) turn(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.wake:
		case <-trim.C:
			p.sched.mu.Lock()
			p.workers.trim()
			p.sched.mu.Unlock()
		}
		timer.Reset(p.engine.turn(p.mono()))
	}
}

// status is the heartbeat of this moment.
func (p *Service) status() *picketv1.WorkerStatus {
	p.ledger.settle(settledMessages(p.publisher.Stats()))
	now := p.clock.Now()
	owed := p.engine.owed(p.mono()) // before the ledger, which takes up what is explained
	settled := p.ledger.until(now.UnixMilli())
	status := p.kit.Status(now)
	status.Owned = int64(p.sched.figures().Owned)
	status.SettledUntil = timestamppb.New(time.UnixMilli(min(settled, owed)))
	p.stats.fill(status, now.UnixMilli(), settled)
	return status
}

func settledMessages(stats bus.PublisherStats) int64 { return stats.Acknowledged + stats.Dropped }

// beat hands a heartbeat to the sender. While the sender is stuck in a dead
// connection the wheel goes on; what it does not take is not sent.
func (p *Service) beat() {
	status := p.status()
	select {
	case p.beats <- status:
	default:
	}
	if p.conn.Connected() {
		p.reporter.markDropped()
	}
}

// sendBeats sends the loop's heartbeats until ctx ends.
func (p *Service) sendBeats(ctx context.Context) error {
	for {
		select {
		case status := <-p.beats:
			if err := p.conn.Heartbeat(status); err != nil && !errors.Is(err, bus.ErrDisconnected) {
				p.log.Warn("heartbeat not sent", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sayGoodbye tells the others at once that every tick after an instant is
// theirs; those until then this process still finishes.
func (p *Service) sayGoodbye(untilMS int64) {
	status := p.status()
	status.Running, status.Ready, status.Owned = false, false, 0
	status.SettledUntil = timestamppb.New(time.UnixMilli(untilMS))
	if err := p.conn.Heartbeat(status); err != nil {
		if !errors.Is(err, bus.ErrDisconnected) {
			p.log.Warn("goodbye not sent", "err", err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), retryEvery)
	defer cancel()
	if err := p.conn.Flush(ctx); err != nil {
		p.log.Warn("goodbye not confirmed", "err", err)
	}
}

// signOff writes into the roster what of the ticks until an instant is settled:
// who starts next, and finds nobody alive, begins there. It is written before and
// after the last probes have ended, for a stop may be cut short.
func (p *Service) signOff(untilMS int64) {
	if !p.conn.Connected() {
		return // the roster keeps what it said when last written
	}
	status := p.status()
	status.Running, status.Ready, status.Owned = false, false, 0
	status.SettledUntil = timestamppb.New(time.UnixMilli(p.ledger.until(untilMS)))
	ctx, cancel := context.WithTimeout(context.Background(), retryEvery)
	defer cancel()
	if _, _, err := p.conn.EnrollWorker(ctx, status); err != nil {
		p.log.Warn("roster not written at the stop", "err", err)
	}
}

// followClock reads who was there before, and then measures the clock until ctx
// ends. It reports the roster with the first measurement.
func (p *Service) followClock(ctx context.Context, measured chan<- []*picketv1.WorkerStatus) {
	var roster []*picketv1.WorkerStatus
	known := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		var err error
		if !known {
			if roster, err = p.conn.Roster(ctx, p.kit.Name, p.kit.Location); err == nil {
				known = true
				p.holdPredecessor(roster)
			}
		}
		if err == nil {
			err = p.measure(ctx)
		}
		switch err {
		case nil:
			if measured != nil {
				measured <- roster
				measured = nil
			}
			timer.Reset(enrollEvery)
		default:
			if ctx.Err() == nil && p.conn.Connected() {
				p.log.Warn("clock not measured", "err", err)
			}
			timer.Reset(retryEvery)
		}
	}
}

// holdPredecessor keeps what the last process of this name has said of itself in
// the roster, which is written anew from now on, until this one has joined.
func (p *Service) holdPredecessor(roster []*picketv1.WorkerStatus) {
	for _, status := range roster {
		if status.GetInstance() == p.kit.Instance {
			p.ledger.hold(settledOf(status))
		}
	}
}

// measure writes this process into the roster and corrects the clock by it. An
// error smaller than the measurement's own is none.
func (p *Service) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, measureFor)
	defer cancel()
	offset, roundTrip, err := p.conn.EnrollWorker(ctx, p.status())
	if err != nil {
		return err
	}
	step, stepped := p.sched.correct(func() (step tick.Step, stepped bool) {
		// The offset is to the host's clock, which this one is ahead of or behind.
		ahead := offset + time.Now().Round(0).Sub(p.clock.Now())
		if ahead.Abs() <= roundTrip/2 {
			return step, false
		}
		return p.clock.Observe(ahead)
	})
	if stepped {
		p.metrics.steps.Inc()
		p.log.Warn("clock set", "by", time.Duration(step.ToMS-step.FromMS)*time.Millisecond, "round_trip", roundTrip)
	}
	return nil
}

// watchCatalog follows the checks of this location until ctx ends, and closes
// listed when it knows all of them.
func (p *Service) watchCatalog(ctx context.Context, listed chan<- struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	apply := func(batch []bus.Entry, complete bool) {
		p.apply(batch, complete)
		if complete && listed != nil {
			close(listed)
			listed = nil
		}
	}
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		bucket, err := p.conn.CatalogBucket(ctx)
		if err == nil {
			err = bucket.Watch(ctx, "*."+bus.Token(p.kit.Location)+".*", apply)
		}
		if err != nil && ctx.Err() == nil && p.conn.Connected() {
			p.log.Warn("catalog not watched", "err", err)
		}
		timer.Reset(retryEvery)
	}
}

// known is what the watch remembers of a key of the catalog.
type known struct {
	revision uint64
	checkID  string
}

// apply takes in what the catalog says. An entry that does not read changes
// nothing: what was known before stays.
func (p *Service) apply(batch []bus.Entry, complete bool) {
	alive := make(map[string]struct{}, len(batch))
	for _, entry := range batch {
		before, found := p.keys[entry.Key]
		if found {
			alive[before.checkID] = struct{}{}
		}
		switch {
		case entry.Deleted:
			delete(alive, before.checkID)
			delete(p.keys, entry.Key)
			p.sched.remove(before.checkID)
		case found && before.revision == entry.Revision: // listed anew, as it was
		default:
			var scheduled picketv1.ScheduledCheck
			err := entry.Decode(&scheduled)
			var t *target
			if err == nil {
				t, err = newTarget(&scheduled, p.build)
			}
			if err != nil {
				p.log.Error("catalog entry not understood", "key", entry.Key, "err", err)
				continue
			}
			alive[t.id] = struct{}{}
			p.keys[entry.Key] = known{entry.Revision, t.id}
			p.sched.put(t)
		}
	}
	if complete {
		p.sched.retain(alive)
		maps.DeleteFunc(p.keys, func(_ string, k known) bool { _, ok := alive[k.checkID]; return !ok })
	}
}

// build compiles a check.
func (p *Service) build(check *picketv1.Check) (Prober, error) {
	check, err := secrets{dir: p.cfg.SecretsDir}.resolve(check)
	if err != nil {
		return nil, err
	}
	return probe.New(check, probe.Options{Pool: p.probes, BodyLimit: p.cfg.BodyLimit, Version: p.kit.Version})
}
