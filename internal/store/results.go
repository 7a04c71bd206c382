package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Result is one row of server_health_checks, with the names that go into check_states. Its identity is (CheckID,
// Location, ScheduledAt).
type Result struct {
	CheckID     uuid.UUID
	Location    string
	ScheduledAt time.Time
	Status      picketv1.Status
	// Latency is kept in whole microseconds, at most math.MaxInt32 of them.
	Latency    time.Duration
	HTTPStatus int16 // 0: none
	Reason     string
	Message    string
	// StartedAt is zero when nothing was started.
	StartedAt time.Time
	Instance  string
	Revision  int32

	// Missed marks a tick at which nobody looked. MissedUntil is the last of several in a row, else zero.
	Missed      bool
	MissedUntil time.Time
	// OnDemand results are history, and signs of life; they move no current status.
	OnDemand bool

	CertificateNotAfter time.Time // zero: none shown
	ConnectionReused    bool
	Details             []byte // one JSON value; nil: none
	// Samples go into system_metrics in the transaction of the row.
	Samples []Sample

	// StreamEpoch and StreamSeq say where in the event stream it came: creation of the stream (Unix nanoseconds), and
	// sequence.
	StreamEpoch, StreamSeq int64
	// Received is when the stream took it; zero: not known.
	Received time.Time

	Org, Server, Check, Kind string
}

// ResultWriter writes batches of results and keeps check_states beside them. Write must not be called concurrently;
// Flush may run beside it. Any number of writers, in any number of processes, may work on one database.
type ResultWriter struct {
	store   *Store
	states  states
	encoder copyEncoder
	batches batchWriter[batchRow]
}

// NewResultWriter makes a writer that knows no states yet: each check's first result is a change to it until
// [ResultWriter.LoadStates] was called.
func (s *Store) NewResultWriter() *ResultWriter {
	w := &ResultWriter{store: s, states: newStates()}
	w.batches = batchWriter[batchRow]{
		store: s, tables: []string{resultsTable, samplesTable},
		at:    func(row *batchRow) time.Time { return row.ScheduledAt },
		index: func(row *batchRow) int { return row.index },
		try:   w.try,
	}
	return w
}

// batchRow is a row and where it stood in the caller's batch, with its check's id as two numbers: sorting is the largest
// part of what a batch costs here, and comparing bytes behind a pointer most of that.
type batchRow struct {
	*Result
	high, low uint64
	index     int
}

func newBatchRow(r *Result, index int) batchRow {
	return batchRow{
		Result: r, index: index,
		high: binary.BigEndian.Uint64(r.CheckID[:8]), low: binary.BigEndian.Uint64(r.CheckID[8:]),
	}
}

// compareKeys is the order in which every transaction of ours touches rows, so that no two wait for each other in a
// circle. It is also the order of the key's index.
func compareKeys(a, b *batchRow) int {
	switch {
	case a.high != b.high:
		return cmp.Compare(a.high, b.high)
	case a.low != b.low:
		return cmp.Compare(a.low, b.low)
	case a.Location != b.Location:
		return strings.Compare(a.Location, b.Location)
	}
	return a.ScheduledAt.Compare(b.ScheduledAt)
}

// ErrForeign is why a row is refused that names another organization than its check is known to belong to.
var ErrForeign = errors.New("check of another organization")

// Write commits the rows, all that are not refused, before it returns nil. On an error, which [Classify] names, some
// parts of the batch may be committed; writing the same rows again does no harm. Per identity the first real outcome
// stays, and a real one replaces a missed marker.
//
// redelivered says that some of the rows may have been written before; the batch then takes the slower way that
// expects it at once, instead of after a failed attempt.
func (w *ResultWriter) Write(ctx context.Context, rows []Result, redelivered bool) (Written, error) {
	if len(rows) == 0 {
		return Written{}, nil
	}
	var written Written
	foreign := w.states.foreign(rows)
	for _, row := range foreign {
		written.Refused = append(written.Refused, Refused{Row: row, Err: ErrForeign})
	}
	batch := sortBatch(rows, foreign)
	if len(batch) == 0 {
		return written, nil
	}
	written.Duplicates = len(rows) - len(foreign) - len(batch)
	err := w.batches.write(ctx, batch, redelivered, &written)
	return written, err
}

// sortBatch brings the rows into key order, one per key, without those at the indices to leave out, which ascend.
func sortBatch(rows []Result, without []int) []batchRow {
	batch := make([]batchRow, 0, len(rows))
	for i := range rows {
		if len(without) > 0 && without[0] == i {
			without = without[1:]
			continue
		}
		batch = append(batch, newBatchRow(&rows[i], i))
	}
	if len(batch) == 0 {
		return nil
	}
	slices.SortFunc(batch, func(a, b batchRow) int {
		if c := compareKeys(&a, &b); c != 0 {
			return c
		}
		return a.index - b.index
	})
	kept := batch[:1]
	for _, row := range batch[1:] {
		last := &kept[len(kept)-1]
		if compareKeys(last, &row) != 0 {
			kept = append(kept, row)
			continue
		}
		*last = merge(*last, row)
	}
	return kept
}

// merge is the rule for two results of one identity in memory; the statement of upsert is the same rule in SQL.
func merge(first, second batchRow) batchRow {
	kept := first
	if first.Missed && !second.Missed {
		kept = second
	}
	until := first.MissedUntil
	if second.MissedUntil.After(until) {
		until = second.MissedUntil
	}
	if until.Equal(kept.MissedUntil) {
		return kept
	}
	row := *kept.Result
	row.MissedUntil = until
	return newBatchRow(&row, kept.index)
}

// try is one transaction: the rows, their samples, and the states whose status they change.
func (w *ResultWriter) try(ctx context.Context, batch []batchRow, conflicts bool) (rows, samples int, err error) {
	mode, err := w.store.Mode(ctx)
	if err != nil {
		return 0, 0, err
	}
	folded := w.states.fold(batch)
	changed := make([]*stateRow, 0, 16)
	for i := range folded {
		if folded[i].changed {
			changed = append(changed, &folded[i].row)
		}
	}
	var figures []*Sample
	for i := range batch {
		for j := range batch[i].Samples {
			figures = append(figures, &batch[i].Samples[j])
		}
	}
	err = InTx(ctx, w.store, 0, func(ctx context.Context, tx pgx.Tx) error {
		if conflicts {
			rows, err = upsertResults(ctx, tx, batch)
		} else {
			rows, err = w.encoder.copyRows(ctx, tx, copyResultsSQL, len(batch), func(b []byte, i int) []byte {
				return appendResult(b, batch[i].Result)
			})
		}
		if err != nil {
			return fmt.Errorf("results: %w", err)
		}
		if samples, err = writeSamples(ctx, tx, &w.encoder, figures, conflicts, mode); err != nil {
			return err
		}
		return upsertStates(ctx, tx, changed)
	})
	if err == nil {
		w.states.commit(folded)
	}
	return rows, samples, err
}

const upsertResultsSQL = `
INSERT INTO server_health_checks AS t (` + resultColumns + `)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[],
    $6::bigint[], $7::bigint[], $8::integer[], $9::integer[], $10::smallint[], $11::smallint[],
    $12::boolean[], $13::boolean[], $14::boolean[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[],
    $20::jsonb[])
ON CONFLICT (check_id, location, scheduled_at) DO UPDATE SET
    started_at = excluded.started_at,
    missed_until = greatest(t.missed_until, excluded.missed_until),
    certificate_not_after = excluded.certificate_not_after,
    stream_epoch = excluded.stream_epoch, stream_seq = excluded.stream_seq,
    latency_us = excluded.latency_us, revision = excluded.revision,
    status = excluded.status, http_status = excluded.http_status,
    missed = excluded.missed, on_demand = excluded.on_demand, connection_reused = excluded.connection_reused,
    instance = excluded.instance, reason = excluded.reason, message = excluded.message, details = excluded.details
WHERE t.missed AND NOT excluded.missed`

// extendMarkersSQL keeps what a marker of several ticks says about the later ones when its own tick has a row already.
const extendMarkersSQL = `
UPDATE server_health_checks t SET missed_until = m.missed_until
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[]) AS m (check_id, location, scheduled_at, missed_until)
WHERE t.check_id = m.check_id AND t.location = m.location AND t.scheduled_at = m.scheduled_at
  AND (t.missed_until IS NULL OR t.missed_until < m.missed_until)`

// upsertResults is the way for batches of which some rows may be there.
func upsertResults(ctx context.Context, tx pgx.Tx, batch []batchRow) (int, error) {
	c := newResultArrays(batch)
	tag, err := tx.Exec(ctx, upsertResultsSQL, c.checkID, c.scheduledAt, c.startedAt, c.missedUntil, c.certificate,
		c.epoch, c.seq, c.latency, c.revision, c.status, c.httpStatus, c.missed, c.onDemand, c.reused,
		c.org, c.location, c.instance, c.reason, c.message, c.details)
	if err != nil {
		return 0, fmt.Errorf("upsert results: %w", err)
	}
	rows := int(tag.RowsAffected())
	var spans []batchRow
	for _, row := range batch {
		if row.Missed && !row.MissedUntil.IsZero() {
			spans = append(spans, row)
		}
	}
	if len(spans) == 0 || rows == len(batch) {
		return rows, nil
	}
	m := newResultArrays(spans)
	if _, err := tx.Exec(ctx, extendMarkersSQL, m.checkID, m.location, m.scheduledAt, m.missedUntil); err != nil {
		return 0, fmt.Errorf("extend markers: %w", err)
	}
	return rows, nil
}
