package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/picketd/picket/internal/store"
)

// exportLink is how long a download link lasts, if the export does.
const exportLink = time.Hour

// ExportFilters say which rows an export has.
type ExportFilters struct {
	TimeRange   string     `json:"time_range,omitempty" enum:"1h,6h,24h,7d,30d,90d" doc:"Up to now; 24h when nothing is said, 30d for alerts and audit. Not beside from."`
	From        *time.Time `json:"from,omitempty"`
	To          *time.Time `json:"to,omitempty" doc:"Not included; now when left out."`
	Servers     []string   `json:"servers,omitempty" maxItems:"1000" doc:"Names."`
	Groups      []string   `json:"groups,omitempty" maxItems:"1000" doc:"Names; members now."`
	Tags        []string   `json:"tags,omitempty" maxItems:"1000" doc:"All of them are on the server."`
	Status      []string   `json:"status,omitempty" maxItems:"1000" doc:"Of servers, health checks or alerts, in their words."`
	Severity    []string   `json:"severity,omitempty" maxItems:"1000" doc:"Of alerts."`
	MetricNames []string   `json:"metric_names,omitempty" maxItems:"1000" doc:"Columns of metrics, rows of system_metrics."`
}

// Export is an export as people see it.
type Export struct {
	ID            string        `json:"export_id" format:"uuid"`
	Type          string        `json:"export_type"`
	Format        string        `json:"format"`
	Compression   string        `json:"compression"`
	Filters       ExportFilters `json:"filters"`
	Status        string        `json:"status" enum:"PENDING,PROCESSING,COMPLETED,FAILED,CANCELED,EXPIRED"`
	ProgressRows  int64         `json:"progress_rows" doc:"Rows written by the attempt under way."`
	RowCount      *int64        `json:"row_count,omitempty"`
	FileSizeBytes *int64        `json:"file_size_bytes,omitempty"`
	FilePath      string        `json:"file_path,omitempty" doc:"Key of the object."`
	SHA256        string        `json:"sha256,omitempty" doc:"Of the object; it was read back and compared before the export was completed."`
	Attempt       int           `json:"attempt"`
	Error         string        `json:"error,omitempty" doc:"Why it failed, or the last attempt did."`
	CreatedBy     string        `json:"created_by"`
	CreatedAt     time.Time     `json:"created_at"`
	StartedAt     *time.Time    `json:"started_at,omitempty"`
	CompletedAt   *time.Time    `json:"completed_at,omitempty"`
	ExpiresAt     *time.Time    `json:"expires_at,omitempty" doc:"Until when it can be downloaded; known with its completion."`
	CallbackURL   string        `json:"callback_url,omitempty" doc:"Without its query."`
	CallbackState string        `json:"callback_state" enum:"none,pending,delivered,failed"`
	CallbackTries int           `json:"callback_attempts"`
	CallbackError string        `json:"callback_error,omitempty"`
}

type exportList struct {
	Exports []Export `json:"exports" nullable:"false"`
	Count   int      `json:"count"`
	Limit   int      `json:"limit"`
	Next    string   `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerExports(api huma.API) {
	const path, one = base + "/exports", base + "/exports/{id}"
	tags := []string{"exports"}
	route(api, store.Operator, huma.Operation{
		OperationID: "create-export", Method: http.MethodPost, Path: path, Tags: tags,
		Summary: "Ask for an export", DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict, http.StatusUnprocessableEntity},
		Description: "Rows of one snapshot, made in the background. The type `audit` needs the role admin.",
	}, s.createExport)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-exports", Method: http.MethodGet, Path: path, Tags: tags, Summary: "List exports, the newest first",
		Errors: []int{http.StatusUnprocessableEntity},
	}, s.listExports)
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-export", Method: http.MethodGet, Path: one, Tags: tags, Summary: "Get an export",
	}, s.getExport)
	route(api, store.Operator, huma.Operation{
		OperationID: "cancel-export", Method: http.MethodDelete, Path: one, Tags: tags, Summary: "Cancel an export, or remove it",
		Description: "One that waits or is made is canceled, within seconds. One that is completed expires at once. One that is over stays as it is.",
	}, s.cancelExport)
	route(api, store.Operator, huma.Operation{
		OperationID: "retry-export", Method: http.MethodPost, Path: one + "/retry", Tags: tags, Summary: "Make an export again",
		DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict},
		Description: "One that failed, was canceled or is expired, with the filters it had.",
	}, s.retryExport)
	route(api, store.Viewer, huma.Operation{
		OperationID: "download-export", Method: http.MethodGet, Path: one + "/download", Tags: tags, Summary: "Download an export",
		DefaultStatus: http.StatusFound, Errors: []int{http.StatusConflict, http.StatusGone},
		Description: "Leads to a link that anybody can use for an hour. 409 when there is nothing to download yet, 410 when not any more. " +
			"The type `audit` needs the role admin.",
	}, s.downloadExport)
}

type exportID struct {
	ID string `path:"id" maxLength:"64"`
}

type exportBody struct {
	Body Export
}

type exportAccepted struct {
	Location string `header:"Location"`
	Body     Export
}

type createExportInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"The same request with the same key makes one export."`
	Body           struct {
		Type        string        `json:"export_type" enum:"servers,health_checks,metrics,system_metrics,alerts,audit"`
		Format      string        `json:"format,omitempty" enum:"csv,ndjson,json,parquet" default:"csv"`
		Compression string        `json:"compression,omitempty" enum:"none,gzip,zstd" default:"none"`
		Filters     ExportFilters `json:"filters,omitzero"`
		CallbackURL string        `json:"callback_url,omitempty" maxLength:"2048" doc:"Is told of the end, signed; see docs/exports.md."`
	}
}

func (s *Service) createExport(ctx context.Context, in *createExportInput) (*exportAccepted, error) {
	who := principal(ctx)
	if err := mayExport(who, in.Body.Type); err != nil {
		return nil, err
	}
	if err := checkCallback(in.Body.CallbackURL); err != nil {
		return nil, err
	}
	once, err := newIdempotency(who, in.IdempotencyKey, "create-export", in.Body)
	if err != nil {
		return nil, err
	}
	entry := audit(ctx, "export.create", "export", "")
	export, err := s.store.CreateExport(ctx, store.NewExport{
		Org: who.Org, Type: in.Body.Type, Format: in.Body.Format, Compression: in.Body.Compression,
		Filters: store.ExportFilters(in.Body.Filters), CallbackURL: in.Body.CallbackURL, CreatedBy: who.TokenID,
	}, once, &entry)
	if replay, again := errors.AsType[*store.ReplayError](err); again {
		id, err := exportUUID(replay.Resource)
		if err != nil {
			return nil, err
		}
		if export, err = s.store.Export(ctx, who.Org, id); err != nil {
			return nil, err
		}
		return acceptedExport(export), nil
	}
	if err != nil {
		return nil, exportProblem(err)
	}
	return acceptedExport(export), nil
}

// mayExport refuses rows to who may not read them here either.
func mayExport(who Principal, exportType string) error {
	if exportType == "audit" && !who.Role.May(store.Admin) {
		return problem(http.StatusForbidden, "the record of changes is for admins")
	}
	return nil
}

// checkCallback refuses what can be no callback. Where it may lead is judged when it is called: names can change.
func checkCallback(address string) error {
	if address == "" {
		return nil
	}
	fault := ""
	u, err := url.Parse(address)
	switch {
	case err != nil:
		fault = "is no URL"
	case u.Scheme != "https" && u.Scheme != "http":
		fault = "does not begin with https:// or http://"
	case u.Hostname() == "":
		fault = "has no host"
	case u.User != nil:
		fault = "has a name or password in it"
	case u.Fragment != "":
		fault = "has a fragment"
	default:
		return nil
	}
	return problem(http.StatusUnprocessableEntity, "validation failed", field("body.callback_url", fault))
}

type listExportsInput struct {
	Status string `query:"status" enum:"PENDING,PROCESSING,COMPLETED,FAILED,CANCELED,EXPIRED"`
	Type   string `query:"export_type" enum:"servers,health_checks,metrics,system_metrics,alerts,audit"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor string `query:"cursor"`
}

func (s *Service) listExports(ctx context.Context, in *listExportsInput) (*struct{ Body exportList }, error) {
	q := store.ExportQuery{Org: principal(ctx).Org, Status: in.Status, Type: in.Type, Limit: in.Limit + 1}
	if err := readCursor(in.Cursor, "exports", &q.Before, &q.BeforeID); err != nil {
		return nil, err
	}
	exports, err := s.store.Exports(ctx, q)
	if err != nil {
		return nil, err
	}
	list := exportList{Limit: in.Limit, Exports: make([]Export, 0, len(exports))}
	if len(exports) > in.Limit {
		exports = exports[:in.Limit]
		last := exports[len(exports)-1]
		list.Next = cursor("exports", last.CreatedAt, last.ID)
	}
	for _, e := range exports {
		list.Exports = append(list.Exports, shownExport(e))
	}
	list.Count = len(list.Exports)
	return &struct{ Body exportList }{list}, nil
}

func (s *Service) getExport(ctx context.Context, in *exportID) (*exportBody, error) {
	e, err := s.exportOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &exportBody{Body: shownExport(e)}, nil
}

func (s *Service) cancelExport(ctx context.Context, in *exportID) (*exportBody, error) {
	e, err := s.exportOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := mayExport(principal(ctx), e.Type); err != nil {
		return nil, err
	}
	entry := audit(ctx, "export.cancel", "export", in.ID)
	if e, err = s.store.CancelExport(ctx, e.Org, e.ID, &entry); err != nil {
		return nil, err
	}
	return &exportBody{Body: shownExport(e)}, nil
}

func (s *Service) retryExport(ctx context.Context, in *exportID) (*exportAccepted, error) {
	e, err := s.exportOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := mayExport(principal(ctx), e.Type); err != nil {
		return nil, err
	}
	entry := audit(ctx, "export.retry", "export", in.ID)
	if e, err = s.store.RetryExport(ctx, e.Org, e.ID, &entry); err != nil {
		return nil, exportProblem(err)
	}
	return acceptedExport(e), nil
}

type downloadOutput struct {
	Location string `header:"Location"`
	Rows     string `header:"X-Export-Row-Count"`
	SHA256   string `header:"X-Export-Sha256"`
}

func (s *Service) downloadExport(ctx context.Context, in *exportID) (*downloadOutput, error) {
	e, err := s.exportOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := mayExport(principal(ctx), e.Type); err != nil {
		return nil, err
	}
	left := min(time.Until(e.ExpiresAt), exportLink).Truncate(time.Second)
	switch {
	case e.Status == store.ExportExpired || e.Status == store.ExportCompleted && left < time.Second:
		return nil, problem(http.StatusGone, "this export has expired; it can be made again")
	case e.Status != store.ExportCompleted:
		return nil, problem(http.StatusConflict, "there is nothing to download: this export is "+e.Status)
	case s.blob == nil:
		return nil, away("there is no store of exports here")
	}
	_, extension, _ := strings.Cut(e.Key, ".")
	name := fmt.Sprintf("%s-%s.%s", e.Type, e.CreatedAt.Format("20060102T150405Z"), extension)
	link, err := s.blob.Link(ctx, e.Key, left, name)
	if err != nil {
		return nil, err
	}
	return &downloadOutput{Location: link, Rows: strconv.FormatInt(e.Rows, 10), SHA256: e.SHA256}, nil
}

func (s *Service) exportOf(ctx context.Context, text string) (store.Export, error) {
	id, err := exportUUID(text)
	if err != nil {
		return store.Export{}, err
	}
	return s.store.Export(ctx, principal(ctx).Org, id)
}

// exportUUID reads an id; one that is none is of no export.
func exportUUID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, store.ErrNotFound
	}
	return id, nil
}

// exportProblem tells what is particular to exports.
func exportProblem(err error) error {
	if faults, ok := errors.AsType[store.Faults](err); ok {
		fields := make([]error, len(faults))
		for i, fault := range faults {
			fields[i] = field("body."+fault.Field, fault.Message)
		}
		return problem(http.StatusUnprocessableEntity, "validation failed", fields...)
	}
	switch {
	case errors.Is(err, store.ErrKeyReused):
		return problem(http.StatusUnprocessableEntity, "this Idempotency-Key came before with another request")
	case errors.Is(err, store.ErrExportState):
		return problem(http.StatusConflict, "this export waits, is being made, or is there to be downloaded")
	}
	return err
}

func acceptedExport(e store.Export) *exportAccepted {
	return &exportAccepted{Location: base + "/exports/" + e.ID.String(), Body: shownExport(e)}
}

func shownExport(e store.Export) Export {
	shown := Export{
		ID: e.ID.String(), Type: e.Type, Format: e.Format, Compression: e.Compression, Filters: ExportFilters(e.Filters),
		Status: e.Status, ProgressRows: e.ProgressRows, Attempt: e.Attempt, Error: e.Error, CreatedBy: e.CreatedBy,
		CreatedAt: e.CreatedAt, StartedAt: orNil(e.StartedAt), CompletedAt: orNil(e.CompletedAt), ExpiresAt: orNil(e.ExpiresAt),
		CallbackURL: withoutQuery(e.CallbackURL), CallbackState: e.CallbackState, CallbackTries: e.CallbackAttempts,
		CallbackError: e.CallbackError,
	}
	if e.SHA256 != "" {
		shown.RowCount, shown.FileSizeBytes, shown.FilePath, shown.SHA256 = &e.Rows, &e.Bytes, e.Key, e.SHA256
	}
	return shown
}

// withoutQuery leaves out what is often a secret.
func withoutQuery(address string) string {
	before, _, _ := strings.Cut(address, "?")
	return before
}
