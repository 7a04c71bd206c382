package probe

import (
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/picketd/picket/internal/credential"
)

const authorization = "Authorization"

// mostDiscarded bounds what is read of an answer that is not looked at, so that
// its connection can be used again.
const mostDiscarded = 64 << 10

// present makes the requests show a token. Like every declared header it is kept
// from other hosts.
func (p *httpProber) present(b credential.Bearer) error {
	if slices.Contains(p.secrets, authorization) {
		return fieldError("server_token", errors.New("beside an Authorization header"))
	}
	if err := b.Validate(); err != nil {
		return fieldError("server_token", err)
	}
	p.secrets = append(p.secrets, authorization)
	p.bearer = b
	if b.Previous != "" {
		p.previous = p.request.Clone(p.request.Context())
		p.previous.Header.Set(authorization, "Bearer "+b.Previous)
	}
	p.request.Header.Set(authorization, "Bearer "+b.Token)
	return nil
}

// discard lets go of an answer.
func (p *httpProber) discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, mostDiscarded) // what fails here fails again
	response.Body.Close()
}
