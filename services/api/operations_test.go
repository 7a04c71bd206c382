package api

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func (w *world) operation(status int, token, body string, headers ...string) (o Operation, location string) {
	w.t.Helper()
	answer := w.must(status, token, "POST", base+"/operations", body, headers...)
	if status == http.StatusAccepted {
		answer.into(w.t, &o)
	}
	return o, answer.header.Get("Location")
}

func (w *world) finished(location string) (detail OperationDetail) {
	w.t.Helper()
	w.waitFor("the operation", func() bool {
		w.must(http.StatusOK, w.admin, "GET", location, "").into(w.t, &detail)
		return detail.CompletedAt != nil
	})
	return detail
}

func TestOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.register("a", "web"), w.register("b", "web")
	w.register("c", "db")
	w.declare(catalog.SourceFile, catalog.Server{Org: "default", Name: "filed", Tags: []string{"web"}, Checks: []catalog.Check{{
		Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://127.0.0.1:1"},
	}}})
	const body = `{"operation_type":"tag_add","filter":{"tags_all":["web"]},"parameters":{"tags":["canary"]}}`
	o, location := w.operation(http.StatusAccepted, w.admin, body, "Idempotency-Key", "k1")
	again, same := w.operation(http.StatusAccepted, w.admin, body, "Idempotency-Key", "k1")
	if again.ID != o.ID || same != location {
		t.Errorf("the same request made %s and %s", o.ID, again.ID)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/operations", `{"operation_type":"check_now","filter":{}}`, "Idempotency-Key", "k1")
	done := w.finished(location)
	if done.Status != "partial" || done.TotalServers != 3 || done.CompletedServers != 2 || done.FailedServers != 1 {
		t.Errorf("operation %+v", done.Operation)
	}
	for _, result := range done.Results {
		if want := map[bool]string{true: "failed", false: "completed"}[result.Server == "filed"]; result.Status != want {
			t.Errorf("%s: %s (%s), want %s", result.Server, result.Status, result.Error, want)
		}
	}
	for _, server := range []ServerDetail{a, b} {
		var got ServerDetail
		w.must(http.StatusOK, w.admin, "GET", base+"/servers/"+server.ID, "").into(t, &got)
		if diff := cmp.Diff([]string{"canary", "web"}, got.Tags); diff != "" {
			t.Errorf("tags of %s: %s", got.Name, diff)
		}
	}
	// Operators may put into maintenance, but declare nothing.
	operator := w.token("default", store.Operator)
	w.must(http.StatusForbidden, operator, "POST", base+"/operations", body)
	_, location = w.operation(http.StatusAccepted, operator, fmt.Sprintf(`{"operation_type":"maintenance_on","server_ids":[%q]}`, a.ID))
	if done := w.finished(location); done.Status != "completed" {
		t.Errorf("maintenance %+v", done)
	}
	var got ServerDetail
	w.must(http.StatusOK, w.admin, "GET", base+"/servers/a", "").into(t, &got)
	if got.Status != "maintenance" {
		t.Errorf("lifecycle %s", got.Status)
	}
	entries, err := w.store.AuditLog(t.Context(), store.AuditQuery{Org: "default", TargetKind: "operation", Limit: 10})
	if err != nil || len(entries) != 4 {
		t.Errorf("%d entries about operations, want 4: %v", len(entries), err)
	}
	var list operationList
	w.must(http.StatusOK, w.admin, "GET", base+"/operations?limit=1", "").into(t, &list)
	if list.Count != 1 || list.Next == "" || list.Operations[0].OperationType != "maintenance_on" {
		t.Errorf("list %+v", list)
	}
	w.must(http.StatusNotFound, w.token("other", store.Admin), "GET", location, "")
	w.must(http.StatusConflict, w.admin, "POST", location+"/cancel", "")
}

func TestOperationRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("a")
	for _, body := range []string{
		`{"operation_type":"check_now"}`, `{"operation_type":"tag_add","filter":{}}`, `{"operation_type":"dance","filter":{}}`,
		`{"operation_type":"check_now","filter":{},"parameters":{"tags":["x"]}}`, `{"operation_type":"check_now","filter":{"region":"moon"}}`,
		fmt.Sprintf(`{"operation_type":"check_now","server_ids":[%q]}`, uuid.NewString()),
		fmt.Sprintf(`{"operation_type":"check_now","group_ids":[%q]}`, uuid.NewString()),
		`{"operation_type":"check_now","filtre":{}}`,
	} {
		w.operation(http.StatusUnprocessableEntity, w.admin, body)
	}
}

// TestOperationOnSelf: what Picket watches of itself can be looked at like anything, and is not edited.
func TestOperationOnSelf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.declare(catalog.SourceSelf, catalog.Server{Org: "default", Name: "picket-nats", Tags: []string{"own"}, Checks: []catalog.Check{{
		Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://127.0.0.1:1"},
	}}})
	o, _ := w.operation(http.StatusAccepted, w.admin, `{"operation_type":"check_now","filter":{"tags_all":["own"]}}`)
	if o.TotalServers != 1 {
		t.Errorf("operation %+v", o)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/operations",
		`{"operation_type":"tag_add","filter":{"tags_all":["own"]},"parameters":{"tags":["x"]}}`)
}

// TestOperationTakenOver: a replica that died in the middle holds nothing up, and what it wakes up to is not its own any more.
func TestOperationTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 5 {
		w.register(fmt.Sprint("srv", n))
	}
	w.stop() // nobody carries out anything now
	o := store.Operation{
		ID: uuid.New(), Org: "default", Type: store.OperationTagAdd, Parameters: []byte(`{"tags":["x"]}`),
		Selection: store.Selection{Filter: &store.ServersFilter{}}, InitiatedBy: "t", InitiatedRole: store.Admin,
	}
	entry := store.Audit{Org: "default", Actor: "t", Role: store.Admin, Action: "operation.create", TargetKind: "operation"}
	if _, err := w.store.CreateOperation(t.Context(), o, store.Idempotency{}, entry); err != nil {
		t.Fatal(err)
	}
	dead, err := w.store.ClaimOperation(t.Context(), "dead", 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.FinishOperationServer(t.Context(), dead, 1, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.ClaimOperation(t.Context(), "eager", time.Minute); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("claimed while another holds it: %v", err)
	}
	var next store.Operation
	w.waitFor("the lease to run out", func() bool {
		next, err = w.store.ClaimOperation(t.Context(), "next", time.Minute)
		return err == nil
	})
	left, err := w.store.NextOperationServers(t.Context(), next, 10)
	if err != nil || len(left) != 4 {
		t.Fatalf("%d servers left, want 4: %v", len(left), err)
	}
	for _, lost := range []error{
		w.store.FinishOperationServer(t.Context(), dead, 2, "", nil), w.store.RenewOperation(t.Context(), dead, time.Minute),
		w.store.FinishOperation(t.Context(), dead),
	} {
		if !errors.Is(lost, store.ErrLeaseLost) {
			t.Errorf("the dead one could: %v", lost)
		}
	}
	if err := w.store.ReleaseOperation(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if err := w.api.carryOut(t.Context(), mustClaim(t, w)); err != nil {
		t.Fatal(err)
	}
	done, err := w.store.Operation(t.Context(), "default", o.ID)
	if err != nil || done.Status != store.OperationCompleted || done.Completed != 5 {
		t.Errorf("operation %+v, %v", done, err)
	}
}

func mustClaim(t *testing.T, w *world) store.Operation {
	t.Helper()
	o, err := w.store.ClaimOperation(t.Context(), "again", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOperationCanceled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 3 {
		w.register(fmt.Sprint("srv", n))
	}
	w.stop()
	o := store.Operation{
		ID: uuid.New(), Org: "default", Type: store.OperationTagAdd, Parameters: []byte(`{"tags":["x"]}`),
		Selection: store.Selection{Filter: &store.ServersFilter{}}, InitiatedBy: "t", InitiatedRole: store.Admin,
	}
	entry := store.Audit{Org: "default", Actor: "t", Role: store.Admin, Action: "operation", TargetKind: "operation"}
	if _, err := w.store.CreateOperation(t.Context(), o, store.Idempotency{}, entry); err != nil {
		t.Fatal(err)
	}
	held := mustClaim(t, w)
	if _, err := w.store.CancelOperation(t.Context(), "default", o.ID, entry); err != nil {
		t.Fatal(err)
	}
	// One that was in hand is what it became.
	if err := w.store.FinishOperationServer(t.Context(), held, 1, "", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.api.carryOut(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	done, err := w.store.Operation(t.Context(), "default", o.ID)
	if err != nil || done.Status != store.OperationCanceled || done.Completed != 1 {
		t.Errorf("operation %+v, %v", done, err)
	}
	if _, err := w.store.CancelOperation(t.Context(), "default", o.ID, entry); !errors.Is(err, store.ErrEnded) {
		t.Errorf("canceled again: %v", err)
	}
}

// TestOperationsOfOthers: one organization's operations are done in their order, and hold up no other organization.
func TestOperationsOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("a")
	other := w.token("other", store.Admin)
	w.must(http.StatusCreated, other, "POST", base+"/servers", `{"name":"b","api_url":"http://127.0.0.1:1"}`)
	w.stop()
	create := func(org, kind string) uuid.UUID {
		t.Helper()
		o := store.Operation{
			ID: uuid.New(), Org: org, Type: kind, Parameters: []byte(`{"tags":["x"]}`),
			Selection: store.Selection{Filter: &store.ServersFilter{}}, InitiatedBy: "t", InitiatedRole: store.Admin,
		}
		entry := store.Audit{Org: org, Actor: "t", Role: store.Admin, Action: "operation.create", TargetKind: "operation"}
		if _, err := w.store.CreateOperation(t.Context(), o, store.Idempotency{}, entry); err != nil {
			t.Fatal(err)
		}
		return o.ID
	}
	first, second := create("default", store.OperationTagAdd), create("default", store.OperationTagRemove)
	look, theirs := create("default", store.OperationCheckNow), create("other", store.OperationTagAdd)
	held := make([]store.Operation, 3)
	for i, want := range []uuid.UUID{first, look, theirs} {
		if held[i] = mustClaim(t, w); held[i].ID != want {
			t.Fatalf("claim %d is of %s %s", i, held[i].Org, held[i].Type)
		}
	}
	if o, err := w.store.ClaimOperation(t.Context(), "eager", time.Minute); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("claimed %s of %s before the one before it is done: %v", o.Type, o.Org, err)
	}
	if err := w.api.carryOut(t.Context(), held[0]); err != nil {
		t.Fatal(err)
	}
	if next := mustClaim(t, w); next.ID != second {
		t.Errorf("next is %s", next.Type)
	}
}
