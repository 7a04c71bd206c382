package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/blob"
)

// requestIDHeader carries the id of a request in both directions.
const requestIDHeader = "X-Request-Id"

// requestIDForm is what we take over from a client or a proxy; it goes into logs and rows.
var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9._-]{8,64}$`)

// wrap is what every request goes through, the outermost first: an id, headers for safety, a bound for the body, what
// is counted and logged, and an answer when the handler panics.
func (s *Service) wrap(next *http.ServeMux, objects http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		state := &request{id: r.Header.Get(requestIDHeader), remote: remoteAddress(r), tell: s.tell, reads: s.reads}
		if !requestIDForm.MatchString(state.id) {
			state.id = rand.Text()
		}
		header := w.Header()
		header.Set(requestIDHeader, state.id)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		header.Set("Cache-Control", "no-store")
		if r.Body != nil {
			r.Body = http.MaxBytesReader(w, r.Body, s.config.MaxBodyBytes)
		}
		r = r.WithContext(withRequest(r.Context(), state))
		answer := &response{ResponseWriter: w, within: s.config.RequestTimeout}
		answer.deadline(time.Time{})
		s.metrics.inFlight.Inc()
		defer func() {
			if fault := recover(); fault != nil {
				s.recovered(answer, r, state, fault)
			}
			s.account(answer, r, state, time.Since(started))
		}()
		if strings.HasPrefix(r.URL.Path, blob.LinkBase) {
			r.Pattern = blob.LinkBase
			objects.ServeHTTP(answer, r)
			return
		}
		handler, pattern := next.Handler(r)
		if pattern == "" {
			unrouted(answer, handler, r)
			return
		}
		next.ServeHTTP(answer, r)
	})
}

// recovered answers for a handler that panicked, if nothing was answered yet. A handler that ends the connection on
// purpose does so.
func (s *Service) recovered(w *response, r *http.Request, state *request, fault any) {
	if isAbort(fault) {
		s.metrics.inFlight.Dec()
		panic(fault)
	}
	s.log.ErrorContext(r.Context(), "request panicked", "err", fmt.Sprint(fault), "stack", string(debug.Stack()),
		"request_id", state.id)
	if w.status == 0 {
		writePlainProblem(w, state.id, http.StatusInternalServerError, faultOfOurs)
	}
}

// isAbort says whether a handler panicked in order to end the connection.
func isAbort(fault any) bool {
	err, ok := fault.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// account counts and logs a request that is over.
func (s *Service) account(w *response, r *http.Request, state *request, took time.Duration) {
	s.metrics.inFlight.Dec()
	// The pattern and not the path: there are as many paths as people can think of.
	route := r.Pattern
	if route == "" {
		route = "none"
	}
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	s.served.Add(1)
	if status >= http.StatusInternalServerError {
		s.failed.Add(1)
	}
	s.metrics.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	if !w.streamed {
		s.metrics.duration.WithLabelValues(method, route).Observe(took.Seconds())
	}
	s.log.DebugContext(r.Context(), "request answered", "method", method, "path", r.URL.Path, "status", status,
		"bytes", w.bytes, "duration_seconds", took.Seconds(), "remote", state.remote, "token", state.principal.TokenID,
		"request_id", state.id)
}

// unrouted answers a request that no operation takes: 404, or 405 with the methods that there are.
func unrouted(w http.ResponseWriter, handler http.Handler, r *http.Request) {
	told := &recorder{header: http.Header{}}
	handler.ServeHTTP(told, r)
	if location := told.header.Get("Location"); location != "" && told.status/100 == 3 {
		http.Redirect(w, r, location, told.status)
		return
	}
	detail := "there is nothing at this address"
	if allow := told.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		detail = "this address takes " + allow
	}
	writePlainProblem(w, requestOf(r.Context()).id, told.status, detail)
}

// writeProblem writes a problem to a request that has an operation.
func writeProblem(hctx huma.Context, p *huma.ErrorModel) {
	_, _ = finish(hctx, "", p)
	hctx.SetHeader("Content-Type", "application/problem+json")
	hctx.SetStatus(p.Status)
	_ = json.NewEncoder(hctx.BodyWriter()).Encode(p) // the client has gone when this fails
}

// writePlainProblem writes a problem to a request that has none.
func writePlainProblem(w http.ResponseWriter, requestID string, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(&huma.ErrorModel{ // as above
		Status: status, Title: http.StatusText(status), Detail: detail, Instance: requestInstance(requestID),
	})
}

// recorder keeps the header of an answer and throws the rest away.
type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

func (r *recorder) WriteHeader(status int) { r.status = status }

// response sees what is answered. It can be flushed and taken over as the writer below can, by Unwrap.
type response struct {
	http.ResponseWriter
	status   int
	bytes    int64
	streamed bool
	// within is how long the client may take for each part of the answer, so that one that reads nothing holds nothing.
	within time.Duration
}

// writeAtOnce is how much of an answer the client has to take within that time.
const writeAtOnce = 64 << 10

func (w *response) deadline(at time.Time) {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(at) // a writer without deadlines is a test's
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 || w.status < http.StatusOK {
		w.status = status
	}
	if status == http.StatusSwitchingProtocols {
		w.streamed = true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (written int, err error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	for {
		part := p[written:min(len(p), written+writeAtOnce)]
		w.deadline(time.Now().Add(w.within))
		n, err := w.ResponseWriter.Write(part)
		written += n
		w.bytes += int64(n)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// Flush sends what was written so far: an answer that does is a stream.
func (w *response) Flush() {
	w.streamed = true
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a writer that cannot is none of a server
}
