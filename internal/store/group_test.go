package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/catalog"
)

func makeGroup(t testing.TB, s *Store, org, name string, selector *Selector) Group {
	t.Helper()
	group, err := s.CreateGroup(t.Context(), Group{Org: org, Name: name, Selector: selector}, Idempotency{},
		Audit{Org: org, Actor: "test", Action: "group.create", TargetKind: "group"})
	if err != nil {
		t.Fatal(err)
	}
	return group
}

// TestGroupsOfLargeFleets: a selector over ten thousand servers is a matter of milliseconds.
func TestGroupsOfLargeFleets(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	exec(t, s, `INSERT INTO managed_servers (org, name, managed_by, region, environment, tags)
		SELECT 'default', 'server-' || n, 'api', 'region-' || n % 10, 'env-' || n % 3, ARRAY['tag-' || n % 7, 'all']
		FROM generate_series(1, 10000) n`)
	exec(t, s, `ANALYZE managed_servers`)
	group := makeGroup(t, s, "default", "g", &Selector{TagsAll: []string{"all", "tag-3"}, Regions: []string{"region-1", "region-2"}})
	want := 0
	for n := 1; n <= 10000; n++ {
		if n%7 == 3 && (n%10 == 1 || n%10 == 2) {
			want++
		}
	}
	if group.Members != want {
		t.Errorf("%d members, want %d", group.Members, want)
	}
	var took []time.Duration
	for range 9 {
		started := time.Now()
		q := ServerQuery{Org: "default", GroupID: group.ID, Limit: 500}
		servers, err := s.ListServers(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		total, err := s.CountServers(t.Context(), q)
		if err != nil || total != want || len(servers) != want {
			t.Fatalf("%d of %d, %v", len(servers), total, err)
		}
		took = append(took, time.Since(started))
	}
	if fastest := slices.Min(took); fastest > 500*time.Millisecond {
		t.Errorf("a page of the group took %s at best", fastest)
	}
}

// TestGroupsStayInTheirOrganization: a selector finds nobody else's servers, and no id of another reaches a group.
func TestGroupsStayInTheirOrganization(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	become(t, s, catalog.SourceAPI,
		declared(catalog.SourceAPI, "a", func(s *catalog.Server) { s.Org = "one" }),
		declared(catalog.SourceAPI, "b", func(s *catalog.Server) { s.Org = "two" }))
	group := makeGroup(t, s, "one", "all", &Selector{})
	if group.Members != 1 {
		t.Errorf("%d members", group.Members)
	}
	entry := Audit{Org: "two", Actor: "test", Action: "x", TargetKind: "group"}
	if err := s.AddMember(t.Context(), "two", group.ID, "b", entry); !errors.Is(err, ErrNotFound) {
		t.Errorf("add to a foreign group: %v", err)
	}
	if err := s.AddMember(t.Context(), "one", group.ID, "b", entry); !errors.Is(err, ErrNotFound) {
		t.Errorf("add a foreign server: %v", err)
	}
	if _, err := s.Group(t.Context(), "two", group.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if err := s.DeleteGroup(t.Context(), "two", group.ID, func(Group) error { return nil }, entry); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
}

// TestBootstrapToken: it holds at every start, takes the place of the one before, and does not undo a revocation.
func TestBootstrapToken(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	first, second := NewTokenSecret(), NewTokenSecret()
	entry := Audit{Org: "default", Actor: "test", Action: "token.revoke", TargetKind: "token"}
	for range 2 {
		if err := s.BootstrapToken(t.Context(), "default", first); err != nil {
			t.Fatal(err)
		}
	}
	token, err := s.LookupToken(t.Context(), first.ID)
	if err != nil || token.Role != Admin || token.Hash != first.Hash() || !token.RevokedAt.IsZero() {
		t.Fatalf("token %+v, %v", token, err)
	}
	if err := s.BootstrapToken(t.Context(), "default", second); err != nil {
		t.Fatal(err)
	}
	if token, err = s.LookupToken(t.Context(), first.ID); err != nil || token.RevokedAt.IsZero() {
		t.Errorf("the one before still holds: %+v, %v", token, err)
	}
	if err := s.RevokeToken(t.Context(), "default", second.ID, entry); err != nil {
		t.Fatal(err)
	}
	if err := s.BootstrapToken(t.Context(), "default", second); !errors.Is(err, ErrEnded) {
		t.Errorf("a revoked token came back: %v", err)
	}
	other, err := s.CreateToken(t.Context(), Token{ID: "abcdefgh12345678", Org: "default", Role: Viewer, Hash: first.Hash()}, entry)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := ParseTokenSecret("pk_" + other.ID + "_" + fmt.Sprintf("%032d", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.BootstrapToken(t.Context(), "default", taken); !errors.Is(err, ErrExists) {
		t.Errorf("somebody's token became an admin's: %v", err)
	}
}

func TestTokenForm(t *testing.T) {
	t.Parallel()
	made := NewTokenSecret()
	again, err := ParseTokenSecret(made.Reveal())
	if err != nil || again != made {
		t.Errorf("%v, %v", again, err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", made, made, made, made); strings.Contains(text, made.secret) {
		t.Errorf("printed %q", text)
	}
	for _, bad := range []string{"", "pk_", made.Reveal() + "\n", "pk_short_" + made.secret, "pk_abcdefgh_short", "PK" + made.Reveal()[2:]} {
		if _, err := ParseTokenSecret(bad); !errors.Is(err, ErrTokenForm) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestPruneIdempotency: what has run out goes, and of what has not the oldest when there is too much.
func TestPruneIdempotency(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	exec(t, s, `INSERT INTO idempotency_keys (org, key, resource, fingerprint, created_at, expires_at)
		SELECT 'many', 'k' || n, 'r', '\x00', now() - n * interval '1 second', now() + interval '1 hour'
		FROM generate_series(1, $1 + 5) n`, maxIdempotencyKeys)
	exec(t, s, `INSERT INTO idempotency_keys (org, key, resource, fingerprint, expires_at) VALUES ('few', 'old', 'r', '\x00', now()), ('few', 'new', 'r', '\x00', now() + interval '1 hour')`)
	if err := s.PruneIdempotency(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query[int](t, s, `SELECT count(*) FROM idempotency_keys WHERE org = 'many'`); got != maxIdempotencyKeys {
		t.Errorf("%d left of too many", got)
	}
	if got := query[int](t, s, `SELECT count(*) FROM idempotency_keys WHERE org = 'many' AND key = 'k1'`); got != 1 {
		t.Error("the newest went")
	}
	if got := query[string](t, s, `SELECT string_agg(key, ' ') FROM idempotency_keys WHERE org = 'few'`); got != "new" {
		t.Errorf("left %q", got)
	}
}
