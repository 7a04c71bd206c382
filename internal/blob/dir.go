package blob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// dirStore keeps objects as files of one directory:
//
//	objects/<key>         the bytes; a slash in a key is '=' in its file's name, which no key has
//	types/<key>           the headers, as JSON
//	uploads/<key>~<uuid>  uploads in progress; the UUID, version 7, holds when it was started
//	link.key              what links are signed with
//
// All files are for the owner alone. Nothing is reached but through root, which does not lead out of the directory.
//
// Nothing is locked, for a process that is stopped while it holds a lock would hold everybody. An upload becomes an object
// by one rename and is abandoned by one removal; of the two, one happens. The headers are a file of their own, so a Commit
// and a Delete of the same key at the same moment, or a crash between the two, may leave bytes with the headers that the
// key had before, or with none: those of a key do not change, because its ending says what it is.
type dirStore struct {
	root     *os.Root
	path     string
	linkBase string
	key      []byte
}

const (
	objectsDir = "objects"
	typesDir   = "types"
	uploadsDir = "uploads"
	private    = 0o600
	privateDir = 0o700

	defaultType = "application/octet-stream"
)

func openDir(options Options) (_ *dirStore, err error) {
	path, err := filepath.Abs(options.Config.Dir)
	if err != nil {
		return nil, fmt.Errorf("PICKET_EXPORT_DIR: %w", err)
	}
	if err := os.MkdirAll(path, privateDir); err != nil {
		return nil, fmt.Errorf("PICKET_EXPORT_DIR: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("PICKET_EXPORT_DIR: %w", err)
	}
	store := &dirStore{root: root, path: path, linkBase: options.LinkBase}
	for _, dir := range []string{objectsDir, typesDir, uploadsDir} {
		if err := root.Mkdir(dir, privateDir); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("PICKET_EXPORT_DIR: %w", err), root.Close())
		}
	}
	if store.key, err = linkKey(root); err != nil {
		return nil, errors.Join(fmt.Errorf("PICKET_EXPORT_DIR: key of the links: %w", err), root.Close())
	}
	return store, nil
}

func (d *dirStore) Close() error { return d.root.Close() }

func fileOf(key string) string  { return strings.ReplaceAll(key, "/", "=") }
func keyOf(file string) string  { return strings.ReplaceAll(file, "=", "/") }
func object(key string) string  { return filepath.Join(objectsDir, fileOf(key)) }
func headers(key string) string { return filepath.Join(typesDir, fileOf(key)) }

// fault gives an error of the file system its class.
func fault(operation, key string, err error) error {
	kind := ErrUnavailable // no room, broken disk, too many open files: all may pass
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		kind = ErrNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		kind = ErrRefused
	}
	return fmt.Errorf("%s %s: %w: %w", operation, key, kind, err)
}

// sync makes what happened in a directory last.
func (d *dirStore) sync(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *dirStore) Stat(ctx context.Context, key string) (Info, error) {
	if err := errors.Join(CheckKey(key), context.Cause(ctx)); err != nil {
		return Info{}, err
	}
	stat, err := d.root.Stat(object(key))
	if err != nil {
		return Info{}, fault("stat", key, err)
	}
	return d.info(key, stat)
}

func (d *dirStore) info(key string, stat fs.FileInfo) (Info, error) {
	info := Info{Key: key, Size: stat.Size(), Modified: stat.ModTime().UTC()}
	text, err := d.root.ReadFile(headers(key))
	stored := CreateOptions{ContentType: defaultType}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Info{}, fault("stat", key, err)
	default:
		if err := json.Unmarshal(text, &stored); err != nil {
			return Info{}, fmt.Errorf("stat %s: %w: its headers: %w", key, ErrRefused, err)
		}
	}
	info.ContentType, info.ContentEncoding = stored.ContentType, stored.ContentEncoding
	return info, nil
}

func (d *dirStore) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := errors.Join(CheckKey(key), context.Cause(ctx)); err != nil {
		return nil, err
	}
	file, err := d.root.Open(object(key))
	if err != nil {
		return nil, fault("open", key, err)
	}
	return &dirReader{ctx, file}, nil
}

// dirReader reads until its context ends.
type dirReader struct {
	ctx  context.Context
	file *os.File
}

func (r *dirReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.file.Read(p)
}

func (r *dirReader) Close() error { return r.file.Close() }

func (d *dirStore) Delete(ctx context.Context, key string) error {
	if err := errors.Join(CheckKey(key), context.Cause(ctx)); err != nil {
		return err
	}
	// The bytes first: what a crash in between leaves is a few headers.
	for _, file := range []string{object(key), headers(key)} {
		if err := d.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault("delete", key, err)
		}
	}
	return fault("delete", key, d.sync(objectsDir))
}

// names are the files of one of the directories, in no order.
func (d *dirStore) names(dir string) ([]string, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}

func (d *dirStore) List(ctx context.Context, prefix string, each func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	names, err := d.names(objectsDir)
	if err != nil {
		return fault("list", prefix, err)
	}
	for i := range names {
		names[i] = keyOf(names[i])
	}
	slices.Sort(names)
	for _, key := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !strings.HasPrefix(key, prefix) || CheckKey(key) != nil {
			continue
		}
		stat, err := d.root.Stat(object(key))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return fault("list", prefix, err)
		}
		if err := each(Info{Key: key, Size: stat.Size(), Modified: stat.ModTime().UTC()}); err != nil {
			return err
		}
	}
	return nil
}

// Ping writes a file, which tells a directory that is gone, read-only or full.
func (d *dirStore) Ping(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	name := filepath.Join(uploadsDir, ".ping-"+uuid.NewString())
	err := d.root.WriteFile(name, []byte{0}, private)
	if removed := d.root.Remove(name); err == nil {
		err = removed
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write to %s: %w: %w", d.path, ErrRefused, err)
	}
	return fault("write to", d.path, err)
}

func (d *dirStore) AbandonUploads(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return d.Uploads(ctx, key, func(u Unfinished) error {
		if u.Key != key {
			return nil
		}
		return d.Discard(ctx, u)
	})
}

func (d *dirStore) Uploads(ctx context.Context, prefix string, each func(Unfinished) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	names, err := d.names(uploadsDir)
	if err != nil {
		return fault("list uploads of", prefix, err)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		file, id, _ := strings.Cut(name, "~")
		key := keyOf(file)
		started, err := uuid.Parse(id)
		if err != nil || !strings.HasPrefix(key, prefix) || CheckKey(key) != nil {
			continue
		}
		if err := each(Unfinished{Key: key, ID: id, Started: time.Unix(started.Time().UnixTime()).UTC()}); err != nil {
			return err
		}
	}
	return nil
}

func (d *dirStore) Discard(ctx context.Context, upload Unfinished) error {
	if err := errors.Join(CheckKey(upload.Key), context.Cause(ctx)); err != nil {
		return err
	}
	if _, err := uuid.Parse(upload.ID); err != nil {
		return fmt.Errorf("abandon upload of %s: %w", upload.Key, err)
	}
	err := d.root.Remove(uploadFile(upload.Key, upload.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fault("abandon upload of", upload.Key, err)
}
