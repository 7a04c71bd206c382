package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TxTimeout is the client deadline of a transaction unless told otherwise, begin to commit.
const TxTimeout = 10 * time.Second

// InTx runs fn in one transaction (read committed) on one connection. timeout bounds all of it, waiting for the
// connection included; 0 is [TxTimeout]. An error of fn rolls back and is returned as it is. When the deadline passes
// the connection is closed and never reused. A COMMIT whose answer did not come is an error that matches
// [ErrUnknownOutcome].
func InTx(ctx context.Context, s *Store, timeout time.Duration, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if timeout <= 0 {
		timeout = TxTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire connection: %w", err)
	}
	defer conn.Release()

	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	done := false
	defer func() {
		if done {
			return
		}
		// A rollback that needs the same patience as a slow server would outlast the deadline: it gets what is left,
		// and where that is nothing or the answer does not come, closing the connection rolls back too.
		if rollback := tx.Rollback(ctx); rollback != nil && !conn.Conn().IsClosed() {
			expired, stop := context.WithCancel(context.Background())
			stop()
			_ = conn.Conn().Close(expired)
		}
	}()
	if err := fn(ctx, tx); err != nil {
		return err
	}
	err = tx.Commit(ctx)
	if err == nil {
		done = true
		return nil
	}
	if commitAnswered(err) {
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

// commitAnswered says whether the server itself reported that the transaction was not committed. A server that ends
// the session (08, 57) may do so on either side of the commit.
func commitAnswered(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	server, ok := errors.AsType[*pgconn.PgError](err)
	return ok && classifyState(server) != Unavailable
}
