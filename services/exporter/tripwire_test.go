package exporter

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/picketd/picket/internal/blob"
)

// The points at which a child can be ended or stopped, in the order of an attempt.
var points = []string{
	"before abandon", "before create", "after create", "in write", "before seal", "before commit", "after commit", "before open", "in read",
}

// tripwire is an object store whose process sends itself a signal the first time that it comes to a point.
type tripwire struct {
	blob.Store
	point  string
	signal syscall.Signal
	once   sync.Once
}

func newTripwire(objects blob.Store, point, signal string) *tripwire {
	t := &tripwire{Store: objects, point: point, signal: syscall.SIGKILL}
	if signal == "stop" {
		t.signal = syscall.SIGSTOP
	}
	return t
}

func (t *tripwire) at(point string) {
	if point == t.point {
		t.once.Do(func() {
			if err := syscall.Kill(os.Getpid(), t.signal); err != nil {
				panic(err)
			}
			// The signal takes effect when the system call returns.
		})
	}
}

func (t *tripwire) AbandonUploads(ctx context.Context, key string) error {
	t.at("before abandon")
	return t.Store.AbandonUploads(ctx, key)
}

func (t *tripwire) Create(ctx context.Context, key string, opts blob.CreateOptions) (blob.Upload, error) {
	t.at("before create")
	upload, err := t.Store.Create(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	t.at("after create")
	return &trippedUpload{Upload: upload, tripwire: t}, nil
}

func (t *tripwire) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	t.at("before open")
	r, err := t.Store.Open(ctx, key)
	if err == nil {
		t.at("in read")
	}
	return r, err
}

type trippedUpload struct {
	blob.Upload
	tripwire *tripwire
	written  int
}

// Write comes to its point when the store was sent a part and has another to come.
func (u *trippedUpload) Write(p []byte) (int, error) {
	n, err := u.Upload.Write(p)
	if u.written += n; u.written > partSize {
		u.tripwire.at("in write")
	}
	return n, err
}

func (u *trippedUpload) Seal(ctx context.Context) error {
	u.tripwire.at("before seal")
	return u.Upload.Seal(ctx)
}

func (u *trippedUpload) Commit(ctx context.Context) (blob.Info, error) {
	u.tripwire.at("before commit")
	info, err := u.Upload.Commit(ctx)
	u.tripwire.at("after commit")
	return info, err
}
