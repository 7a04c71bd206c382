// Package probe looks at one target once: it compiles a check into a Prober and
// runs it.
//
// What enters is a check of the catalog and a context with the deadline; what
// leaves is the part of a probe result that the look itself decides. Verdicts
// are internal/health's, schedules, identities and publishing the caller's. The
// room knows the network and nothing else of Picket: no bus, no store, no log.
package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Prober looks at one target, as its check says.
type Prober interface {
	// Probe looks once. The deadline is ctx's; when ctx is cancelled the result is
	// unknown. It always returns a result, of which it sets kind, started_at,
	// status, reason, message, latency_us and, where they apply, http_status,
	// connection_reused, certificate_not_after, components and counters. Identity
	// (server, check, scheduled_at and so on) is left to the caller, whose the
	// message is from then on. It may be called from several goroutines at once.
	Probe(ctx context.Context) *picketv1.ProbeResult
}

// Options is what all probers of a process share, but for the Bearer.
type Options struct {
	// Pool makes and keeps the connections. Required.
	Pool *Pool
	// BodyLimit is how many bytes of an answer are read at most; an answer that
	// goes on is cut, which is no error. Default 1 MiB.
	BodyLimit int
	// Bearer is presented when the check says so (HTTPSpec.server_token).
	Bearer credential.Bearer
	// Version is the one in the User-Agent picket/<version>. Default dev.
	Version string
}

// DefaultBodyLimit bounds an answer unless Options say otherwise.
const DefaultBodyLimit = 1 << 20

// A maker compiles the spec of one kind.
type maker func(*picketv1.Check, Options) (Prober, error)

// kinds is the table of what can be probed. A kind is one line here and one
// file; see docs/howto/add-a-check-kind.md.
func kinds() map[string]maker {
	return map[string]maker{
		"http": newHTTP,
		"tcp":  newTCP,
	}
}

// Kinds lists the kinds of check that New knows, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds())) }

// New compiles a check. The error names the field that cannot be (it wraps a
// *health.FieldError) and is final: the same check fails again. Files of TLS
// options are read here, so that changed ones need a new Prober, except for the
// client certificate, which is read for every handshake.
func New(check *picketv1.Check, opt Options) (Prober, error) {
	if opt.Pool == nil {
		return nil, errors.New("probe: options without a pool")
	}
	if opt.BodyLimit <= 0 {
		opt.BodyLimit = DefaultBodyLimit
	}
	if opt.Version == "" {
		opt.Version = "dev"
	}
	newKind, ok := kinds()[check.GetKind()]
	if !ok {
		return nil, fmt.Errorf("probe: unknown kind %q, known are %s", check.GetKind(), strings.Join(Kinds(), ", "))
	}
	p, err := newKind(check, opt)
	if err != nil {
		return nil, fmt.Errorf("probe: check %q: %w", check.GetName(), err)
	}
	return p, nil
}

func fieldError(field string, err error) error { return &health.FieldError{Field: field, Err: err} }

// result makes the message for an outcome of a look that began at start.
func result(kind string, start time.Time, latency time.Duration, o health.Outcome) *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Kind:       kind,
		StartedAt:  timestamppb.New(start),
		LatencyUs:  latency.Microseconds(),
		Status:     o.Status,
		Reason:     o.Reason,
		Message:    o.Message,
		Components: o.Components,
		Counters:   o.Counters,
	}
}

// failed is the outcome of a look that ended with err at the given stage. A
// context that is done explains every error that its end brought about.
func failed(ctx context.Context, err error, at stage) health.Outcome {
	o := health.FromError(err)
	if cause := ctx.Err(); cause != nil && (o.Reason == health.ReasonTimeout || o.Reason == health.ReasonError) {
		o = health.FromError(cause)
	}
	if o.Reason == health.ReasonTimeout {
		if at == resolving {
			o.Reason = health.ReasonDNSTimeout
		}
		o.Message = "timed out " + at.String()
	}
	return o
}
