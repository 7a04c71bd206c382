package blob_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/picketd/picket/internal/blob"
)

// The fence: what was begun before cannot be committed after, whoever began it.
func testAbandon(t *testing.T, store bench) {
	name := keyOf(t, ".parquet")
	other := store.again(t)
	stale := create(t, store, name)
	write(t, stale, []byte("stale"))
	stale2 := create(t, other, name)
	write(t, stale2, random(100))
	if got := len(uploads(t, store, name)); got != 2 {
		t.Fatalf("%d unfinished uploads", got)
	}
	if err := other.AbandonUploads(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if left := uploads(t, store, name); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	put(t, other, name, []byte("fresh"))
	for _, upload := range []blob.Upload{stale, stale2} {
		_, err := upload.Commit(t.Context())
		wantClass(t, err, blob.ErrAbandoned)
		if err := upload.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := read(t, store, name); string(got) != "fresh" {
		t.Errorf("got %q", got)
	}
}

// The same while bytes are on their way.
func testAbandonUnderWay(t *testing.T, store bench) {
	name := keyOf(t, ".parquet")
	for range 4 {
		stale := create(t, store, name)
		write(t, stale, random(17<<20)) // two parts and a bit, the second of which is on its way
		if err := store.AbandonUploads(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		_, err := stale.Commit(t.Context())
		wantClass(t, err, blob.ErrAbandoned)
		_, err = store.Stat(t.Context(), name)
		wantClass(t, err, blob.ErrNotFound)
		if err := stale.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if left := uploads(t, store, name); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// Between Seal and Commit an upload can be ended as before, and nothing can be written.
func testAbandonSealed(t *testing.T, store bench) {
	name := keyOf(t, ".parquet")
	for _, size := range []int{0, 1, 8 << 20, 9 << 20} {
		stale, kept := create(t, store, name), create(t, store, name+".kept")
		for _, upload := range []blob.Upload{stale, kept} {
			write(t, upload, random(size))
			for range 2 {
				if err := upload.Seal(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := upload.Write([]byte("more")); err == nil {
				t.Error("wrote into a sealed upload")
			}
		}
		if err := store.AbandonUploads(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		_, err := stale.Commit(t.Context())
		wantClass(t, err, blob.ErrAbandoned)
		_, err = store.Stat(t.Context(), name)
		wantClass(t, err, blob.ErrNotFound)
		if _, err := kept.Commit(t.Context()); err != nil {
			t.Error(err)
		}
		if got := read(t, store, name+".kept"); !bytes.Equal(got, random(size)) {
			t.Errorf("%d bytes: others come back", size)
		}
	}
}

func testAbandonOnlyTheKey(t *testing.T, store bench) {
	name := keyOf(t, "")
	longer := create(t, store, name+".csv")
	write(t, longer, []byte("stays"))
	if err := store.AbandonUploads(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := longer.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func testAbort(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	upload := create(t, store, name)
	write(t, upload, random(17<<20)) // so that a part is on its way
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := upload.Abort(ended); err != nil {
		t.Fatal(err)
	}
	if left := uploads(t, store, name); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	_, err := store.Stat(t.Context(), name)
	wantClass(t, err, blob.ErrNotFound)
	if _, err := upload.Commit(t.Context()); err == nil {
		t.Error("committed after the abort")
	}
}
