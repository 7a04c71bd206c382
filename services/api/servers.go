package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

// editRounds bounds how often an edit is tried again that another one overtook.
const editRounds = 8

type serverList struct {
	Servers []Server `json:"servers" nullable:"false"`
	Count   int      `json:"count" doc:"Servers on this page."`
	Total   int      `json:"total" doc:"Servers that the filters pick; when there are more than this page, as of a few seconds ago at most."`
	Limit   int      `json:"limit"`
	Offset  int      `json:"offset"`
	Next    string   `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerServers(api huma.API) {
	tags := []string{"servers"}
	route(api, store.Admin, huma.Operation{
		OperationID: "create-server", Method: http.MethodPost, Path: base + "/servers", Tags: tags,
		Summary: "Register a server", DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
		Description: "Probers know it within a second, and look from the third second on. Whoever registers a server has " +
			"Picket send requests to its addresses: this is for admins.",
	}, s.createServer)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-servers", Method: http.MethodGet, Path: base + "/servers", Tags: tags, Summary: "List servers by name",
		Errors: []int{http.StatusNotFound}, Description: "A group that is not there is 404.",
	}, s.listServers)
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-server", Method: http.MethodGet, Path: base + "/servers/{id}", Tags: tags,
		Summary: "A server with its checks", Description: "By id or name. The ETag is for If-Match; it changes with what is declared, not with how the server is.",
	}, s.getServer)
	route(api, store.Admin, huma.Operation{
		OperationID: "update-server", Method: http.MethodPatch, Path: base + "/servers/{id}", Tags: tags,
		Summary: "Change a server", Errors: []int{http.StatusConflict, http.StatusPreconditionFailed},
		Description: "JSON merge patch (RFC 7396): what is left out stays, null empties, lists are replaced. Checks are a " +
			"list too. A check that is due already is probed by its new schedule ten seconds later, everywhere at once.",
	}, s.updateServer)
	route(api, store.Admin, huma.Operation{
		OperationID: "delete-server", Method: http.MethodDelete, Path: base + "/servers/{id}", Tags: tags,
		Summary: "Remove a server", DefaultStatus: http.StatusNoContent,
		Errors:      []int{http.StatusConflict, http.StatusPreconditionFailed},
		Description: "Its history stays, its alerts close. A server registered under the same name later has the same id.",
	}, s.deleteServer)
}

// ServerBody is the answer with a server.
type ServerBody struct {
	ETag string `header:"ETag"`
	Body ServerDetail
}

type newServerOutput struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     ServerDetail
}

// ServerPath is the part of the path that names a server.
type ServerPath struct {
	ID string `path:"id" maxLength:"63" doc:"Id or name."`
}

type createServerInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"Sending the same request again with the same key, for a day, makes nothing and answers with what the first made."`
	Body           newServerBody
}

func (s *Service) createServer(ctx context.Context, in *createServerInput) (*newServerOutput, error) {
	who := principal(ctx)
	idempotency, err := newIdempotency(who, in.IdempotencyKey, "create-server", in.Body)
	if err != nil {
		return nil, err
	}
	if err := s.store.CheckIdempotency(ctx, idempotency); err != nil {
		return s.created(ctx, err)
	}
	server, err := s.declare(who.Org, &in.Body)
	if err != nil {
		return nil, err
	}
	for round := 1; ; round++ {
		if err := s.nameFree(ctx, who.Org, server.Name); err != nil {
			// Perhaps it is this very request that took it, sent twice at a time.
			if made := s.store.CheckIdempotency(ctx, idempotency); made != nil {
				return s.created(ctx, made)
			}
			return nil, err
		}
		entry := audit(ctx, "server.create", "server", server.Name)
		entry.After = describeServer(server)
		err := s.store.ApplyEdit(ctx, store.Edit{
			Plan:  catalog.Plan{Source: catalog.SourceAPI, Add: []catalog.Server{*server}},
			Audit: []store.Audit{entry}, Idempotency: idempotency, Resource: server.Name,
		})
		switch {
		case err == nil:
			return s.created(ctx, &store.ReplayError{Resource: server.Name})
		case !errors.Is(err, store.ErrStale) || round == editRounds:
			return s.created(ctx, err)
		}
	}
}

// nameFree is a problem when a server has the name.
func (s *Service) nameFree(ctx context.Context, org, name string) error {
	taken, err := s.store.DeclaredServers(ctx, org, name)
	if err != nil {
		return err
	}
	for i := range taken {
		if taken[i].Name == name {
			return problem(http.StatusConflict, "a server has this name already, declared by the source "+string(taken[i].Source),
				field("body.name", "makes the slug "+name+", which is taken"))
		}
	}
	return nil
}

// created answers with the server that a request made, now or when it came before.
func (s *Service) created(ctx context.Context, err error) (*newServerOutput, error) {
	name, err := replayed(err)
	if err != nil {
		return nil, err
	}
	body, err := s.showServer(ctx, name)
	if err != nil {
		return nil, err
	}
	return &newServerOutput{Location: base + "/servers/" + body.Body.ID, ETag: body.ETag, Body: body.Body}, nil
}

// replayed is what a request has made that came before, or the error.
func replayed(err error) (resource string, _ error) {
	if replay, ok := errors.AsType[*store.ReplayError](err); ok {
		return replay.Resource, nil
	}
	if errors.Is(err, store.ErrKeyReused) {
		return "", problem(http.StatusUnprocessableEntity, "the Idempotency-Key came before with another request",
			field("header.Idempotency-Key", "take a new one for a new request"))
	}
	return "", err
}

// newIdempotency is the key of a request with the fingerprint of what it asks for, and of who asks: nobody is answered with
// what another made.
func newIdempotency(who Principal, key, operation string, body any) (store.Idempotency, error) {
	if key == "" {
		return store.Idempotency{}, nil
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return store.Idempotency{}, problem(http.StatusUnprocessableEntity, "validation failed",
			field("header.Idempotency-Key", "holds other characters than visible ones of ASCII"))
	}
	text, err := json.Marshal(body)
	if err != nil {
		return store.Idempotency{}, err
	}
	asked := slices.Concat([]byte(operation+"\x00"+who.TokenID+"\x00"), text)
	return store.Idempotency{Org: who.Org, Key: key, Fingerprint: sha256.Sum256(asked)}, nil
}

type listServersInput struct {
	Status       string   `query:"status" enum:"active,maintenance,inactive" doc:"Lifecycle."`
	HealthStatus string   `query:"health_status" enum:"healthy,degraded,critical,unreachable,unknown"`
	Region       string   `query:"region"`
	Environment  string   `query:"environment"`
	Tags         []string `query:"tags" doc:"Separated by commas; all must be there."`
	Group        string   `query:"group" doc:"Id or name; static and dynamic members."`
	Q            string   `query:"q" maxLength:"255" doc:"Looked for in name, display name, hostname and description."`
	Limit        int      `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Offset       int      `query:"offset" minimum:"0" maximum:"1000000" default:"0"`
	Cursor       string   `query:"cursor" doc:"The next of the page before; exact while servers come and go, which offset is not."`
}

func (s *Service) listServers(ctx context.Context, in *listServersInput) (*struct{ Body serverList }, error) {
	query := store.ServerQuery{
		Org: principal(ctx).Org, Lifecycle: in.Status, HealthStatus: in.HealthStatus, Region: in.Region,
		Environment: in.Environment, Tags: in.Tags, Text: in.Q, Limit: in.Limit, Offset: in.Offset,
	}
	if in.Group != "" {
		group, err := s.store.Group(ctx, query.Org, in.Group)
		if err != nil {
			return nil, err
		}
		query.GroupID = group.ID
	}
	return s.pageOfServers(ctx, query, "servers", in.Cursor)
}

// pageOfServers answers with a page of the list what.
func (s *Service) pageOfServers(ctx context.Context, query store.ServerQuery, what, from string) (*struct{ Body serverList }, error) {
	if err := readCursor(from, what, &query.After); err != nil {
		return nil, err
	}
	list := serverList{Limit: query.Limit, Offset: query.Offset, Servers: []Server{}}
	query.Limit++
	records, err := s.store.ListServers(ctx, query)
	if err != nil {
		return nil, err
	}
	more := len(records) > list.Limit
	if more {
		records = records[:list.Limit]
		list.Next = cursor(what, records[len(records)-1].Name)
	}
	for _, record := range records {
		list.Servers = append(list.Servers, newServer(record))
	}
	list.Count = len(list.Servers)
	if whole := from == "" && query.Offset == 0 && !more; whole {
		list.Total = list.Count
	} else if list.Total, err = s.totalOf(ctx, query); err != nil {
		return nil, err
	}
	return &struct{ Body serverList }{list}, nil
}

// totalOf is how many servers a query picks, all pages together.
func (s *Service) totalOf(ctx context.Context, query store.ServerQuery) (int, error) {
	query.After, query.Offset, query.Limit = "", 0, 0
	key, err := json.Marshal(query)
	if err != nil {
		return 0, err
	}
	return s.totals.get(ctx, string(key), func(ctx context.Context) (int, span, error) {
		now := time.Now()
		total, err := s.store.CountServers(ctx, query)
		return total, counted(now), err
	})
}

func (s *Service) getServer(ctx context.Context, in *ServerPath) (*ServerBody, error) {
	return s.showServer(ctx, in.ID)
}

func (s *Service) showServer(ctx context.Context, idOrName string) (*ServerBody, error) {
	who := principal(ctx)
	record, checks, err := s.store.Server(ctx, who.Org, idOrName)
	if err != nil {
		return nil, err
	}
	shown := ServerDetail{Server: newServer(record), Checks: make([]Check, 0, len(checks))}
	for i := range checks {
		shown.Checks = append(shown.Checks, newCheck(&checks[i], who.Role))
	}
	return &ServerBody{ETag: revisionTag(record.Revision), Body: shown}, nil
}

type updateServerInput struct {
	ServerPath
	IfMatch string `header:"If-Match" doc:"ETag of the server that the change is based on."`
	Body    struct {
		DisplayName optional[string]         `json:"display_name,omitzero" maxLength:"255"`
		Hostname    optional[string]         `json:"hostname,omitzero" maxLength:"255"`
		APIURL      optional[string]         `json:"api_url,omitzero" maxLength:"2048" doc:"Checks that were made of the address before move to this one."`
		APIToken    optional[string]         `json:"api_token,omitzero" maxLength:"4096" doc:"Takes the place of the token at once; null ends it. Needed when checks would present the one that is kept to another host, port or scheme."`
		Description optional[string]         `json:"description,omitzero" maxLength:"4096"`
		Version     optional[string]         `json:"version,omitzero" maxLength:"255"`
		Region      optional[string]         `json:"region,omitzero" maxLength:"255"`
		Environment optional[string]         `json:"environment,omitzero" maxLength:"255"`
		Status      optional[string]         `json:"status,omitzero" doc:"active, maintenance or inactive."`
		Tags        optional[[]string]       `json:"tags,omitzero"`
		Groups      optional[[]string]       `json:"groups,omitzero" doc:"Names; groups that are not there are made."`
		Metadata    optional[map[string]any] `json:"metadata,omitzero" doc:"A merge patch itself."`
		Checks      optional[[]Check]        `json:"checks,omitzero"`
	}
}

func (s *Service) updateServer(ctx context.Context, in *updateServerInput) (*ServerBody, error) {
	server, err := s.editServer(ctx, in.ID, in.IfMatch, "server.update", func(server *catalog.Server) error {
		before, body := *server, &in.Body
		for _, text := range []struct {
			to   *string
			from optional[string]
		}{
			{&server.DisplayName, body.DisplayName},
			{&server.Hostname, body.Hostname},
			{&server.Description, body.Description},
			{&server.Version, body.Version},
			{&server.Region, body.Region},
			{&server.Environment, body.Environment},
		} {
			text.from.apply(text.to)
		}
		if body.Status.sent {
			server.Lifecycle = catalog.Lifecycle(body.Status.value) // null is the default: active
		}
		body.Tags.apply(&server.Tags)
		body.Groups.apply(&server.Groups)
		if body.Metadata.sent {
			server.Metadata = mergePatch(server.Metadata, body.Metadata.value)
		}
		if body.APIURL.sent {
			if body.APIURL.value == "" {
				return problem(http.StatusUnprocessableEntity, "validation failed", field("body.api_url", "cannot be emptied: checks look at it"))
			}
			server.Checks = moveChecks(server.Checks, server.APIURL, body.APIURL.value)
			server.APIURL = body.APIURL.value
		}
		if body.Checks.sent {
			checks, err := readChecks(slices.Clone(body.Checks.value))
			if err != nil {
				return err
			}
			server.Checks = checks
		}
		if !body.APIToken.sent {
			return mayPresent(&before, server)
		}
		server.Credential = nil
		if body.APIToken.value == "" {
			return nil
		}
		var err error
		server.Credential, err = s.seal(server, "body.api_token", body.APIToken.value, time.Time{})
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.showServer(ctx, server.ID)
}

// mergePatch is RFC 7396 for an object; null is the empty one.
func mergePatch(to, patch map[string]any) map[string]any {
	merged := map[string]any{}
	if patch == nil {
		return merged
	}
	maps.Copy(merged, to)
	for key, value := range patch {
		if value == nil {
			delete(merged, key)
			continue
		}
		if object, ok := value.(map[string]any); ok {
			before, _ := merged[key].(map[string]any)
			value = mergePatch(before, object)
		}
		merged[key] = value
	}
	return merged
}

// editServer has change make a server of the source api different, once more when another edit overtook it, and writes
// the record. ifMatch may be empty. It returns the server as it is declared then.
func (s *Service) editServer(
	ctx context.Context, idOrName, ifMatch, action string, change func(*catalog.Server) error,
) (*catalog.Server, error) {
	for round := 1; ; round++ {
		have, err := s.ownServer(ctx, idOrName, ifMatch)
		if err != nil {
			return nil, err
		}
		want := *have
		want.Checks = slices.Clone(have.Checks)
		if err := change(&want); err != nil {
			return nil, err
		}
		if err := s.complete(&want); err != nil {
			return nil, err
		}
		plan, _ := catalog.Diff(catalog.SourceAPI, []catalog.Server{want}, []catalog.Server{*have})
		if plan.Empty() {
			return have, nil
		}
		entry := audit(ctx, action, "server", have.Name)
		entry.Before, entry.After = describeServer(have), describeServer(&want)
		err = s.store.ApplyEdit(ctx, store.Edit{Plan: plan, Audit: []store.Audit{entry}})
		if err == nil {
			return &want, nil
		}
		if !errors.Is(err, store.ErrStale) || round == editRounds {
			return nil, err
		}
	}
}

// ownServer is a server that may be changed here, and that is as the request knows it.
func (s *Service) ownServer(ctx context.Context, idOrName, ifMatch string) (*catalog.Server, error) {
	found, err := s.store.DeclaredServers(ctx, principal(ctx).Org, idOrName)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, store.ErrNotFound
	}
	server := &found[0]
	for i := range found {
		if found[i].ID == idOrName {
			server = &found[i] // another's name has the form of this one's id
		}
	}
	if server.Source != catalog.SourceAPI {
		return nil, &store.DeclaredError{What: "server " + server.Name, Source: server.Source}
	}
	if !revisionMatches(ifMatch, server.Revision) {
		return nil, problem(http.StatusPreconditionFailed, "the server was changed meanwhile: read it again")
	}
	return server, nil
}

func (s *Service) deleteServer(ctx context.Context, in *struct {
	ServerPath
	IfMatch string `header:"If-Match"`
},
) (*struct{}, error) {
	for round := 1; ; round++ {
		have, err := s.ownServer(ctx, in.ID, in.IfMatch)
		if err != nil {
			return nil, err
		}
		entry := audit(ctx, "server.delete", "server", have.Name)
		entry.Before = describeServer(have)
		err = s.store.ApplyEdit(ctx, store.Edit{
			Plan: catalog.Plan{Source: catalog.SourceAPI, Remove: []catalog.Server{*have}}, Audit: []store.Audit{entry},
		})
		if !errors.Is(err, store.ErrStale) || round == editRounds {
			return nil, err
		}
	}
}
