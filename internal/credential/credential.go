package credential

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// secretVariable begins the name of every variable that a check may refer to. Whoever may edit a server chooses where
// its headers are sent; the rest of the environment is not theirs to send.
const secretVariable = "PICKET_SECRET_"

// tokenField is the field that the token of a server is sealed for.
const tokenField = "api_token"

// ErrNoKey says that there is something to be opened and nothing to open it with.
var ErrNoKey = errors.New("PICKET_SECRET_KEY is not set")

// Source is where the secrets are. It is safe for concurrent use.
type Source struct {
	// Dir is the directory below which secret:file: references may point.
	Dir string
	// Keyring opens sealed tokens; nil: there is none.
	Keyring *catalog.Keyring
}

// Headers returns the headers with the values that they refer to. Errors name the header and wrap catalog.ErrSecret.
func (s Source) Headers(declared []*picketv1.Header) (http.Header, error) {
	headers := make(http.Header, len(declared))
	for _, h := range declared {
		value, err := s.value(h)
		if err != nil {
			return nil, err
		}
		headers.Add(h.GetName(), value)
	}
	return headers, nil
}

// Check returns the check with the values that its headers refer to; one without references comes back as it is, and
// none is changed. Errors are those of Headers.
func (s Source) Check(check *picketv1.Check) (*picketv1.Check, error) {
	if !slices.ContainsFunc(check.GetHttp().GetHeaders(), func(h *picketv1.Header) bool { return catalog.IsSecretRef(h.GetValue()) }) {
		return check, nil
	}
	resolved := proto.CloneOf(check)
	for _, h := range resolved.GetHttp().GetHeaders() {
		value, err := s.value(h)
		if err != nil {
			return nil, err
		}
		h.Value = value
	}
	return resolved, nil
}

func (s Source) value(h *picketv1.Header) (string, error) {
	value, err := catalog.ResolveSecret(h.GetValue(), catalog.SecretLookup{Env: variable, ReadFile: s.file})
	if err != nil {
		return "", fmt.Errorf("header %s: %w", h.GetName(), err)
	}
	return value, nil
}

func variable(name string) (string, bool) {
	if !strings.HasPrefix(name, secretVariable) {
		return "", false
	}
	return os.LookupEnv(name)
}

// file reads below the directory only, links followed: os.Root refuses what leads out of it.
func (s Source) file(path string) ([]byte, error) {
	below, err := filepath.Rel(s.Dir, path)
	if err != nil || !filepath.IsLocal(below) {
		return nil, fmt.Errorf("%s is not below %s (PICKET_SECRETS_DIR)", path, s.Dir)
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of secrets: %w", err)
	}
	data, err := root.ReadFile(below)
	return data, errors.Join(err, root.Close())
}

// Bearer holds the tokens that one server wants presented as `Authorization: Bearer` (RFC 6750).
type Bearer struct {
	// Token is presented first; empty: none is.
	Token string
	// Previous is presented once more when Token was refused with 401 or 403, until PreviousUntil: the server may not
	// have heard of the new one yet.
	Previous      string
	PreviousUntil time.Time
}

// String keeps the tokens out of whatever is printed.
func (Bearer) String() string { return "Bearer" }

// GoString does so with %#v.
func (b Bearer) GoString() string { return b.String() }

// Bearer opens what a server wants presented; a server may want nothing. A token of before that does not open is worth
// nothing any more. Errors wrap ErrNoKey or catalog.ErrSeal.
func (s Source) Bearer(check *picketv1.ScheduledCheck) (Bearer, error) {
	sealed := check.GetCredential()
	if sealed.GetSealed() == "" {
		return Bearer{}, nil
	}
	if s.Keyring == nil {
		return Bearer{}, fmt.Errorf("the token of the server cannot be opened: %w", ErrNoKey)
	}
	field := catalog.SealedField{Org: check.GetOrg(), Server: check.GetServer(), Field: tokenField}
	token, err := s.Keyring.Open(field, sealed.GetSealed())
	if err != nil {
		return Bearer{}, fmt.Errorf("the token of the server cannot be opened: %w", err)
	}
	bearer := Bearer{Token: token}
	if !isCredential(token) {
		return Bearer{}, errNotPresentable
	}
	previous, err := s.Keyring.Open(field, sealed.GetPrevious())
	if err == nil && isCredential(previous) {
		bearer.Previous, bearer.PreviousUntil = previous, sealed.GetPreviousUntil().AsTime()
	}
	return bearer, nil
}

// errNotPresentable says no more of a token than that.
var errNotPresentable = errors.New("the token of the server holds what a header cannot")

// Validate says whether the tokens can stand in a header.
func (b Bearer) Validate() error {
	if b.Token != "" && !isCredential(b.Token) || b.Previous != "" && !isCredential(b.Previous) {
		return errNotPresentable
	}
	return nil
}

// isCredential reports what can stand in a header: visible ASCII, which is more than the token68 of RFC 9110, 11.2, that
// it should be.
func isCredential(token string) bool {
	return token != "" && strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// Again says whether the token before is worth presenting after an answer with this code.
func (b Bearer) Again(code int, now time.Time) bool {
	refused := code == http.StatusUnauthorized || code == http.StatusForbidden
	return refused && b.Previous != "" && b.Previous != b.Token && now.Before(b.PreviousUntil)
}
