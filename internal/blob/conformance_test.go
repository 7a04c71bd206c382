package blob_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/blob/blobtest"
)

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
