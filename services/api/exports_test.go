package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/store"
)

const exportsPath = base + "/exports"

func withExports(t *testing.T) (worldOption, blob.Store) {
	t.Helper()
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	objects, err := blob.Open(blob.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = objects.Close() })
	return func(_ *Config, deps *Deps) { deps.Blob = objects }, objects
}

// complete makes the export, as an exporter would.
func (w *world) complete(objects blob.Store, e Export, content string) {
	w.t.Helper()
	ctx := w.t.Context()
	claim, err := w.store.ClaimExport(ctx, uuid.MustParse(e.ID), "test", time.Hour, 5)
	if err != nil {
		w.t.Fatal(err)
	}
	upload, err := objects.Create(ctx, claim.Export.Key, blob.CreateOptions{ContentType: "text/csv"})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := upload.Write([]byte(content)); err != nil {
		w.t.Fatal(err)
	}
	err = w.store.CommitExport(ctx, claim, time.Minute, time.Hour, func(ctx context.Context) error {
		_, err := upload.Commit(ctx)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	result := store.ExportResult{Rows: 7, Bytes: int64(len(content)), SHA256: strings.Repeat("ab", 32)}
	if err := w.store.CompleteExport(ctx, claim, result, time.Hour); err != nil {
		w.t.Fatal(err)
	}
}

// download asks for the link.
func (w *world) download(token string, e Export) answer {
	w.t.Helper()
	return w.do(token, "GET", exportsPath+"/"+e.ID+"/download", "")
}

func TestExportLife(t *testing.T) {
	t.Parallel()
	option, objects := withExports(t)
	w := newWorld(t, option)
	const body = `{"export_type": "health_checks", "compression": "gzip", "filters": {"time_range": "7d", "status": ["critical"]},
		"callback_url": "https://example.org/done?secret=1"}`
	made := w.do(w.admin, "POST", exportsPath, body, "Idempotency-Key", "one")
	var e, again Export
	made.into(t, &e)
	if made.status != http.StatusAccepted || made.header.Get("Location") != exportsPath+"/"+e.ID || e.Status != "PENDING" ||
		e.Format != "csv" || e.Filters.From == nil || e.CallbackURL != "https://example.org/done" {
		t.Fatalf("%d %v %s", made.status, made.header, made.body)
	}
	w.do(w.admin, "POST", exportsPath, body, "Idempotency-Key", "one").into(t, &again)
	if again.ID != e.ID {
		t.Error("the same request made two exports")
	}
	if got := w.do(w.admin, "POST", exportsPath, `{"export_type": "servers"}`, "Idempotency-Key", "one").status; got != http.StatusUnprocessableEntity {
		t.Errorf("the key of another request: %d", got)
	}
	if got := w.download(w.admin, e).status; got != http.StatusConflict {
		t.Errorf("download before the end: %d", got)
	}
	if got := w.do(w.admin, "POST", exportsPath+"/"+e.ID+"/retry", "").status; got != http.StatusConflict {
		t.Errorf("retry of one that waits: %d", got)
	}
	w.complete(objects, e, "the rows")
	got := w.download(w.admin, e)
	if got.status != http.StatusFound || got.header.Get("X-Export-Row-Count") != "7" {
		t.Fatalf("%d %v", got.status, got.header)
	}
	link := got.header.Get("Location")
	file := httptest.NewRecorder()
	w.api.Handler().ServeHTTP(file, httptest.NewRequest(http.MethodGet, link, nil))
	if file.Code != http.StatusOK || file.Body.String() != "the rows" || !strings.Contains(file.Header().Get("Content-Disposition"), "health_checks-") {
		t.Errorf("the link gives %d %q %v", file.Code, file.Body, file.Header())
	}
	file = httptest.NewRecorder()
	w.api.Handler().ServeHTTP(file, httptest.NewRequest(http.MethodGet, strings.Replace(link, "expires=", "expires=9", 1), nil))
	if file.Code != http.StatusForbidden {
		t.Errorf("a tampered link gives %d", file.Code)
	}
	w.do(w.admin, "DELETE", exportsPath+"/"+e.ID, "").into(t, &again)
	if again.Status != "EXPIRED" {
		t.Errorf("removed: %+v", again)
	}
	if got := w.download(w.admin, e).status; got != http.StatusGone {
		t.Errorf("download afterwards: %d", got)
	}
	retried := w.do(w.admin, "POST", exportsPath+"/"+e.ID+"/retry", "")
	again = Export{}
	retried.into(t, &again)
	if retried.status != http.StatusAccepted || again.Status != "PENDING" || again.SHA256 != "" {
		t.Errorf("%d %+v", retried.status, again)
	}
	w.do(w.admin, "DELETE", exportsPath+"/"+e.ID, "").into(t, &again)
	if again.Status != "CANCELED" {
		t.Errorf("canceled: %+v", again)
	}
	var list exportList
	w.do(w.admin, "GET", exportsPath+"?status=CANCELED", "").into(t, &list)
	if list.Count != 1 || list.Exports[0].ID != e.ID {
		t.Errorf("%+v", list)
	}
	entries, err := w.store.AuditLog(t.Context(), store.AuditQuery{Org: "default", TargetKind: "export", Target: e.ID, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, entry := range entries {
		actions = append(actions, entry.Action)
	}
	if got, want := strings.Join(actions, " "), "export.cancel export.retry export.cancel export.create"; got != want {
		t.Errorf("audit log has %s, want %s", got, want)
	}
}

func TestExportRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for body, want := range map[string]string{
		`{"export_type": "devices"}`:                                                      "body.export_type",
		`{"export_type": "servers", "format": "xml"}`:                                     "body.format",
		`{"export_type": "servers", "filters": {"server": ["web"]}}`:                      "body.filters",
		`{"export_type": "servers", "filters": {"servers": ["nobody"]}}`:                  "body.filters.servers",
		`{"export_type": "alerts", "filters": {"status": ["up"]}}`:                        "body.filters.status",
		`{"export_type": "alerts", "filters": {"time_range": "2h"}}`:                      "body.filters.time_range",
		`{"export_type": "servers", "callback_url": "https://user:password@example.org"}`: "body.callback_url",
		`{"export_type": "servers", "callback_url": "file:///etc/passwd"}`:                "body.callback_url",
	} {
		got := w.do(w.admin, "POST", exportsPath, body)
		if got.status != http.StatusUnprocessableEntity || !strings.Contains(string(got.body), `"`+want) {
			t.Errorf("%s: %d %s, want a fault of %s", body, got.status, got.body, want)
		}
	}
	viewer, operator := w.token("default", store.Viewer), w.token("default", store.Operator)
	if got := w.do(viewer, "POST", exportsPath, `{"export_type": "servers"}`).status; got != http.StatusForbidden {
		t.Errorf("a viewer's export: %d", got)
	}
	if got := w.do(operator, "POST", exportsPath, `{"export_type": "audit"}`).status; got != http.StatusForbidden {
		t.Errorf("an operator's export of the audit log: %d", got)
	}
	var e Export
	w.do(w.admin, "POST", exportsPath, `{"export_type": "audit"}`).into(t, &e)
	if got := w.download(operator, e).status; got != http.StatusForbidden {
		t.Errorf("an operator's download of the audit log: %d", got)
	}
	foreign := w.token("acme", store.Admin)
	if got := w.do(foreign, "GET", exportsPath+"/"+e.ID, "").status; got != http.StatusNotFound {
		t.Errorf("a foreign export: %d", got)
	}
}
