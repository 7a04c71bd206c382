package api

import (
	"context"
	"crypto/rand"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

func (s *Service) registerCredentials(api huma.API) {
	route(api, store.Admin, huma.Operation{
		OperationID: "rotate-server-token", Method: http.MethodPost, Path: base + "/servers/{id}/token/rotate", Tags: []string{"servers"},
		Summary: "Give a server a new token", Errors: []int{http.StatusConflict},
		Description: "From the next probe on the new token is presented; when the server refuses it (401, 403), the one " +
			"before, for as long as both hold. A token that is not given is made, and shown this once. The event " +
			"token_rotated says that it happened.",
	}, s.rotateServerToken)
}

type rotateServerTokenInput struct {
	ServerPath
	IfMatch string `header:"If-Match"`
	Body    *rotateServerTokenBody
}

type rotateServerTokenBody struct {
	Token          string `json:"token,omitempty" maxLength:"4096" doc:"Made when left out."`
	OverlapSeconds *int64 `json:"overlap_seconds,omitempty" minimum:"0" maximum:"604800" doc:"How long the token before is presented when the new one is refused; an hour when left out."`
}

type rotatedServerToken struct {
	ServerID      string     `json:"server_id" format:"uuid"`
	Token         string     `json:"token,omitempty" doc:"The token that was made; it is shown this once."`
	PreviousUntil *time.Time `json:"previous_until,omitempty"`
}

func (s *Service) rotateServerToken(ctx context.Context, in *rotateServerTokenInput) (*struct{ Body rotatedServerToken }, error) {
	asked := in.Body
	if asked == nil {
		asked = &rotateServerTokenBody{}
	}
	token, made := asked.Token, ""
	if token == "" {
		made = rand.Text() + rand.Text()
		token = made
	}
	var until time.Time
	if overlap := overlapOf(asked.OverlapSeconds); overlap > 0 {
		until = time.Now().Add(overlap).UTC().Truncate(time.Microsecond)
	}
	server, err := s.editServer(ctx, in.ID, in.IfMatch, "server.token.rotate", func(server *catalog.Server) (err error) {
		server.Credential, err = s.seal(server, "body.token", token, until)
		return err
	})
	if err != nil {
		return nil, err
	}
	rotated := rotatedServerToken{ServerID: server.ID, Token: made}
	if server.Credential.Previous != "" {
		rotated.PreviousUntil = orNil(server.Credential.PreviousUntil)
	}
	return &struct{ Body rotatedServerToken }{rotated}, nil
}
