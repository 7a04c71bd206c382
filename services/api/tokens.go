package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/store"
)

// defaultOverlap is how long a token holds besides the one that takes its place, where nothing is said.
const defaultOverlap = time.Hour

// Token is a token as people see it, without its secret.
type Token struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Role        store.Role `json:"role" enum:"viewer,operator,admin"`
	State       string     `json:"state" enum:"active,expired,revoked"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty" doc:"Exact to a minute."`
	RotatedFrom string     `json:"rotated_from,omitempty" doc:"The token that this one takes the place of."`
	CreatedBy   string     `json:"created_by,omitempty" doc:"The token that made this one."`
}

// NewToken is a token with its secret, which is shown this once.
type NewToken struct {
	Token
	Secret string `json:"token" doc:"What to present. It is shown this once and not stored." example:"pk_k3v5w2hq7y6zt4ab_…"`
}

type tokenList struct {
	Tokens []Token `json:"tokens" nullable:"false"`
	Count  int     `json:"count"`
	Limit  int     `json:"limit"`
	Next   string  `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerTokens(api huma.API) {
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-current-token", Method: http.MethodGet, Path: base + "/tokens/current", Tags: []string{"tokens"},
		Summary: "The token that asks",
	}, s.currentToken)
	route(api, store.Admin, huma.Operation{
		OperationID: "list-tokens", Method: http.MethodGet, Path: base + "/tokens", Tags: []string{"tokens"},
		Summary: "List tokens, revoked and expired ones too",
	}, s.listTokens)
	route(api, store.Admin, huma.Operation{
		OperationID: "create-token", Method: http.MethodPost, Path: base + "/tokens", Tags: []string{"tokens"},
		Summary: "Create a token", DefaultStatus: http.StatusCreated,
		Description: "Makes a token of the same organization. Its role is at most that of the token that asks.",
	}, s.createToken)
	route(api, store.Admin, huma.Operation{
		OperationID: "revoke-token", Method: http.MethodDelete, Path: base + "/tokens/{id}", Tags: []string{"tokens"},
		Summary: "Revoke a token", DefaultStatus: http.StatusNoContent,
		Description: "Within a second, no replica takes it any more.",
	}, s.revokeToken)
	route(api, store.Admin, huma.Operation{
		OperationID: "rotate-token", Method: http.MethodPost, Path: base + "/tokens/{id}/rotate", Tags: []string{"tokens"},
		Summary: "Put a new token in the place of one", DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
		Description: "The new token has the name and role of the old one; both hold for the overlap.",
	}, s.rotateToken)
}

type tokenBody struct {
	Body Token
}

type newTokenBody struct {
	Location string `header:"Location"`
	Body     NewToken
}

// TokenPath is the part of the path that names a token.
type TokenPath struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *Service) currentToken(ctx context.Context, _ *struct{}) (*tokenBody, error) {
	who := principal(ctx)
	token, err := s.store.Token(ctx, who.Org, who.TokenID)
	if err != nil {
		return nil, err
	}
	return &tokenBody{Body: newToken(token)}, nil
}

func (s *Service) listTokens(ctx context.Context, in *struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor string `query:"cursor"`
},
) (*struct{ Body tokenList }, error) {
	var after string
	if err := readCursor(in.Cursor, "tokens", &after); err != nil {
		return nil, err
	}
	tokens, err := s.store.Tokens(ctx, principal(ctx).Org, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	list := tokenList{Limit: in.Limit, Tokens: make([]Token, 0, len(tokens))}
	if len(tokens) > in.Limit {
		tokens = tokens[:in.Limit]
		list.Next = cursor("tokens", tokens[len(tokens)-1].ID)
	}
	for _, token := range tokens {
		list.Tokens = append(list.Tokens, newToken(token))
	}
	list.Count = len(list.Tokens)
	return &struct{ Body tokenList }{list}, nil
}

type createTokenInput struct {
	Body struct {
		Name             string     `json:"name" minLength:"1" maxLength:"255" doc:"What it is for."`
		Role             store.Role `json:"role" enum:"viewer,operator,admin"`
		ExpiresAt        *time.Time `json:"expires_at,omitempty" doc:"When it ends; never by itself when left out."`
		ExpiresInSeconds int64      `json:"expires_in_seconds,omitempty" minimum:"1" maximum:"315360000" doc:"The same, counted from now."`
	}
}

func (s *Service) createToken(ctx context.Context, in *createTokenInput) (*newTokenBody, error) {
	who := principal(ctx)
	if !who.Role.May(in.Body.Role) {
		return nil, problem(http.StatusForbidden, "a token makes none above its own role")
	}
	token := store.Token{Org: who.Org, Name: in.Body.Name, Role: in.Body.Role, CreatedBy: who.TokenID}
	now := time.Now()
	switch {
	case in.Body.ExpiresAt != nil && in.Body.ExpiresInSeconds > 0:
		return nil, problem(http.StatusUnprocessableEntity, "validation failed",
			field("body.expires_in_seconds", "expires_at says it already"))
	case in.Body.ExpiresAt != nil && !in.Body.ExpiresAt.After(now):
		return nil, problem(http.StatusUnprocessableEntity, "validation failed", field("body.expires_at", "is in the past"))
	case in.Body.ExpiresAt != nil:
		token.ExpiresAt = *in.Body.ExpiresAt
	case in.Body.ExpiresInSeconds > 0:
		token.ExpiresAt = now.Add(time.Duration(in.Body.ExpiresInSeconds) * time.Second)
	}
	secret := store.NewTokenSecret()
	token.ID, token.Hash = secret.ID, secret.Hash()
	stored, err := s.store.CreateToken(ctx, token, audit(ctx, "token.create", "token", token.ID))
	if err != nil {
		return nil, err
	}
	return revealed(stored, secret), nil
}

func (s *Service) revokeToken(ctx context.Context, in *TokenPath) (*struct{}, error) {
	if err := s.store.RevokeToken(ctx, principal(ctx).Org, in.ID, audit(ctx, "token.revoke", "token", in.ID)); err != nil {
		return nil, err
	}
	s.tokens.forget(in.ID)
	return nil, nil
}

type rotateTokenInput struct {
	TokenPath
	Body *rotateTokenBody
}

type rotateTokenBody struct {
	OverlapSeconds   *int64 `json:"overlap_seconds,omitempty" minimum:"0" maximum:"604800" doc:"How long the old token still holds; an hour when left out."`
	ExpiresInSeconds int64  `json:"expires_in_seconds,omitempty" minimum:"1" maximum:"315360000" doc:"When the new one ends; never by itself when left out."`
}

func (s *Service) rotateToken(ctx context.Context, in *rotateTokenInput) (*newTokenBody, error) {
	who := principal(ctx)
	secret := store.NewTokenSecret()
	next := store.Token{ID: secret.ID, Hash: secret.Hash(), CreatedBy: who.TokenID}
	asked := in.Body
	if asked == nil {
		asked = &rotateTokenBody{}
	}
	if asked.ExpiresInSeconds > 0 {
		next.ExpiresAt = time.Now().Add(time.Duration(asked.ExpiresInSeconds) * time.Second)
	}
	overlap := overlapOf(asked.OverlapSeconds)
	stored, err := s.store.RotateToken(ctx, who.Org, in.ID, next, overlap, audit(ctx, "token.rotate", "token", in.ID))
	if errors.Is(err, store.ErrEnded) {
		return nil, problem(http.StatusConflict, "the token is revoked or has expired: create a new one")
	}
	if err != nil {
		return nil, err
	}
	s.tokens.forget(in.ID)
	return revealed(stored, secret), nil
}

// overlapOf is what a request says; 0 ends the old token at once.
func overlapOf(seconds *int64) time.Duration {
	if seconds == nil {
		return defaultOverlap
	}
	return time.Duration(*seconds) * time.Second
}

func revealed(stored store.Token, secret store.TokenSecret) *newTokenBody {
	return &newTokenBody{
		Location: base + "/tokens/" + stored.ID,
		Body:     NewToken{Token: newToken(stored), Secret: secret.Reveal()},
	}
}

func newToken(t store.Token) Token {
	state := "active"
	switch {
	case !t.RevokedAt.IsZero():
		state = "revoked"
	case !t.ExpiresAt.IsZero() && !time.Now().Before(t.ExpiresAt):
		state = "expired"
	}
	return Token{
		ID: t.ID, Name: t.Name, Role: t.Role, State: state, CreatedAt: t.CreatedAt,
		ExpiresAt: orNil(t.ExpiresAt), RevokedAt: orNil(t.RevokedAt), LastUsedAt: orNil(t.LastUsedAt),
		RotatedFrom: t.RotatedFrom, CreatedBy: t.CreatedBy,
	}
}

// orNil is a time as JSON shows it: left out when it is zero.
func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
