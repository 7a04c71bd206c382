package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/blob/blobtest"
)

// a store under test, and what links to its objects are relative to.
type bench struct {
	blob.Store
	options blob.Options
	// seed makes an object on the shortest way.
	seed func(ctx context.Context, key, text string) error
}

// again opens the same store a second time, as another process would.
func (b bench) again(t *testing.T) blob.Store {
	t.Helper()
	return open(t, b.options)
}

func open(t *testing.T, options blob.Options) blob.Store {
	t.Helper()
	store, err := blob.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func openDir(t *testing.T) bench {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	options := blob.Options{Config: config, LinkBase: server.URL + blob.LinkBase}
	store := open(t, options)
	mux.Handle(blob.LinkBase, blob.Handler(store))
	return bench{store, options, func(ctx context.Context, key, text string) error {
		upload, err := store.Create(ctx, key, blob.CreateOptions{})
		if err != nil {
			return err
		}
		_, err = io.WriteString(upload, text)
		_, commit := upload.Commit(ctx)
		return errors.Join(err, commit)
	}}
}

func openS3(t *testing.T) bench {
	t.Helper()
	config := blobtest.S3(t).Config
	options := blob.Options{Config: config}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := minio.New(strings.TrimPrefix(config.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(config.AccessKey, config.SecretKey, ""), Region: config.Region, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return bench{open(t, options), options, func(ctx context.Context, key, text string) error {
		_, err := client.PutObject(ctx, config.Bucket, key, strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{})
		return err
	}}
}

// TestConformance holds both stores to the same promises.
func TestConformance(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T) bench{"dir": openDir, "s3": openS3}
	promises := map[string]func(t *testing.T, store bench){
		"WholeOrNothing":    testWholeOrNothing,
		"Replace":           testReplace,
		"Empty":             testEmpty,
		"PartBoundaries":    testPartBoundaries,
		"Concurrent":        testConcurrent,
		"Abandon":           testAbandon,
		"AbandonUnderWay":   testAbandonUnderWay,
		"AbandonSealed":     testAbandonSealed,
		"AbandonOnlyTheKey": testAbandonOnlyTheKey,
		"AbortLeavesNone":   testAbort,
		"ContextEnds":       testContextEnds,
		"Sweep":             testSweep,
		"List":              testList,
		"Missing":           testMissing,
		"Keys":              testKeys,
		"Link":              testLink,
		"LinkExpires":       testLinkExpires,
		"LinkTampered":      testLinkTampered,
		"Ping":              testPing,
	}
	for name, openStore := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := openStore(t)
			for promise, test := range promises {
				t.Run(promise, func(t *testing.T) {
					t.Parallel()
					test(t, store)
				})
			}
		})
	}
}

const key = "0199d5c2-7a4e-7c3a-9b1e-1f2a3b4c5d6e"

// keyOf gives each test a key of its own.
func keyOf(t *testing.T, ending string) string {
	return strings.ToLower(t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]) + "/" + key + ending
}

func create(t *testing.T, store blob.Store, key string) blob.Upload {
	t.Helper()
	upload, err := store.Create(t.Context(), key, blob.CreateOptions{ContentType: "text/csv; charset=utf-8"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := upload.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return upload
}

func write(t *testing.T, upload blob.Upload, data []byte) {
	t.Helper()
	if n, err := upload.Write(data); err != nil || n != len(data) {
		t.Fatalf("wrote %d of %d: %v", n, len(data), err)
	}
}

func put(t *testing.T, store blob.Store, key string, data []byte) blob.Info {
	t.Helper()
	upload := create(t, store, key)
	write(t, upload, data)
	info, err := upload.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func read(t *testing.T, store blob.Store, key string) []byte {
	t.Helper()
	object, err := store.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	data, err := io.ReadAll(object)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func uploads(t *testing.T, store blob.Store, prefix string) []blob.Unfinished {
	t.Helper()
	var found []blob.Unfinished
	err := store.Uploads(t.Context(), prefix, func(u blob.Unfinished) error {
		found = append(found, u)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func wantClass(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("got error %v, want %v", err, class)
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(data)
	return data
}

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

type answer struct {
	status int
	header http.Header
	body   string
}

func get(t *testing.T, link, byteRange string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		request.Header.Set("Range", byteRange)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

func testLink(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	upload, err := store.Create(t.Context(), name, blob.CreateOptions{ContentType: "text/csv; charset=utf-8", ContentEncoding: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	write(t, upload, []byte("0123456789"))
	if _, err := upload.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	link, err := store.Link(t.Context(), name, time.Minute, `für "alle".csv`)
	if err != nil {
		t.Fatal(err)
	}
	got := get(t, link, "")
	if got.status != http.StatusOK || got.body != "0123456789" {
		t.Errorf("%d %q", got.status, got.body)
	}
	for header, want := range map[string]string{
		"Content-Type": "text/csv; charset=utf-8", "Content-Encoding": "zstd",
		"Content-Disposition": "attachment; filename*=utf-8''f%C3%BCr%20%22alle%22.csv",
	} {
		if got.header.Get(header) != want {
			t.Errorf("%s: got %q, want %q", header, got.header.Get(header), want)
		}
	}
	if part := get(t, link, "bytes=3-5"); part.status != http.StatusPartialContent || part.body != "345" {
		t.Errorf("range: %d %q", part.status, part.body)
	}
	// Another process' links are as good.
	other, err := store.again(t).Link(t.Context(), name, 7*24*time.Hour, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, other, ""); got.status != http.StatusOK || got.header.Get("Content-Disposition") != "attachment" {
		t.Errorf("%d %v", got.status, got.header)
	}
	for _, ttl := range []time.Duration{0, -time.Second, time.Millisecond, 7*24*time.Hour + time.Second} {
		if _, err := store.Link(t.Context(), name, ttl, ""); err == nil {
			t.Errorf("a link for %v", ttl)
		}
	}
	if err := store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if got := get(t, link, ""); got.status != http.StatusNotFound {
		t.Errorf("after the delete: %d", got.status)
	}
}

func testLinkExpires(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	put(t, store, name, []byte("x"))
	link, err := store.Link(t.Context(), name, time.Second, "")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for get(t, link, "").status != http.StatusForbidden {
		if time.Now().After(deadline) {
			t.Fatal("it does not expire")
		}
		<-poll.C
	}
}

func testLinkTampered(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	put(t, store, name, []byte("x"))
	put(t, store, name+"2", []byte("another's"))
	link, err := store.Link(t.Context(), name, time.Minute, "a.csv")
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, link, ""); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string]string{
		"key":    strings.Replace(link, ".csv?", ".csv2?", 1),
		"no key": strings.Replace(link, name, "", 1),
	}
	for parameter, values := range u.Query() {
		query := u.Query()
		other := "1" + values[0]
		if len(values[0]) > 8 { // the same length, other text
			last := values[0][len(values[0])-3]
			other = strings.Replace(values[0], string(last), map[bool]string{true: "8", false: "7"}[last == '7'], 1)
		}
		query.Set(parameter, other)
		v := *u
		v.RawQuery = query.Encode()
		changed["changed "+parameter] = v.String()
		query.Del(parameter)
		v.RawQuery = query.Encode()
		changed["without "+parameter] = v.String()
	}
	for what, link := range changed {
		if got := get(t, link, ""); got.status != http.StatusForbidden && got.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s\n%s", what, got.status, got.body, link)
		}
	}
}

func testPing(t *testing.T, store bench) {
	if err := store.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
