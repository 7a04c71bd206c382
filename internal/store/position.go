package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// SavePosition keeps how far a consumer has stored a stream. It only moves forward, within a life of the stream and from
// one to the next, so that replicas may all say how far they are.
func (s *Store) SavePosition(ctx context.Context, stream, consumer string, at Position) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		INSERT INTO stream_positions AS p (stream, consumer, stream_epoch, stream_seq, stored_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (stream, consumer) DO UPDATE SET
		    stream_epoch = excluded.stream_epoch, stream_seq = excluded.stream_seq, stored_at = excluded.stored_at
		WHERE (p.stream_epoch, p.stream_seq) < (excluded.stream_epoch, excluded.stream_seq)`,
		stream, consumer, at.Epoch, at.Seq, at.At)
	if err != nil {
		return fmt.Errorf("save position in %s: %w", stream, err)
	}
	return nil
}

// LoadPosition returns what SavePosition kept; zero when that is nothing.
func (s *Store) LoadPosition(ctx context.Context, stream, consumer string) (Position, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var at Position
	err := s.pool.QueryRow(ctx, `SELECT stream_epoch, stream_seq, stored_at FROM stream_positions WHERE stream = $1 AND consumer = $2`,
		stream, consumer).Scan(&at.Epoch, &at.Seq, &at.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, fmt.Errorf("load position in %s: %w", stream, err)
	}
	return at, nil
}
