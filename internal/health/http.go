package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Response is an HTTP answer as it was received.
type Response struct {
	Code   int
	Header http.Header
	// Body as far as it was read; it is not kept.
	Body []byte
	// Truncated says that the answer went on after Body.
	Truncated bool
	// Latency is the time from the start of the probe to the end of Body.
	Latency time.Duration
	// CertificateNotAfter is when the target's certificate ends; zero when it
	// showed none.
	CertificateNotAfter time.Time
	// ReceivedAt is when the answer was received; only the certificate's remaining
	// time is counted from it.
	ReceivedAt time.Time
}

// HTTP maps an answer to its verdict, by the rules of the package comment.
func (e *Expectations) HTTP(r Response) Outcome {
	o := Outcome{Status: picketv1.Status_STATUS_HEALTHY}
	e.judgeCode(&o, r.Code)

	declared := isJSON(r.Header.Get("Content-Type"))
	bodiless := e.head || r.Code == http.StatusNoContent || r.Code == http.StatusNotModified
	if !bodiless && (declared || startsObject(r.Body)) {
		said, err := e.scanners.scan(r.Body)
		switch {
		case err == nil || r.Truncated:
			e.judgeReport(&o, said)
		case declared && len(e.status) == 0:
			o.raise(picketv1.Status_STATUS_DEGRADED, ReasonBadBody, "declared as JSON, but unreadable")
		}
	}
	e.assert(&o, &r)
	return o
}

func (e *Expectations) judgeCode(o *Outcome, code int) {
	status := picketv1.Status_STATUS_DEGRADED
	if code >= 500 {
		status = picketv1.Status_STATUS_CRITICAL
	}
	switch {
	case len(e.status) > 0:
		if !e.expectsCode(code) {
			o.raise(status, ReasonAssertStatus, fmt.Sprintf("HTTP %d, expected %s", code, e.statusText))
		}
	case code < 200 || code > 299:
		o.raise(status, "http_"+strconv.Itoa(code), strings.TrimSpace(fmt.Sprintf("HTTP %d %s", code, http.StatusText(code))))
	}
}

// judgeReport takes over what the body says. Components and counters always;
// its words only when the code was not declared to decide.
func (e *Expectations) judgeReport(o *Outcome, r report) {
	o.Counters = r.counters
	for _, c := range r.components {
		o.Components = append(o.Components, &picketv1.Component{Name: c.name, Status: c.status})
	}
	if len(e.status) > 0 {
		return
	}
	var part component // the worst; the list is in that order
	detail := ""
	if len(r.components) > 0 && Worse(r.components[0].status, picketv1.Status_STATUS_HEALTHY) {
		part = r.components[0]
		detail = part.name + ": " + part.word
	}
	var status picketv1.Status
	var reason, message string
	switch {
	case detail != "" && !Worse(r.own, part.status):
		// Says more than the body's own status, which usually follows from it.
		status, reason, message = part.status, ReasonComponent, detail
	case Worse(r.own, picketv1.Status_STATUS_HEALTHY):
		status, reason, message = r.own, ReasonReported, "the body says "+strconv.Quote(r.word)
		if detail != "" {
			message += ", " + detail
		}
	default:
		return
	}
	if o.Reason == "" || Worse(status, o.Status) {
		o.raise(status, reason, message)
		return
	}
	o.Message = clean(o.Message+"; "+message, maxMessage)
}

func (e *Expectations) assert(o *Outcome, r *Response) {
	for _, h := range e.headers {
		if values := r.Header[h.name]; !anyMatch(h, values) {
			o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertHeader, headerMismatch(h, values))
		}
	}
	if e.body != nil && !e.body.Match(r.Body) {
		o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertBody, "the body does not match "+e.body.String())
	}
	if len(e.json) > 0 {
		e.assertJSON(o, r)
	}
	if e.maxLatency > 0 && r.Latency > e.maxLatency {
		o.raise(picketv1.Status_STATUS_DEGRADED, ReasonLatency, slow(r.Latency, e.maxLatency))
	}
	if e.minValidity > 0 {
		left := r.CertificateNotAfter.Sub(r.ReceivedAt)
		switch {
		case r.CertificateNotAfter.IsZero():
			o.raise(picketv1.Status_STATUS_DEGRADED, ReasonCertificate, "no certificate was shown")
		case left < e.minValidity:
			o.raise(picketv1.Status_STATUS_DEGRADED, ReasonCertificate, fmt.Sprintf("certificate ends in %d days, expected at least %d",
				int(left.Hours()/24), int(e.minValidity.Hours()/24)))
		}
	}
}

func (e *Expectations) assertJSON(o *Outcome, r *Response) {
	if r.Truncated {
		o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertJSON, fmt.Sprintf("the body is longer than the %d bytes read", len(r.Body)))
		return
	}
	var document any
	if err := checkDepth(r.Body); err != nil {
		o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertJSON, "the body is "+err.Error())
		return
	}
	if err := json.Unmarshal(r.Body, &document); err != nil {
		o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertJSON, "the body is not JSON")
		return
	}
	for i := range e.json {
		if message := e.json[i].mismatch(document); message != "" {
			o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertJSON, message)
			return
		}
	}
}

func anyMatch(h headerPattern, values []string) bool {
	return slices.ContainsFunc(values, h.pattern.MatchString)
}

func headerMismatch(h headerPattern, values []string) string {
	if len(values) == 0 {
		return "header " + h.name + " is not there"
	}
	return fmt.Sprintf("header %s is %.60q, expected to match %s", h.name, values[0], h.pattern)
}

func slow(latency, bound time.Duration) string {
	return fmt.Sprintf("took %d ms, expected at most %d ms", latency.Milliseconds(), bound.Milliseconds())
}

// isJSON reports a JSON media type: a subtype json or one that ends in +json.
func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.TrimSpace(media)
	if len(media) < len("/json") {
		return false
	}
	tail := media[len(media)-len("/json"):]
	return strings.EqualFold(tail, "/json") || strings.EqualFold(tail, "+json")
}

// startsObject reports a body that may be a health body although its media type
// does not say so.
func startsObject(body []byte) bool {
	for _, c := range body {
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			return c == '{'
		}
	}
	return false
}

// checkDepth refuses bodies nested so deeply that parsing them costs more than
// they can be worth.
func checkDepth(body []byte) error {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errTooDeep
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}
