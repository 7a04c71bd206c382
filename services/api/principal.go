package api

import (
	"context"

	"github.com/picketd/picket/internal/store"
)

// Principal is who asks.
type Principal struct {
	// Org is the only organization whose rows the request may touch.
	Org     string
	Role    store.Role
	TokenID string
	// Name of the token.
	Name string
}

// request is what is known of a request besides what it carries.
type request struct {
	principal Principal
	id        string
	remote    string
	// tell is what people are told of an error.
	tell func(ctx context.Context, err error) error
	// reads is where requests that read wait for their turn.
	reads *readers
}

type requestKey struct{}

func withRequest(ctx context.Context, r *request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// requestOf is the request that ctx belongs to; every request that the handler takes has one.
func requestOf(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// principal is who asks.
func principal(ctx context.Context) Principal { return requestOf(ctx).principal }

// audit begins the entry of a change for the record: who, by which request, and what. The function of the store that
// makes the change adds what it sees and writes it.
func audit(ctx context.Context, action, targetKind, target string) store.Audit {
	r := requestOf(ctx)
	return store.Audit{
		Org: r.principal.Org, Actor: r.principal.TokenID, ActorName: r.principal.Name, Role: r.principal.Role,
		Action: action, TargetKind: targetKind, Target: target, RequestID: r.id, Remote: r.remote,
	}
}
