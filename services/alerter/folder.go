package alerter

import (
	"context"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

const (
	// cursorEvery is how often the cursor is committed when nothing else is.
	cursorEvery = time.Second
	// commitTransitions bounds one transaction when a whole fleet fails at once.
	commitTransitions = 2000
)

// folder is the memory of one lead: the state of the fold and what of it is not committed. Its methods are called by one
// goroutine.
type folder struct {
	s     *Service
	lease store.Lease
	state *fold.State

	cursor    store.StreamPosition // committed
	loaded    []fold.Alert         // the database's alerts at the cursor, until the state is there too
	refolding bool                 // the state is still behind the cursor
	epoch     int64
	whole     bool // the next snapshot replaces all that is stored

	transitions []fold.Transition
	deciding    []deciding
	gaps        []store.StreamGap
	eventAt     time.Time
	moved       time.Time // when the cursor was last committed
	stored      time.Time // when the last snapshot began
	saving      chan saved

	certificates certificates
	traces       traces
	statuses     *statuses     // told after a commit what servers read like
	committed    chan struct{} // told after a commit with transitions; holds one
}

// saved is the outcome of a snapshot, which is written while folding goes on.
type saved struct {
	chunks []fold.Chunk
	err    error
}

func newFolder(s *Service, lease store.Lease, memory store.AlerterMemory) *folder {
	now := time.Now()
	f := &folder{
		s: s, lease: lease, cursor: memory.Cursor, epoch: memory.Cursor.Epoch, refolding: true, eventAt: memory.EventAt,
		moved: now, stored: now, committed: make(chan struct{}, 1), statuses: newStatuses(),
	}
	for _, a := range memory.Alerts {
		f.loaded = append(f.loaded, alertOf(a))
	}
	chunks := make([]fold.Chunk, len(memory.Chunks))
	for i, c := range memory.Chunks {
		chunks[i] = fold.Chunk{ID: int(c.ID), Data: c.Data}
	}
	var err error
	f.state, err = fold.Restore(memory.Snapshot.Epoch, uint64(memory.Snapshot.Seq), chunks)
	if len(chunks) == 0 || err != nil || memory.Snapshot.Epoch != memory.Cursor.Epoch {
		if len(chunks) > 0 {
			s.log.Error("stored memory is of no use, folding from the beginning of the stream", "err", err)
		}
		f.state, f.whole = fold.New(), true
		f.state.Resume(memory.Cursor.Epoch, 0)
	}
	f.committed <- struct{}{} // what an earlier alerter left in the outbox
	return f
}

// handle folds a batch and commits when there is something to commit.
func (f *folder) handle(ctx context.Context, batch []*bus.Msg) error {
	for _, msg := range batch {
		if f.refolding && int64(msg.Sequence) > f.cursor.Seq {
			if err := f.catchUp(ctx); err != nil {
				return err
			}
		}
		f.step(msg)
		if len(f.transitions) >= commitTransitions {
			if err := f.commit(ctx); err != nil {
				return err
			}
		}
	}
	_, seq := f.state.Position()
	f.s.at.Store(seq)
	if f.refolding {
		return nil
	}
	if len(f.transitions)+len(f.gaps) > 0 || time.Since(f.moved) >= cursorEvery {
		if err := f.commit(ctx); err != nil {
			return err
		}
	}
	return f.snapshot(ctx)
}

// step folds one message. What it decides counts only past the cursor; a gap counts always, it is kept once.
func (f *folder) step(msg *bus.Msg) {
	payload, skip := decode(msg)
	out := f.state.Step(fold.Event{Epoch: f.epoch, Sequence: msg.Sequence, Time: msg.Time, Payload: payload})
	f.eventAt = msg.Time
	if skip != "" {
		out.Skip = skip
	}
	if out.Skip == "" {
		f.certificates.saw(payload)
	}
	for _, gap := range out.Gaps {
		f.s.log.Warn("part of the event stream was not seen", "reason", gap.Reason, "from_seq", gap.FromSeq, "to_seq", gap.ToSeq,
			"from", gap.FromTime, "to", gap.ToTime)
		f.gaps = append(f.gaps, gapRow(gap))
	}
	if f.refolding {
		return
	}
	f.transitions = append(f.transitions, out.Transitions...)
	f.decided(msg, out.Transitions)
	f.s.folded.Add(1)
	f.s.metrics.events.Inc()
	if out.Skip != "" {
		f.s.metrics.skipped.WithLabelValues(string(out.Skip)).Inc()
		if out.Skip == skipUnreadable || out.Skip == fold.SkipContract {
			f.s.skipped.Add(1)
		}
	}
}

// skipUnreadable is the reason of the messages that do not even decode; the writer dead-letters them.
const skipUnreadable fold.Skip = "unreadable"

// decode reads the payload of a message, and says why it is not to be folded when it is not: then, as for what is nothing
// to the fold, only time passes. A payload that says otherwise than its subject is no news of anybody: who may publish what
// goes by subjects.
func decode(msg *bus.Msg) (payload any, skip fold.Skip) {
	subject, err := bus.ParseSubject(msg.Subject)
	if err != nil {
		return nil, skipUnreadable
	}
	switch subject.Family {
	case bus.FamilyProbe:
		result := &picketv1.ProbeResult{}
		if msg.Decode(result) != nil {
			return nil, skipUnreadable
		}
		if bus.CheckResult(subject, result, msg.Time) != nil {
			return nil, fold.SkipContract
		}
		return result, ""
	case bus.FamilyCatalog:
		change := &picketv1.CatalogChange{}
		if msg.Decode(change) != nil {
			return nil, skipUnreadable
		}
		if bus.CheckChange(subject, change) != nil {
			return nil, fold.SkipContract
		}
		return change, ""
	case bus.FamilyCommand:
		command := &picketv1.Command{}
		if msg.Decode(command) != nil {
			return nil, skipUnreadable
		}
		if bus.CheckCommand(subject, command) != nil {
			return nil, fold.SkipContract
		}
		return command, ""
	case bus.FamilyClock:
		// A tick says that time passes, whatever is in it.
		return &picketv1.ClockTick{}, ""
	default:
		return nil, ""
	}
}

// catchUp ends refolding: the state is at the cursor, as near as the stream allows, and from here on its answers count.
func (f *folder) catchUp(ctx context.Context) error {
	f.refolding = false
	if _, seq := f.state.Position(); int64(seq) < f.cursor.Seq {
		// The stream no longer has what lies between the snapshot and the cursor. Its transitions are in the database.
		f.gaps = append(f.gaps, store.StreamGap{
			Stream: bus.StreamEvents, Consumer: consumer, StreamEpoch: f.epoch, FromSeq: int64(seq) + 1, ToSeq: f.cursor.Seq,
			From: f.eventAt, To: f.eventAt, Reason: fold.GapHole,
		})
	}
	f.state.Resume(f.cursor.Epoch, uint64(f.cursor.Seq))
	if differ := f.state.Reconcile(f.loaded); differ > 0 {
		f.s.log.Warn("alerts were not what the events said, taking those of the database", "alerts", differ)
	}
	f.loaded = nil
	f.report() // every server: the memory begins with it
	f.s.metrics.count(f.state.Counts())
	if f.state.Enabled() == f.s.config.Enabled {
		return nil
	}
	// Switched since the last snapshot. Whoever folds these events again must switch at the same place.
	f.state.SetEnabled(f.s.config.Enabled)
	f.s.log.Info("alerting switched", "enabled", f.s.config.Enabled, "seq", f.cursor.Seq)
	return f.save(ctx, f.state.Changed())
}

// commit makes everything folded so far final.
func (f *folder) commit(ctx context.Context) error {
	_, seq := f.state.Position()
	c := store.AlerterCommit{
		From: f.cursor, To: store.StreamPosition{Epoch: f.epoch, Seq: int64(seq)}, EventAt: f.eventAt, Gaps: f.gaps,
	}
	var err error
	if c.Alerts, c.Events, err = rows(f.transitions); err != nil {
		return err
	}
	// Once begun it is finished or fails by its own deadline: a stop must not leave its outcome in doubt.
	spans := f.startSpans(ctx)
	err = f.s.store.CommitAlerter(context.WithoutCancel(ctx), f.lease, c)
	endSpans(spans, err)
	if err != nil {
		return fmt.Errorf("commit %d transitions up to event %d: %w", len(f.transitions), seq, err)
	}
	f.s.kit.Health.Set("folding", nil)
	now := time.Now()
	f.cursor, f.moved = c.To, now
	if len(f.transitions) > 0 {
		f.s.metrics.observe(f.transitions, f.state.Counts(), now)
		select {
		case f.committed <- struct{}{}:
		default:
		}
	}
	f.transitions, f.gaps = nil, nil
	f.report()
	return nil
}

// report tells the keeper of the bucket what servers read like now. What it is told is committed.
func (f *folder) report() {
	names, all := f.state.Touched()
	if all {
		names = f.state.Servers()
	}
	if len(names) == 0 && !all {
		return
	}
	states := make(map[fold.ServerName]serverState, len(names))
	for _, name := range names {
		if f.state.Known(name) {
			states[name] = serverState{f.state.Status(name.Org, name.Server), f.state.Seen(name)}
		}
	}
	f.statuses.update(names, states, all)
}

// snapshot stores the memory now and then, without waiting for it.
func (f *folder) snapshot(ctx context.Context) error {
	if f.saving != nil {
		select {
		case done := <-f.saving:
			f.saving = nil
			if err := f.saveDone(done); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	if time.Since(f.stored) < f.s.config.Snapshot {
		return nil
	}
	// It must not be ahead of the cursor: what it holds counts as committed.
	if err := f.commit(ctx); err != nil {
		return err
	}
	f.stored = time.Now()
	f.saving = make(chan saved, 1)
	go func(chunks []fold.Chunk, at store.StreamPosition, whole bool, done chan<- saved) {
		err := f.s.store.SaveAlerterSnapshot(context.WithoutCancel(ctx), f.lease, at, chunkRows(chunks), whole)
		done <- saved{chunks, err}
	}(f.state.Changed(), f.cursor, f.whole, f.saving)
	return nil
}

// save stores chunks at the cursor and waits for it.
func (f *folder) save(ctx context.Context, chunks []fold.Chunk) error {
	err := f.s.store.SaveAlerterSnapshot(context.WithoutCancel(ctx), f.lease, f.cursor, chunkRows(chunks), f.whole)
	return f.saveDone(saved{chunks, err})
}

func (f *folder) saveDone(done saved) error {
	if done.err == nil {
		f.whole = false
		return nil
	}
	f.state.Touch(done.chunks...)
	return fmt.Errorf("store the memory: %w", done.err)
}

// settle waits for a snapshot that is being written.
func (f *folder) settle() error {
	if f.saving == nil {
		return nil
	}
	done := <-f.saving
	f.saving = nil
	return f.saveDone(done)
}

// finish commits what is folded and stores the memory.
func (f *folder) finish(ctx context.Context) error {
	if f.refolding {
		return nil
	}
	if err := f.commit(ctx); err != nil {
		return err
	}
	return f.save(ctx, f.state.Changed())
}
