package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/catalog"
)

func TestLease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	acquire := func(owner string, ttl time.Duration) (Lease, error) {
		return s.AcquireLease(t.Context(), "catalog", owner, ttl)
	}
	first, err := acquire("one", time.Hour)
	if err != nil || first.Epoch != 1 {
		t.Fatal(first, err)
	}
	if _, err := acquire("two", time.Hour); !errors.Is(err, ErrLeaseLost) {
		t.Fatalf("a held lease was given away: %v", err)
	}
	if again, err := acquire("one", time.Hour); err != nil || again != first {
		t.Fatal(again, err)
	}
	plan, _ := catalog.Diff(catalog.SourceFile, []catalog.Server{declared(catalog.SourceFile, "a")}, nil)
	if _, err := s.ApplyCatalog(t.Context(), plan, &first); err != nil {
		t.Fatal(err)
	}
	// The holder hangs: its time runs out and the next one takes over.
	exec(t, s, `UPDATE leases SET expires_at = clock_timestamp() - interval '1 millisecond'`)
	if _, err := s.ApplyCatalog(t.Context(), catalog.Plan{}, &first); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("applied with a lease that ran out: %v", err)
	}
	second, err := acquire("two", time.Hour)
	if err != nil || second.Epoch != 2 {
		t.Fatal(second, err)
	}
	if _, err := s.ApplyCatalog(t.Context(), catalog.Plan{}, &first); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("applied with a lost lease: %v", err)
	}
	if err := s.ReleaseLease(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := acquire("three", time.Hour); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("who lost a lease released it: %v", err)
	}
	if err := s.ReleaseLease(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if third, err := acquire("three", time.Hour); err != nil || third.Epoch != 3 {
		t.Error(third, err)
	}
}

// A plan that takes longer than the lease lasts must not keep its own holder from renewing it.
func TestApplyCatalogLetsTheLeaseBeRenewed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lease, err := s.AcquireLease(t.Context(), "catalog", "one", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	loaded := become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"))
	plan, _ := catalog.Diff(catalog.SourceFile, nil, loaded.Servers)
	blocked, release := make(chan struct{}), make(chan struct{})
	go func() {
		_ = InTx(context.WithoutCancel(t.Context()), s, time.Minute, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `SELECT FROM managed_servers FOR UPDATE`)
			close(blocked)
			<-release
			return err
		})
	}()
	<-blocked
	applied := make(chan error, 1)
	go func() {
		_, err := s.ApplyCatalog(context.WithoutCancel(t.Context()), plan, &lease)
		applied <- err
	}()
	for query[int](t, s, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 {
		if t.Context().Err() != nil {
			t.Fatal("the plan never waited")
		}
	}
	if _, err := s.AcquireLease(t.Context(), "catalog", "one", time.Hour); err != nil {
		t.Errorf("renewed: %v", err)
	}
	close(release)
	if err := <-applied; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() { done <- s.Listen(ctx, ChannelCatalog, func() { heard <- struct{}{} }) }()
	await := func(what string) {
		t.Helper()
		select {
		case <-heard:
		case <-time.After(20 * time.Second):
			t.Fatalf("heard nothing of %s", what)
		}
	}
	await("the connection")
	become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"))
	await("a change")
	// What the writer keeps is no change. The next thing heard is the lost connection.
	exec(t, s, `UPDATE managed_servers SET health_status = 'healthy', last_seen_at = now(), last_health_check_at = now()`)
	exec(t, s, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
	await("a new connection")
	exec(t, s, `UPDATE managed_servers SET tags = '{x}'`)
	await("a change by hand")
	if n := len(heard); n != 0 {
		t.Errorf("heard %d times too often", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
