package api

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

// colorForm is what the source system kept in seven characters.
var colorForm = regexp.MustCompile(`^#[0-9A-Fa-f]{6}$`)

// Selector makes every server a member that meets all of it; what is left out is met by all.
type Selector struct {
	TagsAll      []string `json:"tags_all,omitempty" maxItems:"64" nullable:"false" doc:"All of them must be there."`
	TagsAny      []string `json:"tags_any,omitempty" maxItems:"64" nullable:"false" doc:"One of them must be there."`
	Regions      []string `json:"regions,omitempty" maxItems:"64" nullable:"false"`
	Environments []string `json:"environments,omitempty" maxItems:"64" nullable:"false"`
	Status       []string `json:"status,omitempty" maxItems:"3" nullable:"false" enum:"active,maintenance,inactive" doc:"Lifecycle."`
	HealthStatus []string `json:"health_status,omitempty" maxItems:"5" nullable:"false" enum:"healthy,degraded,critical,unreachable,unknown"`
}

// Group is a group of servers.
type Group struct {
	ID          string    `json:"id" format:"uuid"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Color       string    `json:"color" example:"#3366ff"`
	Selector    *Selector `json:"selector,omitempty" doc:"Dynamic members. Without one there are those alone that were put in."`
	Members     int       `json:"members" doc:"Servers that are in it now."`
	ManagedBy   string    `json:"managed_by" enum:"env,file,api,self" doc:"Source that made it."`
	Revision    int64     `json:"revision"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

type groupList struct {
	Groups []Group `json:"groups" nullable:"false"`
	Count  int     `json:"count"`
	Limit  int     `json:"limit"`
	Next   string  `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerGroups(api huma.API) {
	tags := []string{"groups"}
	edit := []int{http.StatusConflict, http.StatusPreconditionFailed}
	route(api, store.Admin, huma.Operation{
		OperationID: "create-group", Method: http.MethodPost, Path: base + "/groups", Tags: tags, Summary: "Create a group",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, s.createGroup)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-groups", Method: http.MethodGet, Path: base + "/groups", Tags: tags, Summary: "List groups by name",
	}, s.listGroups)
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-group", Method: http.MethodGet, Path: base + "/groups/{id}", Tags: tags, Summary: "A group",
		Description: "By id or name.",
	}, s.getGroup)
	route(api, store.Admin, huma.Operation{
		OperationID: "update-group", Method: http.MethodPatch, Path: base + "/groups/{id}", Tags: tags, Summary: "Change a group",
		Errors:      edit,
		Description: "JSON merge patch (RFC 7396). A selector is replaced as a whole; null leaves static members alone.",
	}, s.updateGroup)
	route(api, store.Admin, huma.Operation{
		OperationID: "delete-group", Method: http.MethodDelete, Path: base + "/groups/{id}", Tags: tags, Summary: "Remove a group",
		DefaultStatus: http.StatusNoContent, Errors: edit,
		Description: "Servers stay. A group that servers of other sources are declared in stays too.",
	}, s.deleteGroup)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-group-servers", Method: http.MethodGet, Path: base + "/groups/{id}/servers", Tags: tags,
		Summary: "The servers of a group, static and dynamic members, as they are now",
	}, s.listGroupServers)
	route(api, store.Admin, huma.Operation{
		OperationID: "add-group-member", Method: http.MethodPost, Path: base + "/groups/members", Tags: tags,
		Summary: "Put a server into a group", DefaultStatus: http.StatusNoContent, Errors: []int{http.StatusNotFound},
		Description: "Any server, whatever declares it. One that is in it already stays.",
	}, s.addMember)
	route(api, store.Admin, huma.Operation{
		OperationID: "remove-group-member", Method: http.MethodDelete, Path: base + "/groups/members", Tags: tags,
		Summary: "Take a server out of a group", DefaultStatus: http.StatusNoContent,
		Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, s.removeMember)
	route(api, store.Admin, huma.Operation{
		OperationID: "put-group-server", Method: http.MethodPut, Path: base + "/groups/{id}/servers/{server_id}", Tags: tags,
		Summary: "Put a server into a group", DefaultStatus: http.StatusNoContent,
	}, func(ctx context.Context, in *MemberPath) (*struct{}, error) {
		return nil, s.putMember(ctx, in.ID, in.Server)
	})
	route(api, store.Admin, huma.Operation{
		OperationID: "delete-group-server", Method: http.MethodDelete, Path: base + "/groups/{id}/servers/{server_id}", Tags: tags,
		Summary: "Take a server out of a group", DefaultStatus: http.StatusNoContent, Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *MemberPath) (*struct{}, error) {
		return nil, s.dropMember(ctx, in.ID, in.Server)
	})
}

// GroupBody is the answer with a group.
type GroupBody struct {
	ETag string `header:"ETag"`
	Body Group
}

type newGroupOutput struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     Group
}

// GroupPath is the part of the path that names a group.
type GroupPath struct {
	ID string `path:"id" maxLength:"255" doc:"Id or name."`
}

// MemberPath is the part of the path that names a group and a server.
type MemberPath struct {
	GroupPath
	Server string `path:"server_id" maxLength:"63" doc:"Id or name."`
}

type createGroupInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255"`
	Body           struct {
		Name         string    `json:"name" minLength:"1" maxLength:"255" example:"payments"`
		Description  string    `json:"description,omitempty" maxLength:"4096"`
		Color        string    `json:"color,omitempty" example:"#3366ff"`
		Selector     *Selector `json:"selector,omitempty"`
		Tags         []string  `json:"tags,omitempty" maxItems:"64" doc:"Short for tags_any of the selector."`
		Regions      []string  `json:"regions,omitempty" maxItems:"64" doc:"Short for regions of the selector."`
		Environments []string  `json:"environments,omitempty" maxItems:"64" doc:"Short for environments of the selector."`
	}
}

func (s *Service) createGroup(ctx context.Context, in *createGroupInput) (*newGroupOutput, error) {
	who := principal(ctx)
	idempotency, err := newIdempotency(who, in.IdempotencyKey, "create-group", in.Body)
	if err != nil {
		return nil, err
	}
	if err := s.store.CheckIdempotency(ctx, idempotency); err != nil {
		return s.createdGroup(ctx, err)
	}
	group := store.Group{Org: who.Org, Name: in.Body.Name, Description: in.Body.Description, Color: in.Body.Color}
	if len(in.Body.Tags)+len(in.Body.Regions)+len(in.Body.Environments) > 0 {
		if in.Body.Selector != nil {
			return nil, problem(http.StatusUnprocessableEntity, "validation failed",
				field("body.selector", "says it already: tags, regions and environments are short for it"))
		}
		group.Selector = &store.Selector{TagsAny: in.Body.Tags, Regions: in.Body.Regions, Environments: in.Body.Environments}
	} else {
		group.Selector = in.Body.Selector.stored()
	}
	if err := validGroup(&group); err != nil {
		return nil, err
	}
	created, err := s.store.CreateGroup(ctx, group, idempotency, audit(ctx, "group.create", "group", group.Name))
	if errors.Is(err, store.ErrExists) {
		return nil, problem(http.StatusConflict, "a group has this name already", field("body.name", "is taken"))
	}
	if err != nil {
		return s.createdGroup(ctx, err)
	}
	return newGroupCreated(created), nil
}

func (s *Service) createdGroup(ctx context.Context, err error) (*newGroupOutput, error) {
	name, err := replayed(err)
	if err != nil {
		return nil, err
	}
	group, err := s.store.Group(ctx, principal(ctx).Org, name)
	if err != nil {
		return nil, err
	}
	return newGroupCreated(group), nil
}

// validGroup is a problem with all that is wrong.
func validGroup(g *store.Group) error {
	var faults []error
	if fault := catalog.GroupNameFault(g.Name); fault != "" {
		faults = append(faults, field("body.name", fault))
	}
	if g.Color != "" && !colorForm.MatchString(g.Color) {
		faults = append(faults, field("body.color", "is not of the form #rrggbb"))
	}
	if len(faults) > 0 {
		return problem(http.StatusUnprocessableEntity, "validation failed", faults...)
	}
	return nil
}

func (s *Selector) stored() *store.Selector {
	if s == nil {
		return nil
	}
	return &store.Selector{
		TagsAll: s.TagsAll, TagsAny: s.TagsAny, Regions: s.Regions, Environments: s.Environments,
		Status: s.Status, HealthStatus: s.HealthStatus,
	}
}

func (s *Service) listGroups(ctx context.Context, in *struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor string `query:"cursor"`
},
) (*struct{ Body groupList }, error) {
	var after string
	if err := readCursor(in.Cursor, "groups", &after); err != nil {
		return nil, err
	}
	groups, err := s.store.Groups(ctx, principal(ctx).Org, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	list := groupList{Limit: in.Limit, Groups: make([]Group, 0, len(groups))}
	if len(groups) > in.Limit {
		groups = groups[:in.Limit]
		list.Next = cursor("groups", groups[len(groups)-1].Name)
	}
	for _, group := range groups {
		list.Groups = append(list.Groups, newGroup(group))
	}
	list.Count = len(list.Groups)
	return &struct{ Body groupList }{list}, nil
}

func (s *Service) getGroup(ctx context.Context, in *GroupPath) (*GroupBody, error) {
	group, err := s.store.Group(ctx, principal(ctx).Org, in.ID)
	if err != nil {
		return nil, err
	}
	return &GroupBody{ETag: revisionTag(group.Revision), Body: newGroup(group)}, nil
}

type updateGroupInput struct {
	GroupPath
	IfMatch string `header:"If-Match" doc:"ETag of the group that the change is based on."`
	Body    struct {
		Name        *string            `json:"name,omitempty" minLength:"1" maxLength:"255"`
		Description optional[string]   `json:"description,omitzero" maxLength:"4096"`
		Color       optional[string]   `json:"color,omitzero"`
		Selector    optional[Selector] `json:"selector,omitzero"`
	}
}

func (s *Service) updateGroup(ctx context.Context, in *updateGroupInput) (*GroupBody, error) {
	change := func(g *store.Group) error {
		if !revisionMatches(in.IfMatch, g.Revision) {
			return problem(http.StatusPreconditionFailed, "the group was changed meanwhile: read it again")
		}
		if in.Body.Name != nil {
			g.Name = *in.Body.Name
		}
		in.Body.Description.apply(&g.Description)
		in.Body.Color.apply(&g.Color)
		switch {
		case in.Body.Selector.null:
			g.Selector = nil
		case in.Body.Selector.sent:
			g.Selector = in.Body.Selector.value.stored()
		}
		return validGroup(g)
	}
	group, err := s.store.ChangeGroup(ctx, principal(ctx).Org, in.ID, change, audit(ctx, "group.update", "group", in.ID))
	if err != nil {
		return nil, err
	}
	return &GroupBody{ETag: revisionTag(group.Revision), Body: newGroup(group)}, nil
}

func (s *Service) deleteGroup(ctx context.Context, in *struct {
	GroupPath
	IfMatch string `header:"If-Match"`
},
) (*struct{}, error) {
	may := func(g store.Group) error {
		if !revisionMatches(in.IfMatch, g.Revision) {
			return problem(http.StatusPreconditionFailed, "the group was changed meanwhile: read it again")
		}
		return nil
	}
	return nil, s.store.DeleteGroup(ctx, principal(ctx).Org, in.ID, may, audit(ctx, "group.delete", "group", in.ID))
}

func (s *Service) listGroupServers(ctx context.Context, in *struct {
	GroupPath
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Offset int    `query:"offset" minimum:"0" maximum:"1000000" default:"0"`
	Cursor string `query:"cursor"`
},
) (*struct{ Body serverList }, error) {
	org := principal(ctx).Org
	group, err := s.store.Group(ctx, org, in.ID)
	if err != nil {
		return nil, err
	}
	return s.pageOfServers(ctx, store.ServerQuery{Org: org, GroupID: group.ID, Limit: in.Limit, Offset: in.Offset},
		"group-servers", in.Cursor)
}

type addMemberInput struct {
	Body struct {
		ServerID string `json:"server_id" minLength:"1" maxLength:"63" doc:"Id or name."`
		GroupID  string `json:"group_id" minLength:"1" maxLength:"255" doc:"Id or name."`
	}
}

func (s *Service) addMember(ctx context.Context, in *addMemberInput) (*struct{}, error) {
	return nil, s.putMember(ctx, in.Body.GroupID, in.Body.ServerID)
}

type removeMemberInput struct {
	ServerID string `query:"server_id" required:"true" maxLength:"63" doc:"Id or name."`
	GroupID  string `query:"group_id" required:"true" maxLength:"255" doc:"Id or name."`
}

func (s *Service) removeMember(ctx context.Context, in *removeMemberInput) (*struct{}, error) {
	return nil, s.dropMember(ctx, in.GroupID, in.ServerID)
}

func (s *Service) putMember(ctx context.Context, group, server string) error {
	return s.store.AddMember(ctx, principal(ctx).Org, group, server, audit(ctx, "group.add_server", "group", group))
}

func (s *Service) dropMember(ctx context.Context, group, server string) error {
	return s.store.RemoveMember(ctx, principal(ctx).Org, group, server, audit(ctx, "group.remove_server", "group", group))
}

func newGroupCreated(g store.Group) *newGroupOutput {
	return &newGroupOutput{Location: base + "/groups/" + g.ID, ETag: revisionTag(g.Revision), Body: newGroup(g)}
}

func newGroup(g store.Group) Group {
	shown := Group{
		ID: g.ID, Name: g.Name, Description: g.Description, Color: g.Color, Members: g.Members, ManagedBy: string(g.Source),
		Revision: g.Revision, CreatedAt: g.CreatedAt, UpdatedAt: g.UpdatedAt,
	}
	if sel := g.Selector; sel != nil {
		shown.Selector = &Selector{
			TagsAll: sel.TagsAll, TagsAny: sel.TagsAny, Regions: sel.Regions, Environments: sel.Environments,
			Status: sel.Status, HealthStatus: sel.HealthStatus,
		}
	}
	return shown
}
