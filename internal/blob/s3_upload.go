package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"
)

// markName is the metadata that says which upload made an object. The answer to the request that makes it can be lost;
// then only this tells our object from another's.
const markName = "Picket-Upload"

// s3Upload is a multipart upload, also when the object is small or empty: only an upload that exists in the store can be
// abandoned by others. While one part is on its way the next is filled.
type s3Upload struct {
	store   *s3Store
	ctx     context.Context // of the Writes, which have none of their own
	cancel  context.CancelFunc
	key, id string
	mark    string

	filling   []byte
	spare     []byte
	onTheWay  chan part // nil: no part is
	parts     []minio.CompletePart
	size      int64
	err       error // final
	sealed    bool  // all parts have arrived
	completed bool  // the store said that it made the object
	over      bool  // committed or aborted
}

type part struct {
	buffer []byte
	done   minio.CompletePart
	err    error
}

func (s *s3Store) Create(ctx context.Context, key string, opts CreateOptions) (Upload, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	upload := &s3Upload{store: s, key: key, mark: uuid.NewString(), filling: make([]byte, 0, s.options.PartSize)}
	err := s.request(ctx, s.options.Timeout, "begin upload of", key, func(ctx context.Context) (err error) {
		options := minio.PutObjectOptions{
			ContentType: opts.ContentType, ContentEncoding: opts.ContentEncoding,
			UserMetadata: map[string]string{markName: upload.mark},
		}
		upload.id, err = s.core.NewMultipartUpload(ctx, s.bucket, key, options)
		if minio.ToErrorResponse(err).Code == minio.NoSuchBucket && s.options.Config.CreateBucket {
			if err := s.makeBucket(ctx); err != nil {
				return err
			}
			upload.id, err = s.core.NewMultipartUpload(ctx, s.bucket, key, options)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	upload.ctx, upload.cancel = context.WithCancel(ctx)
	return upload, nil
}

var errOver = errors.New("the upload is over")

func (u *s3Upload) Write(p []byte) (int, error) {
	if u.over || u.sealed {
		return 0, errOver
	}
	written := 0
	for u.err == nil && written < len(p) {
		if len(u.filling) == cap(u.filling) {
			u.send()
			continue
		}
		n := copy(u.filling[len(u.filling):cap(u.filling)], p[written:])
		u.filling = u.filling[:len(u.filling)+n]
		written += n
	}
	u.size += int64(written)
	return written, u.err
}

// send starts the upload of the full buffer, when the one before has arrived.
func (u *s3Upload) send() {
	if u.err = u.arrived(); u.err != nil {
		return
	}
	if len(u.parts) == maxParts-1 {
		u.err = fmt.Errorf("upload %s: %w: more than %d parts of %d bytes", u.key, ErrRefused, maxParts, u.store.options.PartSize)
		return
	}
	full, number := u.filling, len(u.parts)+1
	u.filling, u.spare = u.spare, nil
	if u.filling == nil {
		u.filling = make([]byte, 0, cap(full))
	}
	way := make(chan part, 1)
	u.onTheWay = way
	go func() {
		done, err := u.put(u.ctx, number, full)
		way <- part{full, done, err}
	}()
}

// arrived waits for the part that is on its way, if any.
func (u *s3Upload) arrived() error {
	if u.onTheWay == nil {
		return nil
	}
	sent := <-u.onTheWay
	u.onTheWay = nil
	u.spare = sent.buffer[:0]
	if sent.err != nil {
		return sent.err
	}
	u.parts = append(u.parts, sent.done)
	return nil
}

// put uploads one part. Its checksum is signed with the request, so the store refuses what is not what was sent.
func (u *s3Upload) put(ctx context.Context, number int, data []byte) (done minio.CompletePart, err error) {
	sum := sha256.Sum256(data)
	err = u.store.request(ctx, u.store.options.TransferTimeout, "upload", u.key, func(ctx context.Context) error {
		stored, err := u.store.core.PutObjectPart(ctx, u.store.bucket, u.key, u.id, number, bytes.NewReader(data), int64(len(data)),
			minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum[:])})
		done = minio.CompletePart{PartNumber: number, ETag: stored.ETag}
		return err
	})
	if errors.Is(err, ErrUnavailable) {
		err = u.gone(ctx, err)
	}
	return done, err
}

// gone tells why a part did not arrive: a store that refuses one early hangs up, and its answer is lost in the break.
func (u *s3Upload) gone(ctx context.Context, err error) error {
	asked := u.store.request(ctx, u.store.options.Timeout, "upload", u.key, func(ctx context.Context) error {
		_, err := u.store.core.ListObjectParts(ctx, u.store.bucket, u.key, u.id, 0, 1)
		return err
	})
	if errors.Is(asked, ErrAbandoned) {
		return asked
	}
	return err
}

func (u *s3Upload) Seal(ctx context.Context) error {
	if u.over {
		return errOver
	}
	return u.final(u.seal(ctx))
}

func (u *s3Upload) seal(ctx context.Context) error {
	if u.err == nil {
		u.err = u.arrived()
	}
	if u.err != nil || u.sealed {
		return u.err
	}
	if len(u.filling) > 0 || len(u.parts) == 0 { // an empty object has one empty part
		done, err := u.put(ctx, len(u.parts)+1, u.filling)
		if err != nil {
			return err
		}
		u.parts = append(u.parts, done)
	}
	u.sealed, u.filling, u.spare = true, nil, nil
	return nil
}

// final remembers errors after which there is nothing to try again.
func (u *s3Upload) final(err error) error {
	if err != nil && !errors.Is(err, ErrUnavailable) {
		u.err = err
	}
	return err
}

func (u *s3Upload) Commit(ctx context.Context) (Info, error) {
	if u.over {
		return Info{}, errOver
	}
	info, err := u.commit(ctx)
	if err == nil {
		u.end()
	}
	return info, u.final(err)
}

func (u *s3Upload) commit(ctx context.Context) (Info, error) {
	if err := u.seal(ctx); err != nil {
		return Info{}, err
	}
	if !u.completed {
		err := u.store.request(ctx, u.store.options.TransferTimeout, "finish upload of", u.key, func(ctx context.Context) error {
			_, err := u.store.core.CompleteMultipartUpload(ctx, u.store.bucket, u.key, u.id, u.parts, minio.PutObjectOptions{})
			return err
		})
		// An upload that is gone was abandoned, or finished by a request whose answer was lost: the mark tells.
		if err != nil && !errors.Is(err, ErrAbandoned) {
			return Info{}, err
		}
		u.completed = err == nil
	}
	info, mark, err := u.store.stat(ctx, u.key)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && mark != u.mark:
		return Info{}, fmt.Errorf("finish upload of %s: %w", u.key, ErrAbandoned)
	case err != nil:
		return Info{}, err
	case info.Size != u.size:
		return Info{}, fmt.Errorf("finish upload of %s: %w: the store has %d bytes of %d", u.key, ErrRefused, info.Size, u.size)
	}
	return info, nil
}

func (u *s3Upload) Abort(ctx context.Context) error {
	if u.over {
		return nil
	}
	u.cancel()
	_ = u.arrived() // the store may still be writing the part: one that comes after the end would stay
	u.end()
	return u.store.Discard(context.WithoutCancel(ctx), Unfinished{Key: u.key, ID: u.id})
}

func (u *s3Upload) end() {
	u.cancel()
	u.over, u.filling, u.spare = true, nil, nil
}

// AbandonUploads ends uploads until they are gone: a part that was on its way while its upload ended may stay, and with
// it, for some stores, the upload. S3 asks its clients to look and to end it again.
func (s *s3Store) AbandonUploads(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	var begun map[string]bool // before the call: the others are not ours to end
	for round := range abandonRounds {
		found := map[string]bool{}
		err := s.Uploads(ctx, key, func(u Unfinished) error {
			if u.Key != key || (round > 0 && !begun[u.ID]) {
				return nil
			}
			found[u.ID] = true
			return s.Discard(ctx, u)
		})
		if err != nil || len(found) == 0 {
			return err
		}
		if round == 0 {
			begun = found
			continue
		}
		select {
		case <-time.After(time.Duration(round) * 50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("abandon uploads of %s: %w", key, context.Cause(ctx))
		}
	}
	return fmt.Errorf("abandon uploads of %s: %w: parts keep arriving", key, ErrUnavailable)
}

const abandonRounds = 12 // three seconds

func (s *s3Store) Uploads(ctx context.Context, prefix string, each func(Unfinished) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	var keyMarker, idMarker string
	for {
		var page minio.ListMultipartUploadsResult
		err := s.request(ctx, s.options.Timeout, "list uploads of", prefix, func(ctx context.Context) (err error) {
			page, err = s.core.ListMultipartUploads(ctx, s.bucket, prefix, keyMarker, idMarker, "", 1000)
			return err
		})
		if err != nil {
			return err
		}
		for _, upload := range page.Uploads {
			if CheckKey(upload.Key) != nil {
				continue // somebody else's
			}
			if err := each(Unfinished{Key: upload.Key, ID: upload.UploadID, Started: upload.Initiated.UTC()}); err != nil {
				return err
			}
		}
		if !page.IsTruncated || (page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == idMarker) {
			return nil
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

func (s *s3Store) Discard(ctx context.Context, upload Unfinished) error {
	if err := CheckKey(upload.Key); err != nil {
		return err
	}
	err := s.request(ctx, s.options.Timeout, "abandon upload of", upload.Key, func(ctx context.Context) error {
		return s.core.AbortMultipartUpload(ctx, s.bucket, upload.Key, upload.ID)
	})
	if errors.Is(err, ErrAbandoned) {
		return nil
	}
	return err
}
