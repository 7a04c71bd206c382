package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/blob/blobtest"
)

// every calls all that a store can do, with a deadline that nobody should need.
func every(t *testing.T, store blob.Store) map[string]error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, create := store.Create(ctx, "a.csv", blob.CreateOptions{})
	_, stat := store.Stat(ctx, "a.csv")
	_, open := store.Open(ctx, "a.csv")
	return map[string]error{
		"create": create, "stat": stat, "open": open, "ping": store.Ping(ctx), "delete": store.Delete(ctx, "a.csv"),
		"list":    store.List(ctx, "", func(blob.Info) error { return nil }),
		"abandon": store.AbandonUploads(ctx, "a.csv"),
		"uploads": store.Uploads(ctx, "", func(blob.Unfinished) error { return nil }),
		"discard": store.Discard(ctx, blob.Unfinished{Key: "a.csv", ID: "x"}),
	}
}

// A server that accepts and never answers is an error, in time.
func TestFrozen(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t)
	put(t, open(t, blob.Options{Config: server.Config}), "a.csv", random(9<<20))
	store := open(t, blob.Options{Config: server.Config, Timeout: time.Second, TransferTimeout: 2 * time.Second})
	upload := create(t, store, "b.csv")
	write(t, upload, []byte("part"))
	download, err := store.Open(t.Context(), "a.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer download.Close()

	server.Freeze(t)
	began := time.Now()
	for call, err := range every(t, store) {
		if !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("%s: %v", call, err)
		}
	}
	_, err = io.Copy(io.Discard, download)
	wantClass(t, err, blob.ErrUnavailable)
	_, err = upload.Commit(t.Context())
	wantClass(t, err, blob.ErrUnavailable)
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("it took %v", took)
	}
	// A link needs no server.
	if _, err := store.Link(t.Context(), "a.csv", time.Minute, ""); err != nil {
		t.Error(err)
	}

	server.Thaw(t)
	info, err := upload.Commit(t.Context())
	for range 10 { // what waits in the server takes its time
		if errors.Is(err, blob.ErrUnavailable) {
			info, err = upload.Commit(t.Context())
		}
	}
	if err != nil || info.Size != 4 {
		t.Errorf("woken: %v, %v", info, err)
	}
	if err := store.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Nobody listens.
func TestGone(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := blob.DefaultConfig()
	config.Endpoint, config.AccessKey, config.SecretKey = "http://"+listener.Addr().String(), "a", "b"
	listener.Close()
	for call, err := range every(t, open(t, blob.Options{Config: config, Timeout: 300 * time.Millisecond})) {
		if !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("%s: %v", call, err)
		}
		if strings.Contains(err.Error(), config.SecretKey+" ") {
			t.Errorf("%s tells the secret: %v", call, err)
		}
	}
}

// A server that says no is not one that is away.
func TestRefused(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t)
	wrong := server.Config
	wrong.SecretKey = "wrong"
	for call, err := range every(t, open(t, blob.Options{Config: wrong})) {
		if !errors.Is(err, blob.ErrRefused) {
			t.Errorf("%s: %v", call, err)
		}
		if strings.Contains(err.Error(), server.Config.SecretKey) {
			t.Errorf("%s tells the secret: %v", call, err)
		}
	}
	absent := server.Config
	absent.Bucket, absent.CreateBucket = "absent", false
	store := open(t, blob.Options{Config: absent})
	wantClass(t, store.Ping(t.Context()), blob.ErrRefused)
	_, err := store.Create(t.Context(), "a.csv", blob.CreateOptions{})
	wantClass(t, err, blob.ErrRefused)

	absent.CreateBucket = true
	store = open(t, blob.Options{Config: absent})
	put(t, store, "a.csv", []byte("the bucket is made"))
	if err := store.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// A link is signed for the public endpoint, works there, and does not where it was not signed for.
func TestPublicEndpoint(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t)
	inner, err := url.Parse(server.Config.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	config := server.Config
	config.PublicEndpoint = "http://localhost:" + inner.Port()
	store := open(t, blob.Options{Config: config})
	put(t, store, "a.csv", []byte("x"))
	link, err := store.Link(t.Context(), "a.csv", time.Minute, "")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(link, config.PublicEndpoint+"/exports/a.csv?") {
		t.Errorf("link %s", link)
	}
	if got := get(t, link, ""); got.status != http.StatusOK || got.body != "x" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := get(t, strings.Replace(link, "localhost", inner.Hostname(), 1), ""); got.status != http.StatusForbidden {
		t.Errorf("rewritten to another host: %d", got.status)
	}
}

// proxy stands before the server and spoils answers.
func proxy(t *testing.T, target string, spoil func(r *http.Request) bool) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		ModifyResponse: func(r *http.Response) error {
			if spoil(r.Request) {
				return errors.New("the answer is lost")
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // hangs up
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: forward, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return "http://" + listener.Addr().String()
}

// The answer to the request that made the object is lost: the Commit finds out, and is no error.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t)
	var lost atomic.Int32
	config := server.Config
	config.Endpoint = proxy(t, config.Endpoint, func(r *http.Request) bool {
		return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && lost.Add(1) == 1
	})
	store := open(t, blob.Options{Config: config})
	if info := put(t, store, "a.csv", []byte("once")); info.Size != 4 || lost.Load() < 2 {
		t.Errorf("%v, %d tries", info, lost.Load())
	}
	if got := read(t, store, "a.csv"); string(got) != "once" {
		t.Errorf("got %q", got)
	}
}

// The same, and another attempt's object is in the place already: that is told, and the other's object stays.
func TestLostAnswerReplaced(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t)
	direct := open(t, blob.Options{Config: server.Config})
	var lost atomic.Int32
	config := server.Config
	config.Endpoint = proxy(t, config.Endpoint, func(r *http.Request) bool {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && lost.Add(1) == 1 {
			put(t, direct, "a.csv", []byte("another's"))
			return true
		}
		return false
	})
	upload := create(t, open(t, blob.Options{Config: config}), "a.csv")
	write(t, upload, []byte("ours"))
	_, err := upload.Commit(t.Context())
	wantClass(t, err, blob.ErrAbandoned)
	if got := read(t, direct, "a.csv"); string(got) != "another's" {
		t.Errorf("got %q", got)
	}
}

// A part whose answer is lost is sent again.
func TestPartRepeated(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t)
	var tries atomic.Int32
	config := server.Config
	config.Endpoint = proxy(t, config.Endpoint, func(r *http.Request) bool {
		return r.Method == http.MethodPut && r.URL.Query().Has("partNumber") && tries.Add(1)%2 == 1
	})
	data := random(17 << 20)
	store := open(t, blob.Options{Config: config})
	put(t, store, "a.csv", data)
	if tries.Load() != 6 {
		t.Errorf("%d tries for three parts", tries.Load())
	}
	if !bytes.Equal(read(t, store, "a.csv"), data) {
		t.Error("other bytes come back")
	}
}

func heap() int64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// However large the object, an upload holds two parts. It does not run beside others, whose memory it would measure.
func TestLargeObject(t *testing.T) {
	const size, most = 64 << 20, 20 << 20
	for name, openStore := range map[string]func(*testing.T) bench{"dir": openDir, "s3": openS3} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t)
			chunk := random(1 << 20)
			before := heap()
			upload := create(t, store, "large.csv")
			var held int64
			for i := range size / len(chunk) {
				write(t, upload, chunk)
				if i%8 == 0 {
					held = max(held, heap()-before)
				}
			}
			info, err := upload.Commit(t.Context())
			if err != nil || info.Size != size {
				t.Fatalf("%v, %v", info, err)
			}
			download, err := store.Open(t.Context(), "large.csv")
			if err != nil {
				t.Fatal(err)
			}
			defer download.Close()
			for i := range size / len(chunk) {
				got := make([]byte, len(chunk))
				if _, err := io.ReadFull(download, got); err != nil || !bytes.Equal(got, chunk) {
					t.Fatalf("megabyte %d comes back as another: %v", i, err)
				}
			}
			t.Logf("%d MB: holds %.1f MB", size>>20, float64(held)/(1<<20))
			if held > most {
				t.Errorf("holds %d MB, %d at most", held>>20, most>>20)
			}
		})
	}
}
