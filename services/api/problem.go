package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

// retryAfterSeconds is what people are told to wait when something is away.
const retryAfterSeconds = "2"

// faultOfOurs is what people are told of what is for the log alone.
const faultOfOurs = "this is a fault of ours; its details are in the log"

// problem makes the error of RFC 9457 that a handler returns; detail is for people and holds no secret.
func problem(status int, detail string, fields ...error) error {
	p := &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail}
	for _, field := range fields {
		p.Add(field)
	}
	return p
}

// field is one fault of a problem; location is such as body.name.
func field(location, message string) error {
	return &huma.ErrorDetail{Location: location, Message: message}
}

// away is the problem that goes away by itself.
func away(detail string) error {
	return huma.ErrorWithHeaders(problem(http.StatusServiceUnavailable, detail), http.Header{"Retry-After": {retryAfterSeconds}})
}

// asProblem is what people are told of an error. internal says that it is a fault of ours, which is to be logged: its
// words are not for people.
func asProblem(ctx context.Context, err error) (told error, internal bool) { //nolint:revive // the error told is the result, not a failure
	if _, ok := errors.AsType[huma.StatusError](err); ok {
		return err, false
	}
	if faults, ok := errors.AsType[catalog.Faults](err); ok {
		return invalid(faults), false
	}
	if ended := context.Cause(ctx); ended != nil {
		switch {
		case errors.Is(ended, errDatabaseAway), errors.Is(ended, errStopping):
			return away(ended.Error()), false
		case errors.Is(ended, context.DeadlineExceeded):
			return away("this took too long"), false
		}
		// The client has gone; nobody reads this.
		return problem(http.StatusServiceUnavailable, "the request ended early"), false
	}
	if declared, ok := errors.AsType[*store.DeclaredError](err); ok {
		return problem(http.StatusConflict, declared.Error()), false
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "there is no such thing"), false
	case errors.Is(err, store.ErrEnded):
		return problem(http.StatusConflict, "this has ended already"), false
	case errors.Is(err, store.ErrExists):
		return problem(http.StatusConflict, "this exists already"), false
	case errors.Is(err, store.ErrStale):
		return problem(http.StatusConflict, "this was changed by somebody else meanwhile: read it again"), false
	case errors.Is(err, bus.ErrDisconnected):
		return away("NATS is away"), false
	}
	if store.Unstorable(err) {
		return problem(http.StatusUnprocessableEntity, "the request holds a value that nothing here can have: "+
			"a NUL character, bytes that are not UTF-8, or an instant out of range"), false
	}
	switch store.Classify(err) {
	case store.Unavailable, store.Retry:
		return away("the database does not answer"), false
	case store.Data:
		return problem(http.StatusUnprocessableEntity, "the database does not take this value"), true
	}
	return problem(http.StatusInternalServerError, faultOfOurs), true
}

// invalid is the problem of a declaration with faults.
func invalid(faults catalog.Faults) error {
	fields := make([]error, 0, len(faults))
	for _, fault := range faults {
		location := "body"
		if fault.Path != "" {
			location += "." + fault.Path
		}
		fields = append(fields, field(location, fault.Message))
	}
	return problem(http.StatusUnprocessableEntity, "validation failed", fields...)
}

// finish is the last that happens to a body before it is written: a problem names the request, and repeats no value, for
// it may be a secret.
func finish(ctx huma.Context, _ string, body any) (any, error) {
	p, ok := body.(*huma.ErrorModel)
	if !ok {
		return body, nil
	}
	p.Instance = requestInstance(requestOf(ctx.Context()).id)
	for _, detail := range p.Errors {
		detail.Value = nil
	}
	return p, nil
}

// requestInstance names a request as RFC 9457 names an occurrence.
func requestInstance(id string) string { return "urn:picket:request:" + id }
