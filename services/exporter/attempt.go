package exporter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/exporter/format"
)

const (
	// commitLeases is for how many leases the row is locked at most while the store makes one object of the parts.
	commitLeases = 2
	// endGrace is how long the end of an attempt may take once the service is told to stop.
	endGrace = 5 * time.Second
	// An export that failed comes again after a while that doubles.
	retryFirst = 2 * time.Second
	retryMost  = 5 * time.Minute
	// progressEvery is how often progress is told.
	progressEvery = 5 * time.Second
	// renewMost bounds how late a canceled export notices.
	renewMost = 2 * time.Second
)

// errUnequal says that the store gives back something else than was written.
var errUnequal = errors.New("the object read back is not what was written")

// handle makes the export that a work item names.
func (s *Service) handle(ctx context.Context, item *bus.Msg) error {
	var work picketv1.ExportWork
	if err := item.Decode(&work); err != nil {
		return s.giveUp(ctx, item, bus.ReasonUnreadable, err)
	}
	id, err := uuid.Parse(work.GetExportId())
	if err != nil {
		return s.giveUp(ctx, item, bus.ReasonContract, err)
	}
	// To its end also in a stop: a claim of unknown outcome could not be given back.
	claim, err := s.store.ClaimExport(context.WithoutCancel(ctx), id, s.kit.Instance, s.config.Lease, s.config.MaxTries)
	if busy, ok := errors.AsType[*store.ExportBusyError](err); ok {
		return &bus.LaterError{After: busy.For + 100*time.Millisecond, Cause: err}
	}
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrExportState):
		s.log.Debug("nothing to export", "export_id", id, "err", err)
		return nil
	case err != nil:
		s.log.Warn("export not claimed, trying again", "export_id", id, "err", err)
		return &bus.LaterError{After: retryFirst, Cause: err}
	}
	return s.attempt(ctx, claim)
}

// giveUp makes a dead letter of an item that is none.
func (s *Service) giveUp(ctx context.Context, item *bus.Msg, reason string, cause error) error {
	if err := item.DeadLetter(ctx, reason, cause); err != nil {
		return err
	}
	s.metrics.dead.WithLabelValues(Durable, reason).Inc()
	s.log.Warn("message became a dead letter", "sequence", item.Sequence, "reason", reason, "err", cause)
	return nil
}

// attempt makes an export and says how that ended. Its error is when the item shall come again.
func (s *Service) attempt(ctx context.Context, claim store.ExportClaim) error {
	e := claim.Export
	log := s.log.With("export_id", e.ID, "attempt", claim.Attempt)
	log.Info("starting export", "org", e.Org, "type", e.Type, "format", e.Format, "compression", e.Compression)
	started := time.Now()
	s.metrics.running.Inc()
	result, err := s.make(ctx, claim)
	s.metrics.running.Dec()
	if err == nil {
		took := time.Since(started)
		s.completed.Add(1)
		s.metrics.completed(e.Format, took, result)
		log.Info("export complete", "rows", result.Rows, "bytes", result.Bytes, "sha256", result.SHA256, "duration_seconds", took.Seconds())
		return nil
	}
	if errors.Is(err, store.ErrLeaseLost) || errors.Is(err, blob.ErrAbandoned) {
		log.Info("export ended by somebody else: canceled, or taken over", "err", err)
		return &bus.LaterError{After: s.config.Lease, Cause: err} // for whoever took over, should that end too
	}

	stopping := ctx.Err() != nil
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endGrace)
	defer cancel()
	end := store.AttemptEnd{Error: err.Error(), Final: final(err), Uncounted: stopping, MaxTries: s.config.MaxTries}
	if stopping {
		end.Error, end.Final = "interrupted: the exporter was stopped", false
	}
	status, ended := s.store.EndAttempt(ending, claim, end)
	switch {
	case errors.Is(ended, store.ErrLeaseLost):
		log.Info("export ended by somebody else: canceled, or taken over", "err", err)
		return &bus.LaterError{After: s.config.Lease, Cause: err}
	case ended != nil:
		// The row keeps its lease until that runs out.
		log.Warn("export attempt failed and could not say so", "err", errors.Join(err, ended))
		return &bus.LaterError{After: s.config.Lease, Cause: err}
	case status == store.ExportFailed:
		s.failed.Add(1)
		s.metrics.failures.WithLabelValues(e.Format).Inc()
		log.Error("export failed", "err", err)
		return nil
	case stopping:
		log.Info("export given back, the service stops")
		return &bus.LaterError{Cause: err}
	default:
		wait := min(retryFirst<<min(claim.Attempt-1, 20), retryMost)
		log.Warn("export attempt failed, trying again", "err", err, "wait", wait)
		return &bus.LaterError{After: wait, Cause: err}
	}
}

// final reports the errors that another attempt would end with too.
func final(err error) bool {
	return errors.Is(err, format.ErrUnsupported) || store.Classify(err) == store.Data
}

// make streams the rows into the object, puts it in its place, reads it back and completes the row. What it does ends, with
// the cause, when the lease is lost.
func (s *Service) make(ctx context.Context, claim store.ExportClaim) (store.ExportResult, error) {
	held, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	result, err := s.makeHeld(held, lose, claim)
	return result, because(held, err)
}

func (s *Service) makeHeld(ctx context.Context, lose context.CancelCauseFunc, claim store.ExportClaim) (store.ExportResult, error) {
	var rows atomic.Int64
	release := s.hold(ctx, lose, claim, &rows)
	defer func() { release() }()
	sum := newSumWriter(nil)
	upload, err := s.write(ctx, claim.Export, sum, &rows)
	if err != nil {
		return store.ExportResult{}, err
	}
	defer s.abort(ctx, claim.Export.Key, upload)
	// Nothing of the upload is on its way from here on: should the claim be lost now, the next attempt ends it for good.
	if err := upload.Seal(ctx); err != nil {
		return store.ExportResult{}, err
	}
	release() // the commit holds the row itself
	result := store.ExportResult{Rows: rows.Load(), Bytes: sum.bytes, SHA256: sum.hex()}

	err = s.store.CommitExport(ctx, claim, commitLeases*s.config.Lease, s.config.Lease, func(ctx context.Context) error {
		_, err := upload.Commit(ctx)
		return err
	})
	// Of that transaction only the lock mattered: with the object in its place it is all the same how it ended.
	if err != nil && !errors.Is(err, store.ErrUnknownOutcome) {
		return store.ExportResult{}, err
	}
	release = s.hold(ctx, lose, claim, &rows)
	if err := s.verify(ctx, claim.Export.Key, result); err != nil {
		return store.ExportResult{}, err
	}
	return result, s.complete(ctx, claim, result)
}

// abort ends an upload; one that was committed stays.
func (s *Service) abort(ctx context.Context, key string, upload blob.Upload) {
	aborting, cancel := context.WithTimeout(context.WithoutCancel(ctx), endGrace)
	defer cancel()
	if err := upload.Abort(aborting); err != nil {
		s.log.Warn("upload not ended, the sweep will", "key", key, "err", err)
	}
}

// because is why ctx ended, when that is why err is; a lost lease is seen as a canceled context everywhere below.
func because(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// write streams the rows into a new upload. Older attempts' uploads end before it begins. The upload is the caller's to end.
func (s *Service) write(ctx context.Context, e store.Export, sum *sumWriter, rows *atomic.Int64) (_ blob.Upload, err error) {
	if err := s.blob.AbandonUploads(ctx, e.Key); err != nil {
		return nil, fmt.Errorf("abandon uploads of earlier attempts: %w", err)
	}
	columns, err := store.ExportColumns(e.Type, e.Filters)
	if err != nil {
		return nil, err
	}
	upload, err := s.blob.Create(ctx, e.Key, createOptions(e))
	if err != nil {
		return nil, fmt.Errorf("create upload: %w", err)
	}
	defer func() {
		if err != nil {
			s.abort(ctx, e.Key, upload)
		}
	}()
	sum.w = upload
	encoder, err := format.New(sum, format.Format(e.Format), format.Compression(e.Compression), formatColumns(columns))
	if err != nil {
		return nil, fmt.Errorf("open encoder: %w", err)
	}
	err = s.store.StreamExport(ctx, e, func(values []any) error {
		if err := encoder.Row(values); err != nil {
			return fmt.Errorf("write row %d: %w", rows.Load()+1, err)
		}
		rows.Add(1)
		return nil
	})
	err = errors.Join(err, encoder.Close())
	return upload, err
}

// verify reads the object back.
func (s *Service) verify(ctx context.Context, key string, want store.ExportResult) error {
	object, err := s.blob.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	sum := newSumWriter(io.Discard)
	_, err = io.Copy(sum, object)
	if err = errors.Join(err, object.Close()); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if sum.bytes != want.Bytes || sum.hex() != want.SHA256 {
		return fmt.Errorf("%w: %d bytes, SHA-256 %s, want %d, %s", errUnequal, sum.bytes, sum.hex(), want.Bytes, want.SHA256)
	}
	return nil
}

// complete marks the row, for as long as the lease can be held.
func (s *Service) complete(ctx context.Context, claim store.ExportClaim, result store.ExportResult) error {
	for {
		err := s.store.CompleteExport(ctx, claim, result, s.config.Keep)
		if class := store.Classify(err); err == nil || class != store.Unavailable && class != store.Retry {
			return err
		}
		s.log.Warn("export not marked complete, trying again", "export_id", claim.Export.ID, "err", err)
		if !sleep(ctx, 500*time.Millisecond) {
			return err
		}
	}
}

// hold renews the lease until release, and tells progress; it calls lose with the reason when the lease is lost. release may
// be called more than once.
func (s *Service) hold(
	ctx context.Context, lose context.CancelCauseFunc, claim store.ExportClaim, rows *atomic.Int64,
) (release func()) {
	renewing, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.renew(renewing, claim, rows); err != nil {
			lose(err)
		}
	}()
	return func() { stop(); <-ended }
}

// renew returns nil when ctx ended, and why the lease is lost otherwise.
func (s *Service) renew(ctx context.Context, claim store.ExportClaim, rows *atomic.Int64) error {
	every := min(s.config.Lease/5, renewMost)
	renewed, told, toldRows := time.Now(), time.Now(), int64(0)
	for sleep(ctx, every) {
		now := time.Now()
		within, cancel := context.WithTimeout(ctx, s.config.Lease/2)
		err := s.store.RenewExport(within, claim, s.config.Lease, rows.Load())
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			renewed = now
		case errors.Is(err, store.ErrLeaseLost):
			return err
		case time.Since(renewed) > s.config.Lease:
			return fmt.Errorf("lease could not be renewed in time: %w", err)
		}
		if n := rows.Load(); n != toldRows && time.Since(told) >= progressEvery {
			told, toldRows = now, n
			s.tellProgress(ctx, claim, n)
		}
	}
	return nil
}

// tellProgress is for whoever looks on; nothing depends on it.
func (s *Service) tellProgress(ctx context.Context, claim store.ExportClaim, rows int64) {
	e, now := claim.Export, time.Now()
	_, err := s.bus.Publish(ctx, bus.Message{
		Subject: bus.ExportSubject(e.Org, "progress", e.ID.String()),
		ID:      fmt.Sprintf("export/%s/%d/progress/%d", e.ID, claim.Attempt, rows), Time: now,
		Payload: &picketv1.ExportEvent{
			Phase: "progress", ExportId: e.ID.String(), Org: e.Org, Type: e.Type, Format: e.Format, Rows: rows,
			Attempt: int32(claim.Attempt), At: timestamppb.New(now),
		},
	})
	if err != nil {
		s.log.Debug("progress not told", "export_id", e.ID, "err", err)
	}
}

// sumWriter counts and hashes what goes through it.
type sumWriter struct {
	w     io.Writer
	sum   hash.Hash
	bytes int64
}

func newSumWriter(w io.Writer) *sumWriter { return &sumWriter{w: w, sum: sha256.New()} }

func (s *sumWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.bytes += int64(n)
	return n, err
}

func (s *sumWriter) hex() string { return hex.EncodeToString(s.sum.Sum(nil)) }
