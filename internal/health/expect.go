package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theory/jsonpath"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// FieldError names the field of a spec that cannot be, such as
// `expect_json[1].path`.
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// Expectations are what an HTTP answer must be, compiled once and used for every
// probe, by any number of goroutines.
type Expectations struct {
	status      []codeRange
	statusText  string
	headers     []headerPattern
	body        *regexp.Regexp
	json        []pathValue
	maxLatency  time.Duration
	minValidity time.Duration
	head        bool // answers to HEAD have no body
	scanners    scanners
}

type codeRange struct{ low, high int }

type headerPattern struct {
	name    string
	pattern *regexp.Regexp
}

type pathValue struct {
	path   *jsonpath.Path
	text   string
	equals string // as declared; empty: it must exist
	value  any
}

// Compile checks and prepares the expectations of spec. All faults are found at
// once: the error joins a *FieldError for each. Fields that are no expectation
// are not looked at.
func Compile(spec *picketv1.HTTPSpec) (*Expectations, error) {
	e := &Expectations{head: strings.EqualFold(spec.GetMethod(), http.MethodHead), statusText: strings.Join(spec.GetExpectStatus(), " or ")}
	var faults []error
	fault := func(err error, field string, args ...any) {
		if err != nil {
			faults = append(faults, &FieldError{Field: fmt.Sprintf(field, args...), Err: err})
		}
	}
	for i, text := range spec.GetExpectStatus() {
		codes, err := parseCodes(text)
		fault(err, "expect_status[%d]", i)
		e.status = append(e.status, codes)
	}
	for i, h := range spec.GetExpectHeaders() {
		if h.GetName() == "" {
			fault(errors.New("must not be empty"), "expect_headers[%d].name", i)
		}
		pattern, err := regexp.Compile(h.GetMatches())
		fault(err, "expect_headers[%d].matches", i)
		e.headers = append(e.headers, headerPattern{http.CanonicalHeaderKey(h.GetName()), pattern})
	}
	if text := spec.GetExpectBody(); text != "" {
		var err error
		e.body, err = regexp.Compile(text)
		fault(err, "expect_body")
	}
	if e.head && (e.body != nil || len(spec.GetExpectJson()) > 0) {
		fault(errors.New("an answer to HEAD has no body"), "method")
	}
	for i, a := range spec.GetExpectJson() {
		p, err := compilePath(a)
		for _, err := range err {
			fault(err.Err, "expect_json[%d].%s", i, err.Field)
		}
		e.json = append(e.json, p)
	}
	var err error
	e.maxLatency, err = latencyBound(spec.GetMaxLatencyMs())
	fault(err, "max_latency_ms")
	if days := spec.GetMinCertificateDays(); days < 0 {
		fault(errors.New("must not be negative"), "min_certificate_days")
	} else {
		e.minValidity = time.Duration(days) * 24 * time.Hour
	}
	if e.minValidity > 0 && !spec.GetFollowRedirects() && hasPrefixFold(spec.GetUrl(), "http://") {
		fault(errors.New("a plain http url shows no certificate"), "min_certificate_days")
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return e, nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func latencyBound(ms int64) (time.Duration, error) {
	if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return 0, errors.New("out of range")
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// parseCodes reads `200`, `200-299` and `2xx`.
func parseCodes(text string) (codeRange, error) {
	text = strings.TrimSpace(text)
	if len(text) == 3 && strings.EqualFold(text[1:], "xx") && text[0] >= '1' && text[0] <= '5' {
		low := int(text[0]-'0') * 100
		return codeRange{low, low + 99}, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	low, errLow := strconv.Atoi(strings.TrimSpace(from))
	high, errHigh := strconv.Atoi(strings.TrimSpace(to))
	if errLow != nil || errHigh != nil || low < 100 || high > 599 || low > high {
		return codeRange{}, fmt.Errorf("%q is neither a code, a range such as 200-299 nor a class such as 2xx", text)
	}
	return codeRange{low, high}, nil
}

func (e *Expectations) expectsCode(code int) bool {
	return slices.ContainsFunc(e.status, func(r codeRange) bool { return code >= r.low && code <= r.high })
}

func compilePath(a *picketv1.JSONPathAssertion) (pathValue, []*FieldError) {
	var faults []*FieldError
	p := pathValue{text: a.GetPath(), equals: a.GetEquals()}
	var err error
	if err = boundPath(p.text); err == nil {
		p.path, err = jsonpath.Parse(p.text)
	}
	if err != nil {
		faults = append(faults, &FieldError{"path", err})
	}
	if p.equals != "" {
		if err := json.Unmarshal([]byte(p.equals), &p.value); err != nil {
			faults = append(faults, &FieldError{"equals", fmt.Errorf("not JSON (a string needs its quotes): %w", err)})
		}
	}
	return p, faults
}

// boundPath refuses paths whose evaluation a target could make arbitrarily long:
// each descendant segment, each list of selectors and each query from the root
// inside a filter multiplies the nodes visited, and evaluation cannot be
// interrupted. The bounds are far above what a health check asks.
func boundPath(path string) error {
	if len(path) > 512 {
		return errors.New("longer than 512 bytes")
	}
	var descendants, selectors, roots int
	var quote byte
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case quote != 0:
			switch c {
			case '\\':
				i++
			case quote:
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '.' && i+1 < len(path) && path[i+1] == '.':
			descendants++
			i++
		case c == ',':
			selectors++
		case c == '$':
			roots++
		}
	}
	if descendants > 2 || selectors > 8 || roots > 1 {
		return errors.New("too costly: at most two `..`, eight `,` and no `$` inside a filter")
	}
	return nil
}

// mismatch says why document, the parsed body, is not as expected; empty when it
// is. At least one node must be there, and every one must be equal.
func (p *pathValue) mismatch(document any) string {
	nodes := p.path.Select(document)
	if len(nodes) == 0 {
		return p.text + " is not there"
	}
	if p.equals == "" {
		return ""
	}
	for _, node := range nodes {
		if !reflect.DeepEqual(node, p.value) {
			got, err := json.Marshal(node)
			if err != nil {
				got = fmt.Append(nil, node)
			}
			return fmt.Sprintf("%s is %.60s, expected %.60s", p.text, got, p.equals)
		}
	}
	return ""
}
