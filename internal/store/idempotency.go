package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// idempotencyFor is how long a request with an Idempotency-Key may be sent again.
	idempotencyFor = 24 * time.Hour
	// maxIdempotencyKeys bounds what is remembered for one organization; the oldest go first.
	maxIdempotencyKeys = 10_000
)

// Idempotency is the key under which a client may send a request again. The zero value is a request without one.
type Idempotency struct {
	Org, Key string
	// Fingerprint is a hash of what was asked for, and by whom.
	Fingerprint [sha256.Size]byte
}

// ErrKeyReused says that an idempotency key came before with another request.
var ErrKeyReused = errors.New("idempotency key was used for another request")

// ReplayError says that a request came before: Resource is what it made.
type ReplayError struct{ Resource string }

func (e *ReplayError) Error() string { return "request came before, it made " + e.Resource }

// CheckIdempotency returns nil when the key is new. The error is a [*ReplayError] when the same request came before, or matches
// [ErrKeyReused].
func (s *Store) CheckIdempotency(ctx context.Context, i Idempotency) error {
	if i.Key == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err := i.compare(s.pool.QueryRow(ctx, findIdempotencySQL, i.Org, i.Key))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return fmt.Errorf("check idempotency key: %w", err)
}

const findIdempotencySQL = `SELECT resource, fingerprint FROM idempotency_keys
WHERE org = $1 AND key = $2 AND expires_at > now()`

// compare is never nil.
func (i Idempotency) compare(row pgx.Row) error {
	var (
		resource    string
		fingerprint []byte
	)
	if err := row.Scan(&resource, &fingerprint); err != nil {
		return err
	}
	if !bytes.Equal(fingerprint, i.Fingerprint[:]) {
		return ErrKeyReused
	}
	return &ReplayError{Resource: resource}
}

// claim notes, first of all in the transaction that makes resource, that the key has made it. Another transaction with
// the same key is waited for; when it commits, the error is as that of CheckIdempotency.
func (i Idempotency) claim(ctx context.Context, tx pgx.Tx, resource string) error {
	if i.Key == "" {
		return nil
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO idempotency_keys AS k (org, key, resource, fingerprint, expires_at)
		VALUES ($1, $2, $3, $4, now() + $5::interval)
		ON CONFLICT (org, key) DO UPDATE SET resource = excluded.resource, fingerprint = excluded.fingerprint,
		    created_at = now(), expires_at = excluded.expires_at
		WHERE k.expires_at <= now()`, i.Org, i.Key, resource, i.Fingerprint[:], idempotencyFor)
	switch {
	case err != nil:
		return fmt.Errorf("claim idempotency key: %w", err)
	case tag.RowsAffected() == 1:
		return nil
	}
	return fmt.Errorf("claim idempotency key: %w", i.compare(tx.QueryRow(ctx, findIdempotencySQL, i.Org, i.Key)))
}

// PruneIdempotency forgets keys that have run out, and the oldest of an organization that has too many.
func (s *Store) PruneIdempotency(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		DELETE FROM idempotency_keys k USING (
		    SELECT org, key, expires_at, row_number() OVER (PARTITION BY org ORDER BY created_at DESC) AS age
		    FROM idempotency_keys
		) old
		WHERE k.org = old.org AND k.key = old.key AND (old.expires_at <= now() OR old.age > $1)`, maxIdempotencyKeys)
	if err != nil {
		return fmt.Errorf("prune idempotency keys: %w", err)
	}
	return nil
}
