package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// tokenField is the field that a server's token is sealed for.
const tokenField = "api_token"

// MaxToken bounds the token of a server, in bytes.
const MaxToken = 4096

// Credential is the bearer token that a server wants presented, sealed.
type Credential struct {
	Sealed string
	// Hash is SHA-256 of the token in hexadecimal, to look a server up by; it is no proof of anything.
	Hash string
	// Previous is the sealed token before, which is presented when the new one is refused, until PreviousUntil; empty:
	// there is none.
	Previous      string
	PreviousUntil time.Time
}

// TokenFault says what is wrong with a token that is to be sealed; empty: nothing. It goes into a header: RFC 6750, 2.1.
func TokenFault(token string) string {
	switch {
	case token == "":
		return "must not be empty"
	case len(token) > MaxToken:
		return fmt.Sprintf("is longer than %d bytes", MaxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "holds a character that no bearer token can hold"
	}
	return ""
}

// HashToken is what a server with this token is looked up by.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// SealToken seals the token of a server. A token that was there before is presented besides until previousUntil, when
// that is not zero.
func (k *Keyring) SealToken(server Key, token string, before *Credential, previousUntil time.Time) *Credential {
	credential := &Credential{
		Sealed: k.Seal(SealedField{Org: server.Org, Server: server.Name, Field: tokenField}, token), Hash: HashToken(token),
	}
	if before != nil && !previousUntil.IsZero() {
		credential.Previous, credential.PreviousUntil = before.Sealed, previousUntil
	}
	return credential
}

// Reseal is the credential of a server with the same tokens, sealed with the current key; a token before whose time is over
// is left out. The error wraps [ErrSeal] when no key opens one of them.
func (k *Keyring) Reseal(server Key, c *Credential, now time.Time) (*Credential, error) {
	renewed := *c
	if !now.Before(c.PreviousUntil) {
		renewed.Previous, renewed.PreviousUntil = "", time.Time{}
	}
	for _, sealed := range []*string{&renewed.Sealed, &renewed.Previous} {
		if *sealed == "" || k.Current(*sealed) {
			continue
		}
		token, err := k.OpenToken(server, *sealed)
		if err != nil {
			return nil, err
		}
		*sealed = k.Seal(SealedField{Org: server.Org, Server: server.Name, Field: tokenField}, token)
	}
	return &renewed, nil
}

// OpenToken opens what SealToken has sealed; errors wrap [ErrSeal].
func (k *Keyring) OpenToken(server Key, sealed string) (string, error) {
	return k.Open(SealedField{Org: server.Org, Server: server.Name, Field: tokenField}, sealed)
}

func sameCredential(a, b *Credential) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Sealed == b.Sealed && a.Hash == b.Hash && a.Previous == b.Previous && a.PreviousUntil.Equal(b.PreviousUntil)
}

func sameToken(a, b *Credential) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Hash == b.Hash
}

// presentsToken says whether probes of the check carry the server's token.
func (c *Check) presentsToken() bool {
	return c.HTTP.GetServerToken() || c.Metrics.GetServerToken()
}

// credentialFor is what the probes of check c carry, nil when they carry nothing.
func (s *Server) credentialFor(c *Check) *picketv1.Credential {
	if s.Credential == nil || !c.presentsToken() {
		return nil
	}
	m := &picketv1.Credential{Sealed: s.Credential.Sealed}
	if s.Credential.Previous != "" {
		m.Previous, m.PreviousUntil = s.Credential.Previous, timestamppb.New(s.Credential.PreviousUntil)
	}
	return m
}
