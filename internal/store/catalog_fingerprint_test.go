package store

import (
	"testing"
	"time"

	"github.com/picketd/picket/internal/catalog"
)

// TestCatalogFingerprint: it differs after every kind of change, and stays the same as long as there is none.
func TestCatalogFingerprint(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	fingerprint := func() CatalogFingerprint {
		t.Helper()
		f, err := s.CatalogFingerprint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	seen := map[CatalogFingerprint]string{fingerprint(): "nothing"}
	differs := func(change string) CatalogFingerprint {
		t.Helper()
		f := fingerprint()
		if other, known := seen[f]; known {
			t.Errorf("after %s it is what it was after %s", change, other)
		}
		seen[f] = change
		if again := fingerprint(); again != f {
			t.Errorf("nothing happened since %s, and it is another: %+v, %+v", change, f, again)
		}
		return f
	}
	apply := func(change string, servers ...catalog.Server) {
		t.Helper()
		become(t, s, catalog.SourceFile, servers...)
		differs(change)
	}
	region := func(s *catalog.Server) { s.Region = "eu" }
	group := func(s *catalog.Server) { s.Region, s.Groups = "eu", []string{"shops"} }
	slower := func(s *catalog.Server) { s.Region, s.Checks[0].Interval = "eu", 40*time.Second }
	apply("adding a server", declared(catalog.SourceFile, "a"))
	apply("changing it", declared(catalog.SourceFile, "a", region))
	apply("putting it into a group", declared(catalog.SourceFile, "a", group))
	apply("changing its interval", declared(catalog.SourceFile, "a", slower))
	apply("adding a check", declared(catalog.SourceFile, "a", slower, withDB))
	apply("adding another", declared(catalog.SourceFile, "a", slower, withDB), declared(catalog.SourceFile, "b"))
	apply("removing that", declared(catalog.SourceFile, "a", slower, withDB))
}

// TestUnpublished: a server counts until the stream has got its last change, and again when the stream holds it no more.
func TestUnpublished(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	stream := StreamExtent{Epoch: 7, FirstSeq: 1, LastSeq: 10}
	want := func(n int64, settled, removedFor time.Duration, when string) {
		t.Helper()
		if got, err := s.Unpublished(t.Context(), stream, settled, removedFor); err != nil || got != n {
			t.Errorf("%s: %d are to be published, not %d: %v", when, got, n, err)
		}
	}
	become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"), declared(catalog.SourceFile, "b"))
	loaded := become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a"))
	want(2, time.Hour, time.Hour, "never published")
	if err := s.MarkPublished(t.Context(), stream, loaded.Servers); err != nil {
		t.Fatal(err)
	}
	want(0, time.Hour, time.Hour, "all published")
	stream.FirstSeq = 100
	want(0, time.Hour, time.Hour, "thrown away a moment ago")
	want(2, 0, time.Hour, "thrown away")
	want(1, 0, 0, "thrown away, one of them removed long ago")
	stream.Epoch++
	want(2, time.Hour, time.Hour, "another life of the stream")
	become(t, s, catalog.SourceFile, declared(catalog.SourceFile, "a", withDB))
	stream = StreamExtent{Epoch: 7, FirstSeq: 1, LastSeq: 20}
	want(1, time.Hour, time.Hour, "changed since")
}
