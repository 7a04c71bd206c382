package blob

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	keyFile   = "link.key"
	keyLength = 32
)

// linkKey reads the key of the links, or makes one. It appears whole, and of several processes that make one at the same
// time all use the first.
func linkKey(root *os.Root) ([]byte, error) {
	for {
		key, err := root.ReadFile(keyFile)
		if err == nil && len(key) != keyLength {
			return nil, fmt.Errorf("%s has %d bytes, not %d: remove it and links made so far end", keyFile, len(key), keyLength)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
		if err := makeLinkKey(root); err != nil {
			return nil, err
		}
	}
}

func makeLinkKey(root *os.Root) error {
	key := make([]byte, keyLength)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	fresh := keyFile + "~" + uuid.NewString()
	if err := root.WriteFile(fresh, key, private); err != nil {
		return err
	}
	err := root.Link(fresh, keyFile)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, root.Remove(fresh))
}

// sign signs everything that a link says. Neither a key nor a number has a line feed, so no two links are signed alike.
func (d *dirStore) sign(key, expires, filename string) []byte {
	mac := hmac.New(sha256.New, d.key)
	mac.Write([]byte("picket blob link 1\n" + key + "\n" + expires + "\n" + filename))
	return mac.Sum(nil)
}

func (d *dirStore) Link(_ context.Context, key string, ttl time.Duration, filename string) (string, error) {
	if err := errors.Join(CheckKey(key), checkTTL(ttl)); err != nil {
		return "", err
	}
	expires := strconv.FormatInt(time.Now().Add(ttl).Unix(), 10)
	query := url.Values{"expires": {expires}, "signature": {base64.RawURLEncoding.EncodeToString(d.sign(key, expires, filename))}}
	if filename != "" {
		query.Set("filename", filename)
	}
	return d.linkBase + key + "?" + query.Encode(), nil
}

// Handler serves the links of a store that keeps its objects in a directory, at the path of its [Options].LinkBase: GET
// and HEAD, with ranges. It refuses (403) a link that has expired or was not signed here as it is, before it looks
// whether there is such an object. Errors are RFC 9457 problems. For an object store, which serves its links itself, it
// answers 404.
func Handler(store Store) http.Handler {
	if dir, ok := store.(*dirStore); ok {
		base := dir.linkBase
		if u, err := url.Parse(base); err == nil {
			base = u.Path
		}
		return &linkHandler{dir, base}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusNotFound, "downloads are served by the object store")
	})
}

type linkHandler struct {
	store *dirStore
	base  string
}

func (h *linkHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, "objects can be downloaded only")
		return
	}
	key, below := strings.CutPrefix(r.URL.Path, h.base)
	query := r.URL.Query()
	expires, filename := query.Get("expires"), query.Get("filename")
	signature, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("signature"))
	if !below || err != nil || CheckKey(key) != nil || !hmac.Equal(signature, h.store.sign(key, expires, filename)) {
		problem(w, http.StatusForbidden, "the link was not made here, or was changed")
		return
	}
	until, err := strconv.ParseInt(expires, 10, 64)
	if err != nil || time.Now().Unix() >= until {
		problem(w, http.StatusForbidden, "the link has expired")
		return
	}
	h.serve(w, r, key, filename)
}

func (h *linkHandler) serve(w http.ResponseWriter, r *http.Request, key, filename string) {
	file, err := h.store.root.Open(object(key))
	if err != nil {
		h.fail(w, err)
		return
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		h.fail(w, err)
		return
	}
	info, err := h.store.info(key, stat)
	if err != nil {
		h.fail(w, err)
		return
	}
	header := w.Header()
	header.Set("Content-Type", info.ContentType)
	if info.ContentEncoding != "" {
		header.Set("Content-Encoding", info.ContentEncoding)
	}
	header.Set("Content-Disposition", disposition(filename))
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "private, no-store")
	// So that parts of two versions are not put together when a download is resumed.
	header.Set("ETag", fmt.Sprintf(`"%x-%x"`, stat.ModTime().UnixNano(), stat.Size()))
	http.ServeContent(w, r, "", stat.ModTime(), file)
}

func (h *linkHandler) fail(w http.ResponseWriter, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		problem(w, http.StatusNotFound, "the object is not there any more")
		return
	}
	w.Header().Set("Retry-After", "5")
	problem(w, http.StatusServiceUnavailable, "the object cannot be read now")
}

// problem answers with an error as RFC 9457 has it.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may be gone
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail,
	})
}
