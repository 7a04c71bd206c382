package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// maxStates bounds the memory that checks nobody has heard of can take. A state that was forgotten costs one
	// needless row in the transaction of its next result.
	maxStates = 500_000
	// flushRows is how many states one transaction of a flush moves: a share of its deadline, also on slow disks.
	flushRows = 2000
)

// stateKey names a row of check_states.
type stateKey struct {
	check    uuid.UUID
	location string
}

// stateRow is a row of check_states: what the newest result says.
type stateRow struct {
	stateKey
	scheduledAt, since    time.Time
	checkedAt, seenAt     time.Time // zero: never
	received              time.Time // when the stream took it; zero: not known
	epoch, seq            int64
	latency               int32
	status                picketv1.Status // unspecified: only on-demand results so far
	httpStatus            int16
	missed                bool
	org, server, name     string
	kind, reason, message string
}

// state is what this process knows of a row.
type state struct {
	stateRow
	dirty   bool // the database has not got it
	touched bool // the server's summary has not followed it
}

// states coalesces: the database learns of a changed status with the batch that changed it, and of everything else at
// the next flush. Another writer's changes are not known here, so a status that this one sees unchanged may reach the
// row only with the flush; the statement moves rows only forward in time, so that nobody's old news wins.
type states struct {
	mu    sync.Mutex
	known map[stateKey]*state
	limit int
	// scratch is fold's.
	scratch []foldedState
}

func newStates() states { return states{known: map[stateKey]*state{}, limit: maxStates} }

// foreign returns the indices of rows about checks that belong to another organization than they say: whoever may publish
// for one has no say in another, and the first result of a tick is the one that stays.
func (s *states) foreign(rows []Result) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var foreign []int
	for i := range rows {
		if known, ok := s.known[stateKey{rows[i].CheckID, rows[i].Location}]; ok && known.org != rows[i].Org {
			foreign = append(foreign, i)
		}
	}
	return foreign
}

// isForeign says of one check what foreign says of rows.
func (s *states) isForeign(key stateKey, org string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.known[key]
	return ok && known.org != org
}

// foldedState is one row after a batch.
type foldedState struct {
	row     stateRow
	changed bool // its status is another one than before
}

// newer is the order of results of one check at one location, the same as in upsertStatesSQL: by tick, and on the same
// tick a real outcome after a missed one.
func (r *stateRow) newer(than *stateRow) bool {
	if c := r.scheduledAt.Compare(than.scheduledAt); c != 0 {
		return c > 0
	}
	return than.missed && !r.missed
}

// fold works out the states after a batch in key order, without remembering them. What it returns is good until the
// next call.
func (s *states) fold(batch []batchRow) []foldedState {
	s.mu.Lock()
	defer s.mu.Unlock()
	folded := s.scratch[:0]
	defer func() { s.scratch = folded }()
	for i := range batch {
		r := batch[i].Result
		key := stateKey{r.CheckID, r.Location}
		if n := len(folded); n == 0 || folded[n-1].row.stateKey != key {
			folded = append(folded, foldedState{row: stateRow{stateKey: key}})
			if known, ok := s.known[key]; ok {
				folded[n].row = known.stateRow
			}
		}
		at := &folded[len(folded)-1]
		at.changed = at.row.take(r) || at.changed
	}
	// Results on demand alone make no row: nothing is known yet of when the check is due.
	folded = slices.DeleteFunc(folded, func(f foldedState) bool {
		return f.row.status == picketv1.Status_STATUS_UNSPECIFIED
	})
	return folded
}

// MostAhead is how far a tick may lie ahead of the stream time of its result. It is bus.MostEarly, which is the contract;
// this room does not know that one, so the writer's tests hold the two together.
const MostAhead = time.Minute

// takenBack reports whether the row is of a time that the stream's clock has taken back: what came later was received
// before it. Such a row would stand until then.
func (r *stateRow) takenBack(by *Result) bool {
	later := by.StreamEpoch > r.epoch || by.StreamEpoch == r.epoch && by.StreamSeq > r.seq
	return later && !by.Received.IsZero() && r.scheduledAt.After(by.Received.Add(MostAhead))
}

// take moves the row forward by one result, and reports whether the status became another one.
func (r *stateRow) take(result *Result) (changed bool) {
	if r.takenBack(result) {
		r.scheduledAt, r.checkedAt, r.seenAt, r.since = time.Time{}, time.Time{}, time.Time{}, result.ScheduledAt
	}
	if !result.Missed {
		r.checkedAt = later(r.checkedAt, result.ScheduledAt)
	}
	if answered(result.Status) {
		r.seenAt = later(r.seenAt, result.ScheduledAt)
	}
	next := stateRow{scheduledAt: result.ScheduledAt, missed: result.Missed}
	first := r.status == picketv1.Status_STATUS_UNSPECIFIED
	if result.OnDemand || !first && !next.newer(r) {
		return false
	}
	if first || r.status != result.Status {
		changed, r.since = true, result.ScheduledAt
	}
	r.scheduledAt, r.missed, r.status = result.ScheduledAt, result.Missed, result.Status
	r.epoch, r.seq, r.received = result.StreamEpoch, result.StreamSeq, result.Received
	r.latency, r.httpStatus = latencyUS(result.Latency), result.HTTPStatus
	r.org, r.server, r.name, r.kind = result.Org, result.Server, result.Check, result.Kind
	r.reason, r.message = result.Reason, result.Message
	return changed
}

// answered reports whether the target spoke.
func answered(status picketv1.Status) bool {
	switch status {
	case picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_DEGRADED, picketv1.Status_STATUS_CRITICAL:
		return true
	default:
		return false
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// commit remembers what a committed batch made.
func (s *states) commit(folded []foldedState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range folded {
		row := &folded[i].row
		known, ok := s.known[row.stateKey]
		if !ok {
			known = &state{}
			s.known[row.stateKey] = known
		}
		known.stateRow = *row
		known.dirty, known.touched = !folded[i].changed, true
	}
	s.shrink()
}

// shrink forgets states above the limit, a tenth at once; those that the database has not got only when nothing else
// is left.
func (s *states) shrink() {
	if len(s.known) <= s.limit {
		return
	}
	target := s.limit - s.limit/10
	for _, alsoDirty := range []bool{false, true} {
		for key, known := range s.known {
			if len(s.known) <= target {
				return
			}
			if alsoDirty || !known.dirty {
				delete(s.known, key)
			}
		}
	}
}

// part is the part of so many that the row's server is in.
func (r *stateRow) part(parts int) int {
	if parts == 1 {
		return 0
	}
	hash := fnv.New32a()
	_, _ = io.WriteString(hash, r.org)
	_, _ = io.WriteString(hash, r.server)
	return int(hash.Sum32() % uint32(parts))
}

// pending returns copies of the states that a flush of the part-th of so many parts has to do something about, in key
// order. All checks of a server are in one part: its summary is made once.
func (s *states) pending(part, parts int) []state {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pending []state
	for _, known := range s.known {
		if (known.dirty || known.touched) && known.part(parts) == part {
			pending = append(pending, *known)
		}
	}
	slices.SortFunc(pending, func(a, b state) int {
		return cmp.Or(bytes.Compare(a.check[:], b.check[:]), strings.Compare(a.location, b.location))
	})
	return pending
}

// flushed takes note of what the database has got now, unless it moved meanwhile.
func (s *states) flushed(rows []state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		if known, ok := s.known[rows[i].stateKey]; ok && known.stateRow == rows[i].stateRow {
			known.dirty, known.touched = false, false
		}
	}
}

// Position is how far the event stream was stored.
type Position struct {
	// Epoch is the creation of the stream, Unix nanoseconds; Seq a sequence in it.
	Epoch, Seq int64
	// At is the newest tick stored.
	At time.Time
}

// LoadStates reads what the database knows, so that a writer that starts does not take every check for changed. It
// returns the newest result of all: its tick and its place in the stream, zero when there is none.
func (w *ResultWriter) LoadStates(ctx context.Context) (newest Position, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := w.store.pool.Query(ctx, `
		SELECT check_id, location, scheduled_at, since, checked_at, seen_at,
		       stream_epoch, stream_seq, latency_us, status, coalesce(http_status, 0), missed,
		       org, server, check_name, kind, reason, message
		FROM check_states ORDER BY scheduled_at DESC LIMIT $1`, maxStates)
	if err != nil {
		return Position{}, fmt.Errorf("load states: %w", err)
	}
	defer rows.Close()
	loaded := map[stateKey]*state{}
	for rows.Next() {
		row, err := scanState(rows)
		if err != nil {
			return Position{}, fmt.Errorf("load states: %w", err)
		}
		if row.epoch > newest.Epoch || row.epoch == newest.Epoch && row.seq > newest.Seq {
			newest.Epoch, newest.Seq = row.epoch, row.seq
		}
		newest.At = later(newest.At, row.scheduledAt)
		loaded[row.stateKey] = &state{stateRow: row}
	}
	if err := rows.Err(); err != nil {
		return Position{}, fmt.Errorf("load states: %w", err)
	}
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	for key, row := range loaded {
		if known, ok := w.states.known[key]; !ok || row.newer(&known.stateRow) {
			w.states.known[key] = row
		}
	}
	return newest, nil
}

// States is how many current states the writer knows.
func (w *ResultWriter) States() int {
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	return len(w.states.known)
}

// Flush is FlushPart of everything.
func (w *ResultWriter) Flush(ctx context.Context) error { return w.FlushPart(ctx, 0, 1) }

// FlushPart moves the times of all checks seen since the last one, and the summaries of their servers, in transactions of
// their own, for the part-th (from 0) of so many parts of the servers. What could not be moved is moved by the next flush
// of the part. Parts in turn do in small steps what would keep the database busy for a while if it were done at once.
func (w *ResultWriter) FlushPart(ctx context.Context, part, parts int) error {
	pending := w.states.pending(part, parts)
	for rows := range slices.Chunk(pending, flushRows) {
		if err := w.store.flushStates(ctx, rows); err != nil {
			return fmt.Errorf("flush states: %w", err)
		}
		w.states.flushed(rows)
	}
	return nil
}

// flushStates has two transactions, so that the states, which other writers' batches wait for, are never held while
// somebody changes the catalog.
func (s *Store) flushStates(ctx context.Context, part []state) error {
	var dirty []*stateRow
	checks := make([]uuid.UUID, 0, len(part))
	for i := range part {
		if part[i].dirty {
			dirty = append(dirty, &part[i].stateRow)
		}
		checks = append(checks, part[i].check)
	}
	err := retried(ctx, s, func(ctx context.Context, tx pgx.Tx) error { return upsertStates(ctx, tx, dirty) })
	if err != nil {
		return err
	}
	return retried(ctx, s, func(ctx context.Context, tx pgx.Tx) error { return summarize(ctx, tx, checks) })
}

// retried is InTx for work that another attempt cures of a deadlock.
func retried(ctx context.Context, s *Store, work func(ctx context.Context, tx pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := InTx(ctx, s, 0, work)
		if err == nil || Classify(err) != Retry || attempt == retries {
			return err
		}
	}
}
