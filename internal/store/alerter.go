package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The alerter's cursor, memory and lease are one row per stream and its chunks. The lease here is not one of [Store.AcquireLease]:
// it lives in the row that every commit changes anyway, so that being fenced off costs nothing.

// StreamPosition is a place in a stream: the last event that was dealt with.
type StreamPosition struct {
	Epoch int64 // creation of the stream, Unix nanoseconds; 0: no stream yet
	Seq   int64
}

// SnapshotChunk is a part of the alerter's memory. No data: the chunk goes.
type SnapshotChunk struct {
	ID   int32
	Data []byte
}

// AlerterMemory is what an alerter starts from, as one consistent whole.
type AlerterMemory struct {
	Cursor   StreamPosition // everything up to here is committed
	EventAt  time.Time      // stream time of the cursor; zero before the first event
	Snapshot StreamPosition // at or before the cursor
	Chunks   []SnapshotChunk
	Alerts   []Alert // those not closed, as of the cursor
}

// AlerterCommit is what a run of events brought about.
type AlerterCommit struct {
	From, To StreamPosition
	EventAt  time.Time
	Alerts   []Alert      // in the order of their last transition, each once
	Events   []AlertEvent // in the order of the stream
	Gaps     []StreamGap
}

// AcquireAlerter takes the right to fold a stream when it is free or expired (by the database's clock) or was this owner's,
// for ttl. Every acquisition is a new epoch: what an earlier one left under way can commit nothing. The error matches
// [ErrLeaseLost] while somebody else holds it.
func (s *Store) AcquireAlerter(ctx context.Context, stream, owner string, ttl time.Duration) (Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	lease := Lease{Name: stream, Owner: owner}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO alerter_state AS a (stream, epoch, lease_owner, lease_until) VALUES ($1, 1, $2, clock_timestamp() + $3)
		ON CONFLICT (stream) DO UPDATE SET
		    epoch = a.epoch + 1, lease_owner = excluded.lease_owner, lease_until = clock_timestamp() + $3
		WHERE a.lease_until < clock_timestamp() OR a.lease_owner = excluded.lease_owner
		RETURNING epoch`, stream, owner, ttl).Scan(&lease.Epoch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Lease{}, fmt.Errorf("acquire alerter: %w", ErrLeaseLost)
	case err != nil:
		return Lease{}, fmt.Errorf("acquire alerter: %w", err)
	}
	return lease, nil
}

// RenewAlerter holds the right for ttl from now on; the error matches [ErrLeaseLost] when somebody took over.
func (s *Store) RenewAlerter(ctx context.Context, lease Lease, ttl time.Duration) error {
	return s.touchAlerter(ctx, "renew alerter", lease, `clock_timestamp() + $3`, ttl)
}

// ReleaseAlerter lets the next one take over at once. A right that is lost already is no error.
func (s *Store) ReleaseAlerter(ctx context.Context, lease Lease) error {
	err := s.touchAlerter(ctx, "release alerter", lease, `'-infinity'`)
	if errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}

func (s *Store) touchAlerter(ctx context.Context, what string, lease Lease, until string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `UPDATE alerter_state SET lease_until = `+until+` WHERE stream = $1 AND epoch = $2`,
		append([]any{lease.Name, lease.Epoch}, args...)...)
	return fenced(what, tag.RowsAffected(), err)
}

// fenced turns the outcome of a statement that must change a row of alerter_state into an error.
func fenced(what string, rows int64, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case rows == 0:
		return fmt.Errorf("%s: %w", what, ErrLeaseLost)
	}
	return nil
}

// LoadAlerter reads the memory, all of it at one instant.
func (s *Store) LoadAlerter(ctx context.Context, lease Lease) (AlerterMemory, error) {
	var memory AlerterMemory
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY`); err != nil {
			return fmt.Errorf("load alerter: %w", err)
		}
		var at *time.Time
		err := tx.QueryRow(ctx, `
			SELECT stream_created, seq, event_at, snapshot_created, snapshot_seq FROM alerter_state
			WHERE stream = $1 AND epoch = $2`, lease.Name, lease.Epoch).
			Scan(&memory.Cursor.Epoch, &memory.Cursor.Seq, &at, &memory.Snapshot.Epoch, &memory.Snapshot.Seq)
		if errors.Is(err, pgx.ErrNoRows) {
			err = ErrLeaseLost
		}
		if err != nil {
			return fmt.Errorf("load alerter: %w", err)
		}
		memory.EventAt = orZero(at)
		rows, err := tx.Query(ctx, `SELECT chunk, data FROM alerter_snapshots WHERE stream = $1 ORDER BY chunk`, lease.Name)
		if err != nil {
			return fmt.Errorf("load alerter: %w", err)
		}
		if memory.Chunks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[SnapshotChunk]); err != nil {
			return fmt.Errorf("load alerter: %w", err)
		}
		memory.Alerts, err = activeAlerts(ctx, tx)
		return err
	})
	return memory, err
}

// CommitAlerter makes a run of events final: the transitions, what is to be published and the cursor, all or nothing, and
// only if the lease holds and the cursor is where the run began; else the error matches [ErrLeaseLost].
func (s *Store) CommitAlerter(ctx context.Context, lease Lease, c AlerterCommit) error {
	return InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE alerter_state SET seq = $1, event_at = $2
			WHERE stream = $3 AND epoch = $4 AND stream_created = $5 AND seq = $6`,
			c.To.Seq, c.EventAt, lease.Name, lease.Epoch, c.From.Epoch, c.From.Seq)
		if err := fenced("commit alerter", tag.RowsAffected(), err); err != nil {
			return err
		}
		for _, gap := range c.Gaps {
			if err := insertGap(ctx, tx, gap); err != nil {
				return err
			}
		}
		return writeAlerts(ctx, tx, c.Alerts, c.Events)
	})
}

// MoveAlerter puts the cursor elsewhere without dealing with what lies between: the stream was made anew or rolled back. The
// snapshot counts from there on too. gap is what is lost; nil when nothing is.
func (s *Store) MoveAlerter(ctx context.Context, lease Lease, from, to StreamPosition, gap *StreamGap) error {
	return InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE alerter_state SET stream_created = $1, seq = $2,
			    snapshot_created = $1, snapshot_seq = CASE WHEN snapshot_created = $1 THEN least(snapshot_seq, $2) ELSE $2 END
			WHERE stream = $3 AND epoch = $4 AND stream_created = $5 AND seq = $6`,
			to.Epoch, to.Seq, lease.Name, lease.Epoch, from.Epoch, from.Seq)
		if err := fenced("move alerter", tag.RowsAffected(), err); err != nil || gap == nil {
			return err
		}
		return insertGap(ctx, tx, *gap)
	})
}

// SaveAlerterSnapshot stores the chunks that changed since the last snapshot, or all there are when whole is set, as the
// memory after the event at. The error matches [ErrLeaseLost] when the lease does not hold or the cursor is not there yet.
func (s *Store) SaveAlerterSnapshot(ctx context.Context, lease Lease, at StreamPosition, chunks []SnapshotChunk, whole bool) error {
	var gone, ids []int32
	var data [][]byte
	for _, c := range chunks {
		if len(c.Data) == 0 {
			gone = append(gone, c.ID)
			continue
		}
		ids, data = append(ids, c.ID), append(data, c.Data)
	}
	return InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		if whole {
			batch.Queue(`DELETE FROM alerter_snapshots WHERE stream = $1`, lease.Name)
		} else if len(gone) > 0 {
			batch.Queue(`DELETE FROM alerter_snapshots WHERE stream = $1 AND chunk = ANY ($2)`, lease.Name, gone)
		}
		batch.Queue(`
			INSERT INTO alerter_snapshots (stream, chunk, data) SELECT $1, * FROM unnest($2::integer[], $3::bytea[])
			ON CONFLICT (stream, chunk) DO UPDATE SET data = excluded.data`, lease.Name, ids, data)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("save alerter snapshot: %w", err)
		}
		// Last, so that commits of the cursor wait for as short as can be.
		tag, err := tx.Exec(ctx, `
			UPDATE alerter_state SET snapshot_created = $1, snapshot_seq = $2
			WHERE stream = $3 AND epoch = $4 AND stream_created = $1 AND seq >= $2`, at.Epoch, at.Seq, lease.Name, lease.Epoch)
		return fenced("save alerter snapshot", tag.RowsAffected(), err)
	})
}
