package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// TestMigrateLadder climbs from an empty database one version at a time, in the mode that the server offers and in
// plain mode.
func TestMigrateLadder(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{ModePlain, ModeTimescale} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			url := embeddedtest.Postgres(t).URL
			if mode == ModePlain {
				url = plain(url)
			}
			s := openStore(t, url)
			if mode == ModeTimescale {
				needTimescale(t, s)
			}
			if _, err := s.Mode(t.Context()); !errors.Is(err, ErrNoSchema) {
				t.Errorf("mode of an empty database: %v, want ErrNoSchema", err)
			}
			provider, db, err := s.provider()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}()
			for version := range SchemaVersion() {
				if err := s.CheckSchema(t.Context()); !errors.Is(err, ErrNoSchema) {
					t.Fatalf("below version %d: %v, want ErrNoSchema", version+1, err)
				}
				if _, err := provider.UpTo(t.Context(), version+1); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CheckSchema(t.Context()); err != nil {
				t.Error(err)
			}
			if got, err := s.Mode(t.Context()); err != nil || got != mode {
				t.Errorf("mode %q, %v, want %q", got, err, mode)
			}
			// The recorded mode stays, whatever is asked for later.
			again := openStore(t, plain(url))
			if err := again.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
			if got, err := again.Mode(t.Context()); err != nil || got != mode {
				t.Errorf("mode after another migration %q, %v, want %q", got, err, mode)
			}
		})
	}
}

func needTimescale(t *testing.T, s *Store) {
	t.Helper()
	if !query[bool](t, s, `SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
		AND current_setting('timescaledb.disable_load', true) IS NOT NULL`) {
		t.Skipf("NOT TESTED on TimescaleDB: the server has none; set %s to one that has", embeddedtest.DatabaseVariable)
	}
}

func TestTimescalePolicies(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	needTimescale(t, s)
	const policy = `SELECT count(*) FROM timescaledb_information.jobs
		WHERE hypertable_name = 'server_health_checks' AND proc_name = $1 AND (config ->> $2)::interval = $3::interval`
	if n := query[int](t, s, policy, "policy_compression", "compress_after", "26 hours"); n != 1 {
		t.Errorf("%d columnstore policies at 26 hours, want 1", n)
	}
	if n := query[int](t, s, policy, "policy_retention", "drop_after", "400 days"); n != 1 {
		t.Errorf("%d retention policies at 400 days, want 1", n)
	}
	// Late rows and conflicts find their chunk also when it is in the columnstore.
	w := s.NewResultWriter()
	rows := ticks(10, time.Now().Add(-time.Hour))
	write(t, w, rows)
	exec(t, s, `SELECT compress_chunk(c) FROM show_chunks('server_health_checks') c`)
	if got := write(t, w, rows); got.Duplicates != 10 || got.Rows != 0 {
		t.Errorf("into the columnstore: %+v, want 10 duplicates", got)
	}
}

func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := embeddedtest.Postgres(t).URL
	waited := make(chan error, 1)
	waiter := openStore(t, url)
	go func() { waited <- waiter.WaitForSchema(t.Context()) }()
	var group sync.WaitGroup
	for range 3 {
		s := openStore(t, url)
		group.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func TestOpenWithoutDatabase(t *testing.T) {
	t.Parallel()
	database := migrated.Postgres(t)
	proxy := embeddedtest.FaultProxy(t, database.Server)
	proxy.Freeze()
	s := openStore(t, database.Via(proxy.Addr()))
	start := time.Now()
	if err := s.Ping(t.Context()); Classify(err) != Unavailable {
		t.Errorf("ping of a frozen database: %v, class %v", err, Classify(err))
	}
	if waited := time.Since(start); waited > 2*time.Second {
		t.Errorf("ping of a frozen database took %v, promised 2s", waited)
	}
	proxy.Thaw()
	if err := s.WaitForSchema(t.Context()); err != nil {
		t.Error(err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped by the test"))
	empty := openStore(t, embeddedtest.Postgres(t).URL)
	if err := empty.WaitForSchema(ctx); err == nil {
		t.Error("waiting for a schema that is not there returned nil")
	}
}
