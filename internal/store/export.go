package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The states of an export.
const (
	ExportPending    = "PENDING"
	ExportProcessing = "PROCESSING"
	ExportCompleted  = "COMPLETED"
	ExportFailed     = "FAILED"
	ExportCanceled   = "CANCELED"
	ExportExpired    = "EXPIRED"
)

// The states of an export's callback.
const (
	CallbackNone      = "none"
	CallbackPending   = "pending"
	CallbackDelivered = "delivered"
	CallbackFailed    = "failed"
)

// ChannelExports is notified when there is something in the outbox of exports.
const ChannelExports = "picket_exports"

// ErrExportState says that the export is in a state in which this can not be done.
var ErrExportState = errors.New("not in this state of the export")

// Export is a row of export_jobs. Zero times are null.
type Export struct {
	ID          uuid.UUID
	Org         string
	Type        string
	Format      string
	Compression string
	// Status is one of the states; a COMPLETED export whose time is over reads as EXPIRED at once.
	Status  string
	Filters ExportFilters
	// Key of the object, in every state.
	Key string
	// SHA256 (hex), Bytes and Rows are those of the object of a COMPLETED export.
	SHA256       string
	Bytes, Rows  int64
	ProgressRows int64
	// Attempt counts the claims, from 1.
	Attempt int
	Error   string

	CallbackURL      string
	CallbackState    string
	CallbackError    string
	CallbackAttempts int

	CreatedBy                                    string
	CreatedAt, StartedAt, CompletedAt, ExpiresAt time.Time
}

const exportColumns = `id, org, export_type, format, compression,
    CASE WHEN status = 'COMPLETED' AND expires_at <= clock_timestamp() THEN 'EXPIRED' ELSE status END, filters,
    file_path, sha256, coalesce(file_size_bytes, 0), coalesce(row_count, 0), progress_rows, attempt, error,
    callback_url, callback_state, callback_error, callback_attempts, created_by, created_at, started_at, completed_at, expires_at`

func scanExport(row pgx.CollectableRow) (Export, error) {
	var e Export
	var filters json.RawMessage
	var started, completed, expires *time.Time
	err := row.Scan(&e.ID, &e.Org, &e.Type, &e.Format, &e.Compression, &e.Status, &filters, &e.Key, &e.SHA256, &e.Bytes, &e.Rows,
		&e.ProgressRows, &e.Attempt, &e.Error, &e.CallbackURL, &e.CallbackState, &e.CallbackError, &e.CallbackAttempts,
		&e.CreatedBy, &e.CreatedAt, &started, &completed, &expires)
	if err != nil {
		return e, err
	}
	e.CreatedAt, e.StartedAt, e.CompletedAt, e.ExpiresAt = e.CreatedAt.UTC(), fromNull(started), fromNull(completed), fromNull(expires)
	if err := json.Unmarshal(filters, &e.Filters); err != nil {
		return e, fmt.Errorf("filters of export %s: %w", e.ID, err)
	}
	return e, nil
}

// NewExport is what is asked for.
type NewExport struct {
	Org         string
	Type        string
	Format      string // empty: csv
	Compression string // empty: none
	Filters     ExportFilters
	// CallbackURL is told of the end; empty: nobody is. The caller has judged it.
	CallbackURL string
	// CreatedBy names who asked.
	CreatedBy string
}

// Normalize puts defaults where nothing is said and resolves the time range, and returns every fault by its field; the
// error is [Faults]. What only the database knows is judged by [Store.CreateExport].
func (n *NewExport) Normalize(now time.Time) error {
	if n.Format == "" {
		n.Format = "csv"
	}
	if n.Compression == "" {
		n.Compression = "none"
	}
	var faults Faults
	source, known := exportSources[n.Type]
	if !known {
		faults.add("export_type", "%q is not one of %s", n.Type, strings.Join(ExportTypes(), ", "))
	}
	faults.oneOf("format", n.Format, "csv", "ndjson", "json", "parquet")
	faults.oneOf("compression", n.Compression, "none", "gzip", "zstd")
	if known {
		n.Filters.normalize(n.Type, source, now, &faults)
	}
	return faults.orNil()
}

// CreateExport puts an export into the queue: the row, what it says, the work item and the audit entry, if any, are one
// transaction. Errors: [Faults], and those of [Store.CheckIdempotency] for a request that came before.
func (s *Store) CreateExport(ctx context.Context, n NewExport, once Idempotency, audit *Audit) (Export, error) {
	if err := n.Normalize(time.Now()); err != nil {
		return Export{}, err
	}
	filters, err := json.Marshal(n.Filters)
	if err != nil {
		return Export{}, fmt.Errorf("create export: encode filters: %w", err)
	}
	var export Export
	err = InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		id := uuid.New()
		if err := once.claim(ctx, tx, id.String()); err != nil {
			return err
		}
		if err := checkExportFilters(ctx, tx, n); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			INSERT INTO export_jobs (id, org, export_type, format, compression, filters, file_path, callback_url, created_by)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING `+exportColumns,
			id, n.Org, n.Type, n.Format, n.Compression, filters, exportKey(id, n.Format, n.Compression), n.CallbackURL, n.CreatedBy)
		if err != nil {
			return err
		}
		if export, err = oneExport(rows); err != nil {
			return err
		}
		return auditExport(ctx, tx, audit, nil, &export)
	})
	if err != nil {
		return Export{}, fmt.Errorf("create export: %w", err)
	}
	return export, nil
}

// auditExport writes what changed, in the transaction that changes it.
func auditExport(ctx context.Context, tx pgx.Tx, audit *Audit, before, after *Export) error {
	if audit == nil {
		return nil
	}
	entry := *audit
	entry.Org, entry.TargetKind, entry.Target = after.Org, "export", after.ID.String()
	if before != nil {
		entry.Before = map[string]any{"status": before.Status, "expires_at": before.ExpiresAt}
	}
	entry.After = map[string]any{
		"type": after.Type, "format": after.Format, "compression": after.Compression, "filters": after.Filters,
		"status": after.Status, "expires_at": after.ExpiresAt,
	}
	return writeAudit(ctx, tx, entry)
}

// exportKey is the name of the object. Parquet compresses its own pages, and a compressed Parquet file is one that no
// reader opens.
func exportKey(id uuid.UUID, format, compression string) string {
	key := id.String() + "." + format
	if format == "parquet" {
		return key
	}
	switch compression {
	case "gzip":
		return key + ".gz"
	case "zstd":
		return key + ".zst"
	default:
		return key
	}
}

func oneExport(rows pgx.Rows) (Export, error) {
	export, err := pgx.CollectExactlyOneRow(rows, scanExport)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return export, err
}

// Export returns one export of an organization; the error matches [ErrNotFound] when it has no such.
func (s *Store) Export(ctx context.Context, org string, id uuid.UUID) (Export, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT `+exportColumns+` FROM export_jobs WHERE org = $1 AND id = $2`, org, id)
	if err != nil {
		return Export{}, fmt.Errorf("read export: %w", err)
	}
	export, err := oneExport(rows)
	if err != nil {
		return Export{}, fmt.Errorf("read export: %w", err)
	}
	return export, nil
}

// ExportQuery picks exports of an organization, the newest first.
type ExportQuery struct {
	Org    string
	Status string // empty: all
	Type   string // empty: all
	// Before continues a list behind its last row: created before it, or at the same time with a smaller id.
	Before   time.Time
	BeforeID uuid.UUID
	Limit    int // required
}

// Exports returns exports of an organization, the newest first.
func (s *Store) Exports(ctx context.Context, q ExportQuery) ([]Export, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var before *time.Time
	if !q.Before.IsZero() {
		before = &q.Before
	}
	rows, err := s.pool.Query(ctx, `
		SELECT `+exportColumns+` FROM export_jobs
		WHERE org = $1 AND ($2 = '' OR CASE WHEN status = 'COMPLETED' AND expires_at <= clock_timestamp() THEN 'EXPIRED' ELSE status END = $2)
		  AND ($3 = '' OR export_type = $3) AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
		ORDER BY created_at DESC, id DESC LIMIT $6`, q.Org, q.Status, q.Type, before, q.BeforeID, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("list exports: %w", err)
	}
	exports, err := pgx.CollectRows(rows, scanExport)
	if err != nil {
		return nil, fmt.Errorf("list exports: %w", err)
	}
	return exports, nil
}
