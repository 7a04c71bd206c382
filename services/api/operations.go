package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

// Operation is something that was asked for many servers at once.
type Operation struct {
	ID               string         `json:"id" format:"uuid"`
	OperationType    string         `json:"operation_type" enum:"tag_add,tag_remove,maintenance_on,maintenance_off,check_now"`
	Status           string         `json:"status" enum:"pending,running,completed,partial,failed,canceled"`
	ServerIDs        []uuid.UUID    `json:"server_ids,omitempty"`
	GroupIDs         []uuid.UUID    `json:"group_ids,omitempty"`
	FilterCriteria   *ServersFilter `json:"filter_criteria,omitempty"`
	Parameters       any            `json:"parameters"`
	TotalServers     int            `json:"total_servers"`
	CompletedServers int            `json:"completed_servers"`
	FailedServers    int            `json:"failed_servers"`
	ErrorSummary     string         `json:"error_summary,omitempty"`
	InitiatedBy      string         `json:"initiated_by" doc:"Id of the token."`
	InitiatedName    string         `json:"initiated_name,omitempty"`
	CreatedAt        time.Time      `json:"created_at"`
	StartedAt        *time.Time     `json:"started_at,omitempty"`
	CompletedAt      *time.Time     `json:"completed_at,omitempty"`
	CancelRequested  bool           `json:"cancel_requested,omitempty"`
}

// OperationResult is what became of one server.
type OperationResult struct {
	ServerID   string     `json:"server_id" format:"uuid"`
	Server     string     `json:"server"`
	Status     string     `json:"status" enum:"pending,completed,failed,canceled"`
	Error      string     `json:"error,omitempty"`
	Result     any        `json:"result,omitempty" doc:"Of check_now: what was seen."`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

// OperationDetail is an operation with a page of its servers.
type OperationDetail struct {
	Operation
	Results []OperationResult `json:"results" nullable:"false"`
	Next    string            `json:"next,omitempty" doc:"Cursor of the next page of results."`
}

// ServersFilter matches servers that meet all of what it says.
type ServersFilter struct {
	TagsAll      []string `json:"tags_all,omitempty" maxItems:"32"`
	TagsAny      []string `json:"tags_any,omitempty" maxItems:"32"`
	Region       string   `json:"region,omitempty" maxLength:"255"`
	Environment  string   `json:"environment,omitempty" maxLength:"255"`
	Status       string   `json:"status,omitempty" enum:"active,maintenance,inactive" doc:"The lifecycle."`
	HealthStatus string   `json:"health_status,omitempty" enum:"healthy,degraded,critical,unreachable,unknown"`
}

type operationList struct {
	Operations []Operation `json:"operations" nullable:"false"`
	Count      int         `json:"count"`
	Limit      int         `json:"limit"`
	Next       string      `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerOperations(api huma.API) {
	route(api, store.Operator, huma.Operation{
		OperationID: "create-operation", Method: http.MethodPost, Path: base + "/operations", Tags: []string{"operations"},
		Summary: "Do something to many servers", DefaultStatus: http.StatusAccepted,
		Errors: []int{http.StatusConflict, http.StatusUnprocessableEntity},
		Description: "The servers are chosen now: those named, members of the named groups, and those that the filter matches; an empty " +
			"filter matches all. Answers 202 at once; the header Location says where to look. It is carried out by any replica, and " +
			"goes on when that one dies. Tags need the role admin, since they change what is declared.",
	}, s.createOperation)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-operations", Method: http.MethodGet, Path: base + "/operations", Tags: []string{"operations"},
		Summary: "List operations, the newest first", Errors: []int{http.StatusUnprocessableEntity},
	}, s.listOperations)
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-operation", Method: http.MethodGet, Path: base + "/operations/{id}", Tags: []string{"operations"},
		Summary: "An operation and what became of its servers", Errors: []int{http.StatusUnprocessableEntity},
	}, s.getOperation)
	route(api, store.Operator, huma.Operation{
		OperationID: "cancel-operation", Method: http.MethodPost, Path: base + "/operations/{id}/cancel", Tags: []string{"operations"},
		Summary: "Leave the servers alone that are not dealt with yet", DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict},
	}, s.cancelOperation)
}

type createOperationInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"The same request under the same key makes one operation."`
	Body           struct {
		OperationType string         `json:"operation_type" enum:"tag_add,tag_remove,maintenance_on,maintenance_off,check_now"`
		ServerIDs     []uuid.UUID    `json:"server_ids,omitempty" maxItems:"10000"`
		GroupIDs      []uuid.UUID    `json:"group_ids,omitempty" maxItems:"100"`
		Filter        *ServersFilter `json:"filter,omitempty"`
		Parameters    struct {
			Tags []string `json:"tags,omitempty" maxItems:"32" example:"[\"canary\"]"`
		} `json:"parameters,omitzero"`
	}
}

type operationOutput struct {
	Location string `header:"Location"`
	Body     Operation
}

func (s *Service) createOperation(ctx context.Context, in *createOperationInput) (*operationOutput, error) {
	who := principal(ctx)
	if err := checkOperation(in, who.Role); err != nil {
		return nil, err
	}
	parameters, err := json.Marshal(in.Body.Parameters)
	if err != nil {
		return nil, err
	}
	key, err := newIdempotency(who, in.IdempotencyKey, "create-operation", in.Body)
	if err != nil {
		return nil, err
	}
	o := store.Operation{
		ID: uuid.New(), Org: who.Org, Type: in.Body.OperationType, Parameters: parameters,
		Selection:   store.Selection{ServerIDs: in.Body.ServerIDs, GroupIDs: in.Body.GroupIDs, Filter: in.Body.Filter.stored()},
		InitiatedBy: who.TokenID, InitiatedName: who.Name, InitiatedRole: who.Role, RequestID: requestOf(ctx).id,
	}
	stored, err := s.store.CreateOperation(ctx, o, key, audit(ctx, "operation.create", "operation", o.ID.String()))
	if errors.Is(err, store.ErrSelection) {
		return nil, problem(http.StatusUnprocessableEntity, err.Error())
	}
	if err != nil {
		resource, err := replayed(err)
		if err != nil {
			return nil, err
		}
		id, err := parseID(resource)
		if err != nil {
			return nil, err
		}
		if stored, err = s.store.Operation(ctx, who.Org, id); err != nil {
			return nil, err
		}
	}
	s.wakeOperations()
	return newOperationOutput(stored), nil
}

func (f *ServersFilter) stored() *store.ServersFilter {
	if f == nil {
		return nil
	}
	return &store.ServersFilter{
		TagsAll: f.TagsAll, TagsAny: f.TagsAny, Region: f.Region, Environment: f.Environment, Lifecycle: f.Status, HealthStatus: f.HealthStatus,
	}
}

// checkOperation refuses what could not be done to any server.
func checkOperation(in *createOperationInput, role store.Role) error {
	invalid := func(where, why string) error {
		return problem(http.StatusUnprocessableEntity, "validation failed", field(where, why))
	}
	if len(in.Body.ServerIDs) == 0 && len(in.Body.GroupIDs) == 0 && in.Body.Filter == nil {
		return invalid("body", "one of server_ids, group_ids and filter is needed")
	}
	tags := in.Body.Parameters.Tags
	switch in.Body.OperationType {
	case store.OperationTagAdd, store.OperationTagRemove:
		if !role.May(store.Admin) {
			return problem(http.StatusForbidden, "to change tags needs the role admin")
		}
		if len(tags) == 0 {
			return invalid("body.parameters.tags", "at least one is needed")
		}
		for _, fault := range (&catalog.Server{Tags: tags}).Validate("") {
			if len(fault.Path) >= 4 && fault.Path[:4] == "tags" {
				return invalid("body.parameters."+fault.Path, fault.Message)
			}
		}
	default:
		if len(tags) > 0 {
			return invalid("body.parameters.tags", "is not for this operation")
		}
	}
	return nil
}

type listOperationsInput struct {
	OperationType string `query:"operation_type" enum:"tag_add,tag_remove,maintenance_on,maintenance_off,check_now"`
	Status        string `query:"status" enum:"pending,running,completed,partial,failed,canceled"`
	Limit         int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
	Cursor        string `query:"cursor"`
}

func (s *Service) listOperations(ctx context.Context, in *listOperationsInput) (*struct{ Body operationList }, error) {
	q := store.OperationQuery{Org: principal(ctx).Org, Type: in.OperationType, Status: in.Status, Limit: in.Limit + 1}
	if in.Cursor != "" {
		var place store.OperationPlace
		var at int64
		if err := readCursor(in.Cursor, "operations", &at, &place.ID); err != nil {
			return nil, err
		}
		place.CreatedAt = time.UnixMicro(at)
		q.Before = &place
	}
	operations, err := s.store.Operations(ctx, q)
	if err != nil {
		return nil, err
	}
	list := operationList{Limit: in.Limit, Operations: make([]Operation, 0, len(operations))}
	if len(operations) > in.Limit {
		operations = operations[:in.Limit]
		last := &operations[len(operations)-1]
		list.Next = cursor("operations", last.CreatedAt.UnixMicro(), last.ID)
	}
	for i := range operations {
		list.Operations = append(list.Operations, newOperation(&operations[i]))
	}
	list.Count = len(list.Operations)
	return &struct{ Body operationList }{list}, nil
}

type getOperationInput struct {
	ID     string `path:"id" maxLength:"64"`
	Status string `query:"status" enum:"pending,completed,failed,canceled" doc:"Only servers of this status."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Results of a page."`
	Cursor string `query:"cursor"`
}

func (s *Service) getOperation(ctx context.Context, in *getOperationInput) (*struct{ Body OperationDetail }, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	org := principal(ctx).Org
	o, err := s.store.Operation(ctx, org, id)
	if err != nil {
		return nil, err
	}
	after := 0
	if err := readCursor(in.Cursor, "operation-results", &after); err != nil {
		return nil, err
	}
	servers, err := s.store.OperationServers(ctx, org, id, in.Status, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	detail := OperationDetail{Operation: newOperation(&o), Results: make([]OperationResult, 0, len(servers))}
	if len(servers) > in.Limit {
		servers = servers[:in.Limit]
		detail.Next = cursor("operation-results", servers[len(servers)-1].Position)
	}
	for _, server := range servers {
		result := OperationResult{
			ServerID: server.ServerID.String(), Server: server.Server, Status: server.Status, Error: server.Error,
			FinishedAt: orNil(server.FinishedAt),
		}
		if server.Result != nil {
			result.Result = server.Result
		}
		detail.Results = append(detail.Results, result)
	}
	return &struct{ Body OperationDetail }{detail}, nil
}

func (s *Service) cancelOperation(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
},
) (*operationOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	o, err := s.store.CancelOperation(ctx, principal(ctx).Org, id, audit(ctx, "operation.cancel", "operation", id.String()))
	if err != nil {
		return nil, err
	}
	s.wakeOperations()
	return newOperationOutput(o), nil
}

func newOperationOutput(o store.Operation) *operationOutput {
	return &operationOutput{Location: base + "/operations/" + o.ID.String(), Body: newOperation(&o)}
}

func newOperation(o *store.Operation) Operation {
	shown := Operation{
		ID: o.ID.String(), OperationType: o.Type, Status: o.Status, ServerIDs: o.Selection.ServerIDs, GroupIDs: o.Selection.GroupIDs,
		Parameters: o.Parameters, TotalServers: o.Total, CompletedServers: o.Completed, FailedServers: o.Failed,
		ErrorSummary: o.ErrorSummary, InitiatedBy: o.InitiatedBy, InitiatedName: o.InitiatedName, CreatedAt: o.CreatedAt,
		StartedAt: orNil(o.StartedAt), CompletedAt: orNil(o.CompletedAt), CancelRequested: !o.CancelAt.IsZero(),
	}
	if f := o.Selection.Filter; f != nil {
		shown.FilterCriteria = &ServersFilter{
			TagsAll: f.TagsAll, TagsAny: f.TagsAny, Region: f.Region, Environment: f.Environment, Status: f.Lifecycle, HealthStatus: f.HealthStatus,
		}
	}
	return shown
}
