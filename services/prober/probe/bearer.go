package probe

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

const authorization = "Authorization"

// mostDiscarded bounds what is read of an answer that is not looked at, so that
// its connection can be used again.
const mostDiscarded = 64 << 10

// present makes the requests show a token. Like every declared header it is kept
// from other hosts.
func (p *httpProber) present(b Bearer) error {
	if slices.Contains(p.secrets, authorization) {
		return fieldError("server_token", errors.New("beside an Authorization header"))
	}
	if !isCredential(b.Token) || b.Previous != "" && !isCredential(b.Previous) {
		return fieldError("server_token", errors.New("holds what a header cannot"))
	}
	p.secrets = append(p.secrets, authorization)
	if b.Previous != "" && b.Previous != b.Token {
		p.previous, p.previousUntil = p.request.Clone(p.request.Context()), b.PreviousUntil
		p.previous.Header.Set(authorization, "Bearer "+b.Previous)
	}
	p.request.Header.Set(authorization, "Bearer "+b.Token)
	return nil
}

// isCredential reports what can stand in a header: visible ASCII, which is more
// than the token68 of RFC 9110, section 11.2, that it should be.
func isCredential(token string) bool {
	return token != "" && strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// mayPresentPrevious reports an answer after which the token before is worth
// presenting: the server knows the new one not yet.
func (p *httpProber) mayPresentPrevious(response *http.Response, now time.Time) bool {
	refused := response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden
	return refused && p.previous != nil && now.Before(p.previousUntil)
}

// discard lets go of an answer.
func (p *httpProber) discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, mostDiscarded) // what fails here fails again
	response.Body.Close()
}
