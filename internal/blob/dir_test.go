package blob_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/picketd/picket/internal/blob"
)

// All that a directory holds is its owner's alone.
func TestDirIsPrivate(t *testing.T) {
	t.Parallel()
	config := blob.DefaultConfig()
	config.Dir = filepath.Join(t.TempDir(), "deep", "exports")
	store := open(t, blob.Options{Config: config})
	put(t, store, "a/b.csv", []byte("x"))
	create(t, store, "unfinished.csv")
	files := 0
	err := filepath.WalkDir(config.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		if !entry.IsDir() {
			files++
		}
		return nil
	})
	if err != nil || files != 4 { // object, headers, upload, key
		t.Errorf("%d files, %v", files, err)
	}
}

// A link out of the directory leads nowhere.
func TestDirDoesNotFollowLinks(t *testing.T) {
	t.Parallel()
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	store := open(t, blob.Options{Config: config})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(config.Dir, "objects", "link.csv")); err != nil {
		t.Fatal(err)
	}
	if object, err := store.Open(t.Context(), "link.csv"); err == nil {
		object.Close()
		t.Error("read what is outside")
	}
}

// Stores that are opened at the same time for the first time sign alike; one with another key does not.
func TestDirLinkKey(t *testing.T) {
	t.Parallel()
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	links := make([]string, 8)
	var wg sync.WaitGroup
	for i := range links {
		wg.Go(func() {
			store, err := blob.Open(blob.Options{Config: config})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() {
				if err := store.Close(); err != nil {
					t.Error(err)
				}
			}()
			if i == 0 {
				put(t, store, "a.csv", []byte("x"))
			}
			if links[i], err = store.Link(t.Context(), "a.csv", time.Hour, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	handler := blob.Handler(open(t, blob.Options{Config: config}))
	for _, link := range links {
		if got := serve(handler, http.MethodGet, link); got.Code != http.StatusOK || got.Body.String() != "x" {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	}
	other := config
	other.Dir = t.TempDir()
	foreign := open(t, blob.Options{Config: other})
	put(t, foreign, "a.csv", []byte("foreign"))
	if got := serve(blob.Handler(foreign), http.MethodGet, links[0]); got.Code != http.StatusForbidden {
		t.Errorf("signed with another key: %d", got.Code)
	}
	if err := os.WriteFile(filepath.Join(config.Dir, "link.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if store, err := blob.Open(blob.Options{Config: config}); err == nil {
		t.Error("opened with half a key", store.Close())
	}
}

func serve(handler http.Handler, method, target string) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(method, target, nil))
	return recorder
}

func TestHandler(t *testing.T) {
	t.Parallel()
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	store := open(t, blob.Options{Config: config})
	put(t, store, "a.csv", []byte("0123456789"))
	link, err := store.Link(t.Context(), "a.csv", time.Minute, "")
	if err != nil {
		t.Fatal(err)
	}
	handler := blob.Handler(store)
	if got := serve(handler, http.MethodHead, link); got.Code != http.StatusOK || got.Body.Len() != 0 || got.Header().Get("Content-Length") != "10" {
		t.Errorf("HEAD: %d %v", got.Code, got.Header())
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		if got := serve(handler, method, link); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, got.Code)
		}
	}
	for _, target := range []string{
		"/", blob.LinkBase, blob.LinkBase + "a.csv", blob.LinkBase + "../link.key", blob.LinkBase + "..%2flink.key",
		strings.Replace(link, blob.LinkBase, "/elsewhere/", 1), link + "&expires=99999999999", strings.Replace(link, "expires=", "expires=9", 1),
	} {
		got := serve(handler, http.MethodGet, target)
		if target == link+"&expires=99999999999" { // the first of the two counts, and is the signed one
			if got.Code != http.StatusOK {
				t.Errorf("%s: %d", target, got.Code)
			}
			continue
		}
		if got.Code != http.StatusForbidden || got.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", target, got.Code, got.Body)
		}
	}
	if err := os.RemoveAll(filepath.Join(config.Dir, "types")); err != nil {
		t.Fatal(err)
	}
	if got := serve(handler, http.MethodGet, link); got.Code != http.StatusOK || got.Header().Get("Content-Type") != "application/octet-stream" {
		t.Errorf("without headers: %d %v", got.Code, got.Header())
	}
}

// A directory that is gone or read-only is told.
func TestDirPing(t *testing.T) {
	t.Parallel()
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	store := open(t, blob.Options{Config: config})
	if err := store.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(config.Dir); err != nil {
		t.Fatal(err)
	}
	wantClass(t, store.Ping(t.Context()), blob.ErrRefused)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := blob.Config{Endpoint: "https://s3.example.org", Bucket: "exports", Region: "eu", AccessKey: "a", SecretKey: "b"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(c *blob.Config){
		"S3_ENDPOINT: it has to begin":  func(c *blob.Config) { c.Endpoint = "s3.example.org:9000" },
		"S3_ENDPOINT: it has no host":   func(c *blob.Config) { c.Endpoint = "https://" },
		"S3_ENDPOINT: keys do not go":   func(c *blob.Config) { c.Endpoint = "https://key:hunter2@host" },
		"S3_ENDPOINT: it goes on":       func(c *blob.Config) { c.Endpoint = "https://host/bucket" },
		"S3_PUBLIC_ENDPOINT: it has to": func(c *blob.Config) { c.PublicEndpoint = "ftp://host" },
		"S3_SECRET_KEY is empty":        func(c *blob.Config) { c.SecretKey = "" },
		"S3_BUCKET is empty":            func(c *blob.Config) { c.Bucket = "" },
		"PICKET_EXPORT_DIR":             func(c *blob.Config) { c.Endpoint = "" },
	} {
		config := good
		spoil(&config)
		err := config.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, opened := blob.Open(blob.Options{Config: config}); opened == nil || opened.Error() != err.Error() {
			t.Errorf("opened: %v", opened)
		}
	}
	for _, bucket := range []string{"Ex", "a..b", "no_underscore"} {
		config := good
		config.Bucket = bucket
		if _, err := blob.Open(blob.Options{Config: config}); err == nil || errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("bucket %q: %v", bucket, err)
		}
	}
}
