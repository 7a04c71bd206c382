package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// DefaultMaxConns bounds the pool of one process unless told otherwise.
	DefaultMaxConns = 8

	connectTimeout = 5 * time.Second
	pingTimeout    = time.Second
	// serverStatementTimeout ends at the server what a client that went away left running. It is longer than every
	// client deadline, so that the client always gives up first and knows that it did.
	serverStatementTimeout = "30s"
)

// Options says how [Open] reaches the database.
type Options struct {
	// URL is a PostgreSQL connection string, URL or key=value form; required.
	URL string
	// Log takes what happens without a caller; nil discards it.
	Log *slog.Logger
	// MaxConns bounds the pool; 0 is [DefaultMaxConns]. One more connection asks whether the database answers.
	MaxConns int
}

// Store is Picket's database. It is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	// pings holds the one connection of Ping.
	pings *pgxpool.Pool
	log   *slog.Logger
	mode  atomic.Pointer[Mode]
}

// Open prepares a pool and connects to nothing: it succeeds while the database is away, and fails only for a connection
// string that cannot be read. The caller must [Store.Close] it.
func Open(ctx context.Context, opts Options) (*Store, error) {
	config, err := pgxpool.ParseConfig(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	config.MaxConns = DefaultMaxConns
	if opts.MaxConns > 0 {
		config.MaxConns = int32(min(opts.MaxConns, 1000))
	}
	prepare(config.ConnConfig)
	config.ConnConfig.RuntimeParams["statement_timeout"] = serverStatementTimeout
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = serverStatementTimeout

	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	config = config.Copy()
	config.MaxConns, config.MinConns = 1, 0
	// The pool would ask too, before it hands out a connection that has rested for a second.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pings, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{pool: pool, pings: pings, log: log}, nil
}

// prepare sets what every connection of ours has in common.
func prepare(config *pgx.ConnConfig) {
	config.ConnectTimeout = connectTimeout
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "picket"
	}
	config.RuntimeParams["timezone"] = "UTC"
	// Our statements are short, and partitions make them look long: compiling one took longer than running it.
	config.RuntimeParams["jit"] = "off"
}

// MaxConns is how many statements can run at a time.
func (s *Store) MaxConns() int { return int(s.pool.Config().MaxConns) }

// Close gives all connections back. It waits for those in use.
func (s *Store) Close() {
	s.pings.Close()
	s.pool.Close()
}

// Now is the database's time. What is deleted, or made for a month to come, goes by it: it is one clock for all who do
// that, and that of the process may be wrong.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var now time.Time
	if err := s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("ask for the time: %w", err)
	}
	return now, nil
}

// Ping asks the database for an answer and waits at most a second for it, so that a frozen database is noticed. It has a
// connection of its own: that all others are busy says nothing of the database.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := s.pings.Ping(ctx)
	if err != nil && ctx.Err() == nil {
		err = s.pings.Ping(ctx) // on another connection: that one was cut says nothing of the server
	}
	if err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	return nil
}

// Mode says how the database keeps time series. It is decided and recorded by the first migration.
type Mode string

// The two modes.
const (
	// ModePlain: PostgreSQL alone, monthly partitions.
	ModePlain Mode = "plain"
	// ModeTimescale: hypertables of the TimescaleDB extension.
	ModeTimescale Mode = "timescale"
)

// Mode reads how this database keeps time series; it never changes, so it is asked once. The error matches
// [ErrNoSchema] before the first migration.
func (s *Store) Mode(ctx context.Context) (Mode, error) {
	if known := s.mode.Load(); known != nil {
		return *known, nil
	}
	var mode Mode
	err := s.pool.QueryRow(ctx, `SELECT value FROM picket_meta WHERE key = 'mode'`).Scan(&mode)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || sqlState(err) == undefinedTable:
		return "", fmt.Errorf("read mode: %w", ErrNoSchema)
	case err != nil:
		return "", fmt.Errorf("read mode: %w", err)
	}
	s.mode.Store(&mode)
	return mode, nil
}
