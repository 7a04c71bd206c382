package blob

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// dirUpload is a file that gets its name at the Commit.
type dirUpload struct {
	store   *dirStore
	ctx     context.Context // of the Writes, which have none of their own
	key, id string
	headers CreateOptions
	file    *os.File
	buffer  *bufio.Writer
	err     error // final
	sealed  bool  // all bytes are on the disk
	over    bool
}

func uploadFile(key, id string) string { return filepath.Join(uploadsDir, fileOf(key)+"~"+id) }

func (d *dirStore) Create(ctx context.Context, key string, opts CreateOptions) (Upload, error) {
	if err := errors.Join(CheckKey(key), context.Cause(ctx)); err != nil {
		return nil, err
	}
	if opts.ContentType == "" {
		opts.ContentType = defaultType
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("begin upload of %s: %w", key, err)
	}
	file, err := d.root.OpenFile(uploadFile(key, id.String()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, private)
	if err != nil {
		return nil, fault("begin upload of", key, err)
	}
	return &dirUpload{
		store: d, ctx: ctx, key: key, id: id.String(), headers: opts,
		file: file, buffer: bufio.NewWriterSize(file, 256<<10),
	}, nil
}

func (u *dirUpload) Write(p []byte) (int, error) {
	switch {
	case u.over, u.sealed:
		return 0, errOver
	case u.err != nil:
		return 0, u.err
	case u.ctx.Err() != nil:
		u.err = fmt.Errorf("upload %s: %w", u.key, context.Cause(u.ctx))
		return 0, u.err
	}
	n, err := u.buffer.Write(p)
	u.err = fault("upload", u.key, err)
	return n, u.err
}

func (u *dirUpload) Seal(ctx context.Context) error {
	if u.over {
		return errOver
	}
	if err := errors.Join(u.err, context.Cause(ctx), context.Cause(u.ctx)); err != nil || u.sealed {
		return err
	}
	// A disk that failed once may say yes the next time, without the bytes: that upload is lost.
	if err := errors.Join(u.buffer.Flush(), u.file.Sync()); err != nil {
		u.err = fault("finish upload of", u.key, err)
		return u.err
	}
	u.sealed = true
	return nil
}

func (u *dirUpload) Commit(ctx context.Context) (Info, error) {
	if err := u.Seal(ctx); err != nil {
		return Info{}, err
	}
	info, err := u.store.replace(u.key, u.id, u.headers)
	if errors.Is(err, fs.ErrNotExist) {
		u.err = fmt.Errorf("finish upload of %s: %w", u.key, ErrAbandoned)
		return Info{}, u.err
	}
	if err != nil {
		return Info{}, fault("finish upload of", u.key, err)
	}
	u.over = true
	return info, fault("finish upload of", u.key, u.file.Close())
}

// replace gives an upload's file the name of the object.
func (d *dirStore) replace(key, id string, opts CreateOptions) (Info, error) {
	upload := uploadFile(key, id)
	if _, err := d.root.Stat(upload); err != nil {
		return Info{}, err
	}
	text, err := json.Marshal(opts)
	if err != nil {
		return Info{}, err
	}
	// The name of the upload, in a directory of its own, is nobody else's.
	fresh := filepath.Join(typesDir, filepath.Base(upload))
	if err := d.writeFile(fresh, text); err != nil {
		return Info{}, err
	}
	if err := d.root.Rename(fresh, headers(key)); err != nil {
		return Info{}, err
	}
	if err := d.root.Rename(upload, object(key)); err != nil {
		return Info{}, err
	}
	if err := errors.Join(d.sync(typesDir), d.sync(objectsDir)); err != nil {
		return Info{}, err
	}
	stat, err := d.root.Stat(object(key))
	if err != nil {
		return Info{}, err
	}
	return Info{Key: key, Size: stat.Size(), Modified: stat.ModTime().UTC(), ContentType: opts.ContentType, ContentEncoding: opts.ContentEncoding}, nil
}

// writeFile writes a small file and makes it last.
func (d *dirStore) writeFile(name string, text []byte) error {
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, private)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func (u *dirUpload) Abort(ctx context.Context) error {
	if u.over {
		return nil
	}
	u.over = true
	closed := u.file.Close()
	return errors.Join(
		u.store.Discard(context.WithoutCancel(ctx), Unfinished{Key: u.key, ID: u.id}),
		fault("abort upload of", u.key, closed),
	)
}
