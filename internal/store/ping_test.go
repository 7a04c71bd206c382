package store

import "testing"

// TestPingAfterACut: a server that answers is well, though it has cut the connection that was asked before.
func TestPingAfterACut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for range 3 {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		var cut int
		err := s.pool.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&cut)
		if err != nil || cut != 1 {
			t.Fatalf("%d connections cut, %v", cut, err)
		}
	}
}
