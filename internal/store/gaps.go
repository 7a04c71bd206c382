package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// StreamGap is a hole: sequences that were gone from a stream before a consumer read them.
type StreamGap struct {
	Stream, Consumer string
	StreamEpoch      int64 // creation of the stream, Unix nanoseconds
	FromSeq, ToSeq   int64 // both included
	From, To         time.Time
	Reason           string // such as overrun, recreated, rolled_back
}

// RecordGap keeps a gap; the same one twice is kept once.
func (s *Store) RecordGap(ctx context.Context, gap StreamGap) error {
	return InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error { return insertGap(ctx, tx, gap) })
}

// insertGap is RecordGap within a transaction.
func insertGap(ctx context.Context, q interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, gap StreamGap,
) error {
	_, err := q.Exec(ctx, `
		INSERT INTO stream_gaps (stream, consumer, stream_epoch, from_seq, to_seq, from_time, to_time, reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (stream, consumer, stream_epoch, from_seq, to_seq) DO NOTHING`,
		gap.Stream, gap.Consumer, gap.StreamEpoch, gap.FromSeq, gap.ToSeq, gap.From, gap.To, gap.Reason)
	if err != nil {
		return fmt.Errorf("record stream gap: %w", err)
	}
	return nil
}

// Gaps returns the gaps of a stream's consumer that touch [from, to), oldest first.
func (s *Store) Gaps(ctx context.Context, stream, consumer string, from, to time.Time) ([]StreamGap, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT stream, consumer, stream_epoch, from_seq, to_seq, from_time, to_time, reason
		FROM stream_gaps WHERE stream = $1 AND consumer = $2 AND to_time >= $3 AND from_time < $4
		ORDER BY from_time, id`, stream, consumer, from, to)
	if err != nil {
		return nil, fmt.Errorf("read stream gaps: %w", err)
	}
	gaps, err := pgx.CollectRows(rows, pgx.RowToStructByPos[StreamGap])
	if err != nil {
		return nil, fmt.Errorf("read stream gaps: %w", err)
	}
	return gaps, nil
}
