package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/blob"
)

func testWholeOrNothing(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	data := random(1<<20 + 17)
	upload := create(t, store, name)
	write(t, upload, data[:1<<19])
	write(t, upload, data[1<<19:])
	_, err := store.Stat(t.Context(), name)
	wantClass(t, err, blob.ErrNotFound)

	began := time.Now().Add(-time.Minute)
	committed, err := upload.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := blob.Info{Key: name, Size: int64(len(data)), Modified: committed.Modified, ContentType: "text/csv; charset=utf-8"}
	if diff := cmp.Diff(want, committed); diff != "" {
		t.Errorf("committed (-want +got):\n%s", diff)
	}
	if committed.Modified.Before(began) || committed.Modified.Location() != time.UTC {
		t.Errorf("modified %v", committed.Modified)
	}
	stat, err := store.again(t).Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(committed, stat); diff != "" {
		t.Errorf("stat (-commit +stat):\n%s", diff)
	}
	if !bytes.Equal(read(t, store, name), data) {
		t.Error("other bytes come back")
	}
	if left := uploads(t, store, name); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, err := upload.Write([]byte("more")); err == nil {
		t.Error("wrote after the commit")
	}
	if _, err := upload.Commit(t.Context()); err == nil {
		t.Error("committed twice")
	}
	if err := upload.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := store.Stat(t.Context(), name); err != nil {
		t.Errorf("abort after the commit: %v", err)
	}
}

func testReplace(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	put(t, store, name, []byte("old and longer"))
	upload := create(t, store, name)
	write(t, upload, []byte("new"))
	if got := read(t, store, name); string(got) != "old and longer" {
		t.Errorf("before the commit: %q", got)
	}
	if _, err := upload.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, store, name); string(got) != "new" {
		t.Errorf("after the commit: %q", got)
	}
}

func testEmpty(t *testing.T, store bench) {
	name := keyOf(t, ".ndjson")
	if info := put(t, store, name, nil); info.Size != 0 {
		t.Errorf("%d bytes", info.Size)
	}
	if got := read(t, store, name); len(got) != 0 {
		t.Errorf("read %q", got)
	}
}

// Sizes around those at which S3 parts begin.
func testPartBoundaries(t *testing.T, store bench) {
	const part = 5 << 20
	options := store.options
	options.PartSize = part
	small := open(t, options)
	for _, size := range []int{part - 1, part, part + 1, 2 * part, 3*part + 7} {
		name := keyOf(t, fmt.Sprintf("-%d", size))
		data := random(size)
		upload := create(t, small, name)
		for chunk := range slices.Chunk(data, 333_333) {
			write(t, upload, chunk)
		}
		if _, err := upload.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(read(t, small, name)) != sha256.Sum256(data) {
			t.Errorf("%d bytes: others come back", size)
		}
	}
}

// Of uploads that end at the same time one is the object, whole, and those that were told so are not wrong.
func testConcurrent(t *testing.T, store bench) {
	const writers = 8
	name := keyOf(t, ".csv")
	var wg sync.WaitGroup
	for i := range writers {
		upload := create(t, store, name)
		wg.Go(func() {
			if _, err := upload.Write(bytes.Repeat([]byte{byte('a' + i)}, 100_000+i)); err != nil {
				t.Error(err)
				return
			}
			// One that is replaced before it could look is told so.
			if info, err := upload.Commit(t.Context()); err != nil && !errors.Is(err, blob.ErrAbandoned) {
				t.Error(err)
			} else if err == nil && (info.Size < 100_000 || info.Size >= 100_000+writers) {
				t.Errorf("committed %d bytes", info.Size)
			}
		})
	}
	wg.Wait()
	data := read(t, store, name)
	if len(data) == 0 {
		t.Fatal("empty")
	}
	if want := bytes.Repeat(data[:1], 100_000+int(data[0]-'a')); !bytes.Equal(data, want) {
		t.Errorf("%d bytes that nobody wrote", len(data))
	}
}

func testContextEnds(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	ctx, cancel := context.WithCancelCause(t.Context())
	upload, err := store.Create(ctx, name, blob.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reason := errors.New("somebody cancelled")
	cancel(reason)
	data := random(1 << 20)
	for range 40 { // whatever is buffered
		if _, err = upload.Write(data); err != nil {
			break
		}
	}
	wantClass(t, err, reason)
	_, err = upload.Commit(t.Context())
	wantClass(t, err, reason)
	if err := upload.Abort(ctx); err != nil {
		t.Error(err)
	}
	if left := uploads(t, store, name); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	_, err = store.Stat(t.Context(), name)
	wantClass(t, err, blob.ErrNotFound)
	if _, err := store.Create(ctx, name, blob.CreateOptions{}); !errors.Is(err, reason) {
		t.Errorf("create: %v", err)
	}
	if _, err := store.Stat(ctx, name); !errors.Is(err, reason) {
		t.Errorf("stat: %v", err)
	}
}
