package blob

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// s3Store keeps objects in a bucket.
type s3Store struct {
	options   Options
	bucket    string
	core      minio.Core
	public    *minio.Client // signs links for the host people reach; it never connects
	transport *http.Transport
}

func openS3(options Options) (*s3Store, error) {
	if options.PartSize < minPart {
		return nil, fmt.Errorf("parts of %d bytes: S3 wants %d at least", options.PartSize, minPart)
	}
	config := options.Config
	if err := s3utils.CheckValidBucketNameStrict(config.Bucket); err != nil {
		return nil, fmt.Errorf("S3_BUCKET: %w", err)
	}
	store := &s3Store{options: options, bucket: config.Bucket, transport: newTransport()}
	client, err := newClient(config, config.Endpoint, store.transport)
	if err != nil {
		return nil, fmt.Errorf("S3_ENDPOINT: %w", err)
	}
	store.core = minio.Core{Client: client}
	store.public = client
	if config.PublicEndpoint != "" {
		// The host is part of what is signed: a link for another host has to be signed for it, not rewritten to it.
		if store.public, err = newClient(config, config.PublicEndpoint, store.transport); err != nil {
			return nil, fmt.Errorf("S3_PUBLIC_ENDPOINT: %w", err)
		}
	}
	return store, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // else a gzipped object would be unpacked on the way
	}
}

func newClient(config Config, endpoint string, transport http.RoundTripper) (*minio.Client, error) {
	u, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupPath // <bucket>.<host> needs a wildcard name in DNS, which own servers rarely have
	if s3utils.IsAmazonEndpoint(*u) {
		lookup = minio.BucketLookupAuto
	}
	return minio.New(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(config.AccessKey, config.SecretKey, ""),
		Secure:       u.Scheme == "https",
		Transport:    transport,
		Region:       config.Region, // known, so it is never asked for
		BucketLookup: lookup,
		MaxRetries:   5,
	})
}

// request runs one operation with a deadline of its own and gives its error a class.
func (s *s3Store) request(ctx context.Context, limit time.Duration, operation, key string, do func(ctx context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return classify(ctx, operation, key, do(within))
}

// classify wraps an error of the client in the class that says what to do about it. ctx is the caller's: when that has
// ended, its end is the error.
func classify(ctx context.Context, operation, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", operation, key, context.Cause(ctx))
	}
	return fmt.Errorf("%s %s: %w: %w", operation, key, class(err), err)
}

func class(err error) error {
	if response, ok := errors.AsType[minio.ErrorResponse](err); ok && (response.StatusCode != 0 || response.Code != "") {
		switch {
		case response.Code == minio.NoSuchUpload, response.Code == minio.InvalidPart:
			return ErrAbandoned // parts we sent are gone only with their upload
		case response.Code == minio.NoSuchKey:
			return ErrNotFound
		case response.StatusCode >= 500, response.StatusCode == http.StatusTooManyRequests, response.StatusCode == http.StatusRequestTimeout:
			return ErrUnavailable
		case response.Code == "InternalError", response.Code == "SlowDown", response.Code == "ServiceUnavailable":
			return ErrUnavailable // inside an answer that began with 200
		}
		return ErrRefused
	}
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, certificate := errors.AsType[x509.CertificateInvalidError](err)
	if authority || host || certificate || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return ErrRefused
	}
	return ErrUnavailable
}

func (s *s3Store) Stat(ctx context.Context, key string) (Info, error) {
	info, _, err := s.stat(ctx, key)
	return info, err
}

// stat also says which upload made the object.
func (s *s3Store) stat(ctx context.Context, key string) (info Info, mark string, err error) {
	if err := CheckKey(key); err != nil {
		return Info{}, "", err
	}
	err = s.request(ctx, s.options.Timeout, "stat", key, func(ctx context.Context) error {
		object, err := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
		info = Info{
			Key: key, Size: object.Size, Modified: object.LastModified.UTC(),
			ContentType: object.ContentType, ContentEncoding: object.Metadata.Get("Content-Encoding"),
		}
		mark = object.Metadata.Get("X-Amz-Meta-" + markName)
		return err
	})
	return info, mark, err
}

func (s *s3Store) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	within, watch := newWatch(ctx, s.options.Timeout)
	body, _, _, err := s.core.GetObject(within, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		watch.stop()
		return nil, classify(ctx, "open", key, err)
	}
	watch.rest()
	return &s3Reader{ctx: ctx, key: key, body: body, watch: watch}, nil
}

// s3Reader is a download that fails when it stands still.
type s3Reader struct {
	ctx   context.Context
	key   string
	body  io.ReadCloser
	watch *watch
}

func (r *s3Reader) Read(p []byte) (int, error) {
	r.watch.touch()
	n, err := r.body.Read(p)
	r.watch.rest()
	if err != nil && !errors.Is(err, io.EOF) {
		err = classify(r.ctx, "read", r.key, err)
	}
	return n, err
}

func (r *s3Reader) Close() error {
	r.watch.stop()
	return r.body.Close()
}

func (s *s3Store) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	err := s.request(ctx, s.options.Timeout, "delete", key, func(ctx context.Context) error {
		return s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (s *s3Store) List(ctx context.Context, prefix string, each func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	within, watch := newWatch(ctx, s.options.Timeout)
	defer watch.stop()
	for object := range s.core.ListObjectsIter(within, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		watch.rest()
		if object.Err != nil {
			return classify(ctx, "list", prefix, object.Err)
		}
		if CheckKey(object.Key) != nil {
			continue // somebody else's: nothing here could name it
		}
		if err := each(Info{Key: object.Key, Size: object.Size, Modified: object.LastModified.UTC()}); err != nil {
			return err
		}
		watch.touch()
	}
	return classify(ctx, "list", prefix, within.Err())
}

func (s *s3Store) Link(ctx context.Context, key string, ttl time.Duration, filename string) (string, error) {
	if err := errors.Join(CheckKey(key), checkTTL(ttl)); err != nil {
		return "", err
	}
	query := url.Values{"response-content-disposition": {disposition(filename)}}
	link, err := s.public.PresignedGetObject(ctx, s.bucket, key, ttl, query)
	if err != nil {
		return "", classify(ctx, "sign a link to", key, err)
	}
	return link.String(), nil
}

// disposition makes a browser save what it gets, under that name.
func disposition(filename string) string {
	if filename != "" {
		if value := mime.FormatMediaType("attachment", map[string]string{"filename": filename}); value != "" {
			return value
		}
	}
	return "attachment"
}

func (s *s3Store) Ping(ctx context.Context) error {
	return s.request(ctx, s.options.Timeout, "look at bucket", s.bucket, func(ctx context.Context) error {
		exists, err := s.core.BucketExists(ctx, s.bucket)
		if err != nil || exists {
			return err
		}
		if !s.options.Config.CreateBucket {
			return minio.ErrorResponse{Code: minio.NoSuchBucket, StatusCode: http.StatusNotFound, Message: "the bucket does not exist"}
		}
		return s.makeBucket(ctx)
	})
}

// makeBucket makes the bucket, or finds that somebody else of ours was faster.
func (s *s3Store) makeBucket(ctx context.Context) error {
	err := s.core.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{Region: s.options.Config.Region})
	if minio.ToErrorResponse(err).Code == minio.BucketAlreadyOwnedByYou {
		return nil
	}
	return err
}

func (s *s3Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// watch ends a context when nothing has moved for a while.
type watch struct {
	cancel context.CancelFunc
	timer  *time.Timer
	limit  time.Duration
}

// newWatch begins with the limit running.
func newWatch(ctx context.Context, limit time.Duration) (context.Context, *watch) {
	within, cancel := context.WithCancel(ctx)
	return within, &watch{cancel: cancel, timer: time.AfterFunc(limit, cancel), limit: limit}
}

// touch says that something is waited for from now on.
func (w *watch) touch() { w.timer.Reset(w.limit) }

// rest says that nothing is waited for.
func (w *watch) rest() { w.timer.Stop() }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel()
}
