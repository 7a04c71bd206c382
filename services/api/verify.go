package api

import (
	"context"
	"crypto/subtle"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/picketd/picket/internal/store"
)

const (
	// believeFor is how long a token that was looked up is believed: a revoked one is refused this long after at the
	// latest, and a hundred requests a second cost one look.
	believeFor = time.Second
	// knownFor is how long a token that was good is remembered as one that somebody really has.
	knownFor = 10 * time.Minute
	// maxBelieved bounds what is remembered.
	maxBelieved = 10_000
)

// errRefused says that a token is not good. People are not told why.
var errRefused = errors.New("token refused")

// verifier tells whose token a request carries. It is safe for concurrent use.
type verifier struct {
	lookup func(ctx context.Context, id string) (store.Token, error)
	now    func() time.Time
	flight singleflight.Group

	mu       sync.Mutex
	believed map[string]belief
	used     map[string]time.Time
}

// belief is what was found under an id; of an id that nobody has, nothing is kept.
type belief struct {
	token store.Token
	asked time.Time
}

func newVerifier(db *store.Store) *verifier {
	return &verifier{
		lookup: db.LookupToken, now: time.Now,
		believed: map[string]belief{}, used: map[string]time.Time{},
	}
}

// known says whether somebody showed this very token not long ago and it was good.
func (v *verifier) known(secret store.TokenSecret) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	b, there := v.believed[secret.ID]
	return there && v.now().Sub(b.asked) < knownFor && matches(secret, b.token)
}

// verify returns who presents the token. The error is errRefused when it is not good, and another one when that could
// not be found out.
func (v *verifier) verify(ctx context.Context, secret store.TokenSecret) (Principal, error) {
	token, err := v.find(ctx, secret.ID)
	if errors.Is(err, store.ErrNotFound) {
		err = errRefused
	}
	if err != nil {
		return Principal{}, err
	}
	now := v.now()
	if !matches(secret, token) || !token.RevokedAt.IsZero() ||
		!token.ExpiresAt.IsZero() && !now.Before(token.ExpiresAt) {
		return Principal{}, errRefused
	}
	v.mu.Lock()
	v.used[token.ID] = now
	v.mu.Unlock()
	return Principal{Org: token.Org, Role: token.Role, TokenID: token.ID, Name: token.Name}, nil
}

func matches(secret store.TokenSecret, token store.Token) bool {
	hash := secret.Hash()
	return subtle.ConstantTimeCompare(hash[:], token.Hash[:]) == 1
}

func (v *verifier) find(ctx context.Context, id string) (store.Token, error) {
	v.mu.Lock()
	b, there := v.believed[id]
	v.mu.Unlock()
	if there && v.now().Sub(b.asked) < believeFor {
		return b.token, nil
	}
	// Whoever asks first asks for all; nobody waits longer than their own request may take.
	answer := v.flight.DoChan(id, func() (any, error) {
		asked := v.now()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), believeFor)
		defer cancel()
		token, err := v.lookup(bounded, id)
		v.mu.Lock()
		defer v.mu.Unlock()
		switch {
		case err == nil:
			v.believe(id, belief{token: token, asked: asked})
		case errors.Is(err, store.ErrNotFound):
			delete(v.believed, id)
		}
		return token, err
	})
	select {
	case got := <-answer:
		token, _ := got.Val.(store.Token)
		return token, got.Err
	case <-ctx.Done():
		return store.Token{}, context.Cause(ctx)
	}
}

// believe remembers a token, and makes room first: what is oldest goes when nothing has run out.
func (v *verifier) believe(id string, b belief) {
	if _, there := v.believed[id]; !there && len(v.believed) >= maxBelieved {
		oldest, at := "", b.asked
		for other, known := range v.believed {
			switch {
			case b.asked.Sub(known.asked) >= knownFor:
				delete(v.believed, other)
			case known.asked.Before(at):
				oldest, at = other, known.asked
			}
		}
		if len(v.believed) >= maxBelieved {
			delete(v.believed, oldest)
		}
	}
	v.believed[id] = b
}

// forget has a token looked up again by the next request of this process.
func (v *verifier) forget(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.believed, id)
}

// takeUsed returns when tokens were used since it was last called.
func (v *verifier) takeUsed() map[string]time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	used := v.used
	v.used = map[string]time.Time{}
	return used
}
