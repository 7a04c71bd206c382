package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	listenRetryMin = 250 * time.Millisecond
	listenRetryMax = 5 * time.Second
	// listenIdle is how long silence is taken for silence; then the server is asked whether it is still there.
	listenIdle = 15 * time.Second
)

// ChannelCatalog is notified with every change of the catalog.
const ChannelCatalog = "picket_catalog"

// Listen calls notify after every notification of a channel, and after every new connection, since something may have
// been said while there was none. It has a connection of its own, which it opens again for ever; it returns nil when
// ctx ends. notify must not block.
func (s *Store) Listen(ctx context.Context, channel string, notify func()) error {
	wait := listenRetryMin
	for ctx.Err() == nil {
		started := time.Now()
		err := s.listenOnce(ctx, channel, notify)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > listenRetryMax {
			wait = listenRetryMin
		}
		s.log.DebugContext(ctx, "listening interrupted, trying again", "channel", channel, "err", err, "wait", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, listenRetryMax)
	}
	return nil
}

func (s *Store) listenOnce(ctx context.Context, channel string, notify func()) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig.Copy())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() {
		// A server that does not answer must not hold up a stop.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	notify()
	for {
		idle, cancel := context.WithTimeout(ctx, listenIdle)
		_, err := conn.WaitForNotification(idle)
		cancel()
		switch {
		case err == nil:
			notify()
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && !conn.IsClosed():
			asking, cancel := context.WithTimeout(ctx, pingTimeout)
			err := conn.Ping(asking)
			cancel()
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
		default:
			return fmt.Errorf("listen: %w", err)
		}
	}
}
