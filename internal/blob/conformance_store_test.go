package blob_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/blob"
)

// What a crash leaves is found and ended; what is young is left alone.
func testSweep(t *testing.T, store bench) {
	shared := store
	store = map[bool]func(*testing.T) bench{true: openDir, false: openS3}[shared.options.Config.Endpoint == ""](t)
	put(t, store, "object.csv", []byte("stays"))
	crashed := create(t, store, "crashed.csv")
	write(t, crashed, random(9<<20))
	if err := crashed.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, store, "crashed.csv")
	began := time.Now()
	if ended, err := blob.Sweep(t.Context(), store, began.Add(-time.Minute)); err != nil || len(ended) > 0 {
		t.Fatalf("young ones: ended %v, %v", ended, err)
	}
	ended, err := blob.Sweep(t.Context(), store.again(t), began.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if len(ended) != 2 || ended[0].Key != "crashed.csv" || ended[1].Key != "crashed.csv" {
		t.Errorf("ended %v", ended)
	}
	for _, u := range ended {
		if age := began.Sub(u.Started); age < -time.Minute || age > time.Minute {
			t.Errorf("%s is said to be started at %v", u.Key, u.Started)
		}
		if err := store.Discard(t.Context(), u); err != nil {
			t.Errorf("discard once more: %v", err)
		}
	}
	_, err = crashed.Commit(t.Context())
	wantClass(t, err, blob.ErrAbandoned)
	if left := uploads(t, store, ""); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if got := read(t, store, "object.csv"); string(got) != "stays" {
		t.Errorf("the object is %q", got)
	}
}

func testList(t *testing.T, store bench) {
	const n = 1005                                  // more than a page of S3
	if err := store.Ping(t.Context()); err != nil { // which makes the bucket
		t.Fatal(err)
	}
	var want []string
	var wg sync.WaitGroup
	bound := make(chan struct{}, 8)
	for i := range n {
		name := fmt.Sprintf("list/a/%04d.csv", i)
		want = append(want, name)
		wg.Go(func() {
			bound <- struct{}{}
			defer func() { <-bound }()
			if err := store.seed(t.Context(), name, strconv.Itoa(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	put(t, store, "list/b", nil)
	create(t, store, "list/a/unfinished")
	var got []string
	size := int64(0)
	err := store.List(t.Context(), "list/a/", func(info blob.Info) error {
		got = append(got, info.Key)
		size += info.Size
		if time.Since(info.Modified).Abs() > time.Hour {
			t.Errorf("%s is of %v", info.Key, info.Modified)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	if want := int64(10 + 90*2 + 900*3 + 5*4); size != want {
		t.Errorf("%d bytes in all, want %d", size, want)
	}
	enough := errors.New("enough")
	if err := store.List(t.Context(), "list/", func(blob.Info) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.List(ended, "list/", func(blob.Info) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func testMissing(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	_, err := store.Stat(t.Context(), name)
	wantClass(t, err, blob.ErrNotFound)
	_, err = store.Open(t.Context(), name)
	wantClass(t, err, blob.ErrNotFound)
	for range 2 {
		if err := store.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	put(t, store, name, []byte("x"))
	for range 2 {
		if err := store.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
		_, err = store.Stat(t.Context(), name)
		wantClass(t, err, blob.ErrNotFound)
	}
	if err := store.AbandonUploads(t.Context(), name); err != nil {
		t.Error(err)
	}
}

func testKeys(t *testing.T, store bench) {
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../x", "a/../b", "a/..", "a/.b", ".a", "A", "a b", "a\\b", "a\x00b", "a\nb", "ä", "a=b", "a~b", "a%2fb",
		"a?b", "a*", strings.Repeat("a", 201),
	} {
		_, err := store.Create(t.Context(), name, blob.CreateOptions{})
		wantClass(t, err, blob.ErrKey)
		_, err = store.Stat(t.Context(), name)
		wantClass(t, err, blob.ErrKey)
		_, err = store.Open(t.Context(), name)
		wantClass(t, err, blob.ErrKey)
		wantClass(t, store.Delete(t.Context(), name), blob.ErrKey)
		wantClass(t, store.AbandonUploads(t.Context(), name), blob.ErrKey)
		wantClass(t, store.Discard(t.Context(), blob.Unfinished{Key: name, ID: "x"}), blob.ErrKey)
		_, err = store.Link(t.Context(), name, time.Minute, "")
		wantClass(t, err, blob.ErrKey)
	}
	for _, name := range []string{"a", "a..b", "a-b_c.d/e", "b/b", key + ".ndjson.zst", strings.Repeat("b", 200), strings.Repeat("c/", 99) + "c"} {
		put(t, store, name, []byte(name))
		if got := read(t, store, name); string(got) != name {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func testPing(t *testing.T, store bench) {
	if err := store.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
