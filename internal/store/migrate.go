package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// schemaPoll is how often WaitForSchema looks.
	schemaPoll = 500 * time.Millisecond
	// Two processes that start together take turns; the second may wait this long for the first.
	migrateLockPeriodSeconds = 1
	migrateLockTries         = 600
)

// Migrate brings the schema to this program's version: what is missing is applied in order, one transaction each, under
// a lock of the session, so that any number of processes may call it at once. Migrations only go forward. The first one
// decides between TimescaleDB and plain PostgreSQL and records it.
func (s *Store) Migrate(ctx context.Context) error {
	provider, db, err := s.provider()
	if err != nil {
		return err
	}
	results, err := provider.Up(ctx)
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, result := range results {
		s.log.InfoContext(ctx, "migration applied", "version", result.Source.Version, "duration", result.Duration)
	}
	return nil
}

// provider opens its own connections: a migration may take longer than any statement of ours otherwise.
func (s *Store) provider() (*goose.Provider, *sql.DB, error) {
	config := s.pool.Config().ConnConfig.Copy()
	delete(config.RuntimeParams, "statement_timeout")
	delete(config.RuntimeParams, "idle_in_transaction_session_timeout")
	// Migrations hold several statements each; the simple protocol takes them as they are.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	db := stdlib.OpenDB(*config)

	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(migrateLockPeriodSeconds, migrateLockTries))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("migrate: %w", err), db.Close())
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("migrate: %w", err), db.Close())
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("migrate: %w", err), db.Close())
	}
	return provider, db, nil
}

// SchemaVersion is the version of this program's schema: the number of its newest migration.
func SchemaVersion() int64 {
	entries, err := migrations.ReadDir("migrations")
	if err != nil {
		panic("store: migrations are not embedded: " + err.Error())
	}
	var newest int64
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		if version, err := strconv.ParseInt(number, 10, 64); err == nil {
			newest = max(newest, version)
		}
	}
	return newest
}

// CheckSchema returns nil when the database has this program's schema or a newer one, and an error that matches
// [ErrNoSchema] when it is older.
func (s *Store) CheckSchema(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var version int64
	err := s.pool.QueryRow(ctx,
		`SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&version)
	switch {
	case sqlState(err) == undefinedTable:
		version = 0
	case err != nil:
		return fmt.Errorf("check schema: %w", err)
	}
	if own := SchemaVersion(); version < own {
		return fmt.Errorf("check schema: %w: version %d, need %d", ErrNoSchema, version, own)
	}
	return nil
}

// WaitForSchema returns when the database answers and has this program's schema or a newer one. It waits as long as ctx
// lasts, says once what it waits for, and returns only ctx's error.
func (s *Store) WaitForSchema(ctx context.Context) error {
	ticker := time.NewTicker(schemaPoll)
	defer ticker.Stop()
	said := false
	for {
		err := s.CheckSchema(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for schema: %w", context.Cause(ctx))
		}
		if !said {
			said = true
			s.log.InfoContext(ctx, "waiting for the database schema", "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for schema: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
