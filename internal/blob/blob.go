package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Errors of a [Store] wrap one of these, or the error of a context that ended, or say what is wrong with an argument.
var (
	// ErrNotFound says that there is no object of that key.
	ErrNotFound = errors.New("object not found")
	// ErrAbandoned says that an upload was ended by somebody else, or that its object was replaced before it could be
	// looked at. Nothing can be done about it: what was uploaded is gone.
	ErrAbandoned = errors.New("upload abandoned")
	// ErrUnavailable says that the store could not be reached, did not answer in time or has no room: try again later.
	ErrUnavailable = errors.New("object store unavailable")
	// ErrRefused says that the store answered no: credentials, permissions, a bucket that is not there. Trying again does
	// not help until somebody changes that.
	ErrRefused = errors.New("object store refused")
	// ErrKey says that a key is not one, see [CheckKey].
	ErrKey = errors.New("not a key of an object")
)

// Info describes an object.
type Info struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // of its Commit, UTC
	// ContentType and ContentEncoding are as given to Create; [Store.List] leaves them empty.
	ContentType, ContentEncoding string
}

// CreateOptions are the headers an object is handed out with.
type CreateOptions struct {
	ContentType     string // application/octet-stream when empty
	ContentEncoding string // none when empty; it makes clients decode what they download
}

// Upload is an object that is being written. It is for one goroutine. It holds memory and, in the store, room until
// Commit or Abort: call Abort in a defer, it does nothing after a Commit.
type Upload interface {
	// Write takes the next bytes. An error is final. It ends early when the context of Create ends.
	io.Writer
	// Seal waits until the store has all bytes; there can be no Write after it. Who holds a claim that may be lost asks
	// between Seal and Commit whether it still does: from then on nothing of the upload is on its way, so that
	// [Store.AbandonUploads] ends it for good. After [ErrUnavailable] it may be called again.
	Seal(ctx context.Context) error
	// Commit makes the object appear, whole, in the place of one that had its key. After [ErrUnavailable] the outcome
	// is unknown and Commit may be called again, which finds out; any other error is final. [ErrAbandoned] says that
	// the upload had been ended, or that another's object has replaced this one already. It seals what is not sealed.
	Commit(ctx context.Context) (Info, error)
	// Abort ends the upload and removes what it left in the store, also when ctx has ended. An upload that had been
	// abandoned is no error.
	Abort(ctx context.Context) error
}

// Unfinished is an upload that was neither committed nor aborted: one in progress, or what a crash left.
type Unfinished struct {
	Key     string
	ID      string    // the store's
	Started time.Time // UTC, by the clock of the store
}

// Store keeps objects. It is safe for concurrent use. No call takes longer than the limits in [Options] allow, also when
// the store accepts connections and never answers.
type Store interface {
	// Create begins an upload; ctx rules its Writes. A key that is not one is [ErrKey].
	Create(ctx context.Context, key string, opts CreateOptions) (Upload, error)
	// Stat describes an object, or answers [ErrNotFound].
	Stat(ctx context.Context, key string) (Info, error)
	// Open reads an object as it is stored, or answers [ErrNotFound]. Reading ends with ctx.
	Open(ctx context.Context, key string) (io.ReadCloser, error)
	// Delete removes an object. One that is not there is no error.
	Delete(ctx context.Context, key string) error
	// List calls each for the objects whose keys begin with prefix, in the order of keys. An error of each ends it and is
	// returned.
	List(ctx context.Context, prefix string, each func(Info) error) error
	// Link makes an address from which anybody can download the object for ttl (one second to seven days), as a file of
	// that name. It does not ask whether the object is there.
	Link(ctx context.Context, key string, ttl time.Duration, filename string) (string, error)
	// Ping answers nil when the store can be written to. It makes the bucket when that is missing and making it is allowed.
	Ping(ctx context.Context) error
	// AbandonUploads ends every unfinished upload of exactly this key that was begun before the call, whoever began it.
	AbandonUploads(ctx context.Context, key string) error
	// Uploads calls each for the unfinished uploads whose keys begin with prefix, in no particular order. MinIO lists
	// none for a prefix that is not a whole key; it ends uploads by itself after a day.
	Uploads(ctx context.Context, prefix string, each func(Unfinished) error) error
	// Discard ends one of them. One that is not there any more is no error.
	Discard(ctx context.Context, upload Unfinished) error
	// Close frees connections and files.
	Close() error
}

// Sweep ends the unfinished uploads that were started before the given time and returns those it ended: what crashes left.
// Choose a time that no upload lasts as long as.
func Sweep(ctx context.Context, store Store, before time.Time) ([]Unfinished, error) {
	var old, ended []Unfinished
	err := store.Uploads(ctx, "", func(u Unfinished) error {
		if u.Started.Before(before) {
			old = append(old, u)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, u := range old {
		if err := store.Discard(ctx, u); err != nil {
			return ended, err
		}
		ended = append(ended, u)
	}
	return ended, nil
}

const (
	maxKey  = 200 // a file name has 255 bytes, an upload's has 38 more than the key
	maxLink = 7 * 24 * time.Hour
)

// CheckKey says what is wrong with a key. One has 1 to 200 bytes of a-z, 0-9, '.', '_', '-' and '/'; no part between
// slashes is empty or begins with a dot. So it is a path that leads nowhere else, a part of a URL that needs no escaping,
// and the same on systems that do not tell capitals from small letters.
func CheckKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%w: it has %d bytes, 1 to %d are allowed", ErrKey, len(key), maxKey)
	}
	if err := checkPrefix(key); err != nil {
		return err
	}
	if key[len(key)-1] == '/' {
		return fmt.Errorf("%w: %q ends with a slash", ErrKey, key)
	}
	return nil
}

// checkPrefix says what keeps prefix from being the beginning of a key; an empty one begins all.
func checkPrefix(prefix string) error {
	if len(prefix) > maxKey {
		return fmt.Errorf("%w: it has %d bytes, %d are allowed", ErrKey, len(prefix), maxKey)
	}
	last := byte('/')
	for i := range len(prefix) {
		c := prefix[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == '-':
		case (c == '/' || c == '.') && last != '/':
		default:
			return fmt.Errorf("%w: %q at byte %d of %q", ErrKey, c, i, prefix)
		}
		last = c
	}
	return nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < time.Second || ttl > maxLink {
		return fmt.Errorf("a link for %v: one second to seven days are possible", ttl)
	}
	return nil
}
