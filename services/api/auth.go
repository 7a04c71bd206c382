package api

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/store"
)

// authenticate finds out who asks and whether they may, before anything else of the request is read.
func (s *Service) authenticate(needed store.Role) func(huma.Context, func(huma.Context)) {
	return func(hctx huma.Context, next func(huma.Context)) {
		r := requestOf(hctx.Context())
		who, err := s.whoComes(hctx, r.remote)
		if err == nil && !who.Role.May(needed) {
			err = problem(http.StatusForbidden, "this needs the role "+string(needed)+"; the token has "+string(who.Role))
		}
		if err == nil {
			err = s.withinLimit(who)
		}
		if err != nil {
			s.refuse(hctx, err)
			return
		}
		r.principal = who
		next(hctx)
	}
}

// whoAsks reads the header Authorization. A token in the address is never looked at: addresses end in logs.
func (s *Service) whoAsks(ctx context.Context, header, remote string) (Principal, error) {
	scheme, text, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || text == "" {
		return Principal{}, unauthorized("")
	}
	secret, err := store.ParseTokenSecret(strings.TrimSpace(text))
	if err == nil {
		// Whoever tries tokens costs a look into the database each: not without end.
		if wait := s.limits.failures.spent(remote); wait > 0 && !s.tokens.known(secret) {
			return Principal{}, tooMany("too many refused tokens from this address", wait)
		}
		var who Principal
		if who, err = s.tokens.verify(ctx, secret); err == nil {
			return who, nil
		}
	}
	if !errors.Is(err, errRefused) && !errors.Is(err, store.ErrTokenForm) {
		return Principal{}, err
	}
	s.metrics.authFailures.Inc()
	if wait := s.limits.failures.take(remote); wait > 0 {
		return Principal{}, tooMany("too many refused tokens from this address", wait)
	}
	return Principal{}, unauthorized("invalid_token")
}

func (s *Service) withinLimit(who Principal) error {
	if wait := s.limits.requests.take(who.TokenID); wait > 0 {
		return tooMany("more requests than this token may send", wait)
	}
	return nil
}

// unauthorized is the answer of RFC 6750, 3; reason is empty when there was no token at all.
func unauthorized(reason string) error {
	challenge, detail := `Bearer realm="picket"`, "a token is needed: Authorization: Bearer pk_…"
	if reason != "" {
		challenge, detail = challenge+`, error="`+reason+`"`, "the token is not valid: unknown, expired or revoked"
	}
	return huma.ErrorWithHeaders(problem(http.StatusUnauthorized, detail), http.Header{"Www-Authenticate": {challenge}})
}

func tooMany(detail string, wait time.Duration) error {
	seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	return huma.ErrorWithHeaders(problem(http.StatusTooManyRequests, detail), http.Header{"Retry-After": {seconds}})
}

// refuse writes an error before the handler was reached.
func (s *Service) refuse(hctx huma.Context, err error) {
	told := s.tell(hctx.Context(), err)
	if headed, ok := errors.AsType[huma.HeadersError](told); ok {
		for name, values := range headed.GetHeaders() {
			for _, value := range values {
				hctx.AppendHeader(name, value)
			}
		}
	}
	if p, ok := errors.AsType[*huma.ErrorModel](told); ok {
		writeProblem(hctx, p)
	}
}

// tell is what people are told of an error; what is a fault of ours is logged.
func (s *Service) tell(ctx context.Context, err error) error {
	told, internal := asProblem(ctx, err)
	if internal {
		s.log.ErrorContext(ctx, "request failed", "err", err, "request_id", requestOf(ctx).id)
	}
	return told
}

// remoteAddress is the address a request came from, without the port; of IPv6 the network that one site has, so that
// nobody has more budgets than others.
func remoteAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if address = address.Unmap(); address.Is6() {
		if prefix, err := address.WithZone("").Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return address.String()
}
