// Package blob keeps what Picket hands out, export artifacts, whole or not at all: in an S3-compatible object store, or,
// when there is none, in a directory of this machine that answers as the object store does. One conformance suite holds
// both to the same promises.
//
// An object appears with [Upload.Commit] and not before; what a crash leaves behind is an unfinished upload, which nobody
// can read and which [Sweep] finds and ends. [Store.AbandonUploads] ends every unfinished upload of a key, whoever began
// it, so that the Commit of a stale attempt fails: that is the fence between two attempts at the same object. For it to
// hold, an attempt that may have lost its claim asks between [Upload.Seal] and Commit whether it still has it, and the
// next attempt takes the claim before it abandons: docs/adr/0019-fence-by-abandoned-uploads.md.
//
// May enter: bytes, keys, durations. May leave: bytes, links, errors with a class ([ErrNotFound], [ErrAbandoned],
// [ErrUnavailable], [ErrRefused], [ErrKey]). This is the only room that imports minio-go; it knows neither jobs nor the
// database.
package blob
