package store

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// migrated is a database with the whole schema, made once and copied for each test.
var migrated = embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
	s, err := Open(ctx, Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
})

// newStore is a store on a database of the test's own, with the whole schema.
func newStore(t testing.TB) *Store {
	t.Helper()
	return openStore(t, migrated.Postgres(t).URL)
}

// newPlainStore is newStore in plain mode, whatever the server offers.
func newPlainStore(t testing.TB) *Store {
	t.Helper()
	s := openStore(t, plain(embeddedtest.Postgres(t).URL))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func openStore(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{URL: url, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// plain makes a connection string ask for plain mode.
func plain(url string) string {
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	return url + separator + "picket.mode=plain"
}

// query returns one value.
func query[T any](t testing.TB, s *Store, sql string, args ...any) T {
	t.Helper()
	var value T
	if err := s.pool.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func exec(t testing.TB, s *Store, sql string, args ...any) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// TestPingOfABusyStore: readers that take every connection do not make the database look as if it were away, or a busy
// api would answer that it is.
func TestPingOfABusyStore(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Options{URL: embeddedtest.Postgres(t).URL, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = InTx(t.Context(), s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT 1`); err != nil {
			return err
		}
		return s.Ping(ctx)
	})
	if err != nil {
		t.Errorf("with every connection in use: %v", err)
	}
}
