package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/store"
)

// AuditEntry is one change that somebody made.
type AuditEntry struct {
	ID         string     `json:"id"`
	At         time.Time  `json:"at"`
	Actor      string     `json:"actor" doc:"Id of the token."`
	ActorName  string     `json:"actor_name,omitempty" doc:"Name of the token then."`
	Role       store.Role `json:"role,omitempty"`
	Action     string     `json:"action" example:"server.create"`
	TargetKind string     `json:"target_kind" example:"server"`
	Target     string     `json:"target"`
	Before     any        `json:"before,omitempty"`
	After      any        `json:"after,omitempty"`
	RequestID  string     `json:"request_id,omitempty"`
	Remote     string     `json:"remote,omitempty"`
}

type auditList struct {
	Entries []AuditEntry `json:"entries" nullable:"false"`
	Count   int          `json:"count"`
	Limit   int          `json:"limit"`
	Next    string       `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerAudit(api huma.API) {
	route(api, store.Admin, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: base + "/audit", Tags: []string{"audit"},
		Summary: "Who changed what, the newest first",
	}, s.listAudit)
}

type listAuditInput struct {
	Actor      string    `query:"actor" doc:"Id of a token."`
	Action     string    `query:"action"`
	TargetKind string    `query:"target_kind"`
	Target     string    `query:"target"`
	From       time.Time `query:"from"`
	To         time.Time `query:"to" doc:"Not included."`
	Limit      int       `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor     string    `query:"cursor"`
}

func (s *Service) listAudit(ctx context.Context, in *listAuditInput) (*struct{ Body auditList }, error) {
	var before int64
	if err := readCursor(in.Cursor, "audit", &before); err != nil {
		return nil, err
	}
	if err := inOrder(in.From, in.To); err != nil {
		return nil, err
	}
	rows, err := s.store.AuditLog(ctx, store.AuditQuery{
		Org: principal(ctx).Org, Actor: in.Actor, Action: in.Action, TargetKind: in.TargetKind, Target: in.Target,
		From: in.From, To: in.To, Before: before, Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	list := auditList{Limit: in.Limit, Entries: make([]AuditEntry, 0, len(rows))}
	if len(rows) > in.Limit {
		rows = rows[:in.Limit]
		list.Next = cursor("audit", rows[len(rows)-1].ID)
	}
	for _, row := range rows {
		list.Entries = append(list.Entries, AuditEntry{
			ID: strconv.FormatInt(row.ID, 10), At: row.At, Actor: row.Actor, ActorName: row.ActorName, Role: row.Role,
			Action: row.Action, TargetKind: row.TargetKind, Target: row.Target,
			Before: shown(row.Before), After: shown(row.After), RequestID: row.RequestID, Remote: row.Remote,
		})
	}
	list.Count = len(list.Entries)
	return &struct{ Body auditList }{list}, nil
}

// shown is a stored value as JSON shows it: left out when there is none.
func shown(value any) any {
	if raw, ok := value.(json.RawMessage); ok {
		return raw
	}
	return nil
}
