package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrLeaseLost says that somebody else holds the lease now.
var ErrLeaseLost = errors.New("lease lost")

// Lease is work that one process does at a time. It ends when its holder does not renew it in time, by the database's
// clock, so that a holder that hangs loses it.
type Lease struct {
	Name  string
	Owner string
	// Epoch grows with every change of owner.
	Epoch int64
}

// AcquireLease takes a lease that is free or expired, or renews it, for ttl from now on. The error matches ErrLeaseLost
// when another owner holds it. Owners must be unique among the living.
func (s *Store) AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	lease := Lease{Name: name, Owner: owner}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO leases AS l (name, owner, epoch, expires_at) VALUES ($1, $2, 1, clock_timestamp() + $3::interval)
		ON CONFLICT (name) DO UPDATE SET
		    owner = excluded.owner,
		    epoch = l.epoch + CASE WHEN l.owner = excluded.owner THEN 0 ELSE 1 END,
		    expires_at = clock_timestamp() + $3::interval
		WHERE l.owner = excluded.owner OR l.expires_at < clock_timestamp()
		RETURNING epoch`, name, owner, ttl).Scan(&lease.Epoch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Lease{}, fmt.Errorf("acquire lease %s: %w", name, ErrLeaseLost)
	case err != nil:
		return Lease{}, fmt.Errorf("acquire lease %s: %w", name, err)
	}
	return lease, nil
}

// ReleaseLease lets the next one have it at once. A lease that is lost already is no error.
func (s *Store) ReleaseLease(ctx context.Context, lease Lease) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `UPDATE leases SET expires_at = '-infinity' WHERE name = $1 AND owner = $2 AND epoch = $3`,
		lease.Name, lease.Owner, lease.Epoch)
	if err != nil {
		return fmt.Errorf("release lease %s: %w", lease.Name, err)
	}
	return nil
}

// holdLease makes sure that the lease is held until the transaction ends: nobody can take it meanwhile, nor renew it.
func holdLease(ctx context.Context, tx pgx.Tx, lease Lease) error {
	var held bool
	err := tx.QueryRow(ctx, `
		SELECT expires_at > clock_timestamp() FROM leases WHERE name = $1 AND owner = $2 AND epoch = $3 FOR SHARE`,
		lease.Name, lease.Owner, lease.Epoch).Scan(&held)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || err == nil && !held:
		return fmt.Errorf("hold lease %s: %w", lease.Name, ErrLeaseLost)
	case err != nil:
		return fmt.Errorf("hold lease %s: %w", lease.Name, err)
	}
	return nil
}
