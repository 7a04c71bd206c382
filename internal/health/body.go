package health

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// maxDepth bounds how deeply a body may be nested; no health format needs more
// than five levels.
const maxDepth = 64

var errTooDeep = errors.New("nested too deeply")

// report is what a health body says.
type report struct {
	own        picketv1.Status // by the body's own status; unspecified when it has none
	word       string          // what it was, when it is not good
	components []component     // worst first, at most MaxComponents
	counters   map[string]float64
}

type component struct {
	name   string
	status picketv1.Status
	word   string // what it said, when it is not good
}

// add keeps the worst MaxComponents, and of equals the well-known ones, which
// have columns of their own in history, then the earlier ones.
func (r *report) add(c component) {
	at := len(r.components)
	for at > 0 && before(c, r.components[at-1]) {
		at--
	}
	if at == MaxComponents {
		return
	}
	if len(r.components) < MaxComponents {
		r.components = append(r.components, component{})
	}
	copy(r.components[at+1:], r.components[at:])
	r.components[at] = c
}

func before(a, b component) bool {
	if a.status != b.status {
		return Worse(a.status, b.status)
	}
	return wellKnown(a.name) && !wellKnown(b.name)
}

func wellKnown(name string) bool { return name == "database" || name == "redis" || name == "services" }

// scanner walks one body. Member names are compared as raw JSON text: what is
// looked for is plain ASCII, and a producer that escapes it gains nothing. Raw
// text stays valid beyond the next read because the decoder reads a bytes.Buffer
// in place and does not write to it.
type scanner struct {
	buf     bytes.Buffer
	decoder *jsontext.Decoder
	report  report
}

type scanners struct{ pool sync.Pool }

func (s *scanners) get() *scanner {
	if sc, ok := s.pool.Get().(*scanner); ok {
		return sc
	}
	return &scanner{decoder: jsontext.NewDecoder(new(bytes.Buffer), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

// scan reads the report out of a JSON body. On an error the report holds what
// was read before it.
func (s *scanners) scan(body []byte) (report, error) {
	sc := s.get()
	sc.buf = *bytes.NewBuffer(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	sc.decoder.Reset(&sc.buf, sc.decoder.Options())
	sc.report = report{}
	err := sc.document()
	r := sc.report
	sc.report = report{}
	// The decoder still refers to body; a large one must not live on in the pool.
	if len(body) <= 64<<10 {
		s.pool.Put(sc)
	}
	return r, err
}

func (sc *scanner) document() error {
	var err error
	switch sc.decoder.PeekKind() {
	case '{':
		err = sc.object(sc.topLevel)
	case '"', 't', 'f':
		err = sc.ownStatus()
	default:
		err = sc.skip()
	}
	if err != nil {
		return err
	}
	if _, err = sc.decoder.ReadToken(); err == nil {
		return errors.New("more than one value")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// object calls member with each member's raw name, quotes included; member must
// consume exactly the value. The name is valid until then.
func (sc *scanner) object(member func(name []byte) error) error {
	if _, err := sc.decoder.ReadToken(); err != nil {
		return err
	}
	for sc.decoder.PeekKind() != '}' {
		name, err := sc.decoder.ReadValue()
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := sc.decoder.ReadToken()
	return err
}

// skip consumes the next value, whatever it is.
func (sc *scanner) skip() error {
	depth := sc.decoder.StackDepth()
	for {
		if _, err := sc.decoder.ReadToken(); err != nil {
			return err
		}
		switch d := sc.decoder.StackDepth(); {
		case d <= depth:
			return nil
		case d > maxDepth:
			return errTooDeep
		}
	}
}

func (sc *scanner) topLevel(name []byte) error {
	switch string(name) {
	case `"status"`, `"healthy"`:
		return sc.ownStatus()
	case `"counters"`:
		if sc.decoder.PeekKind() == '{' {
			return sc.object(sc.counter)
		}
	case `"database"`:
		return sc.component("database", component.judgeStrictly)
	case `"redis"`:
		return sc.component("redis", component.judgeStrictly)
	case `"services"`:
		return sc.services()
	case `"checks"`, `"components"`:
		return sc.parts(unquote(name))
	default:
		// Spring Boot 1 and its like name components beside the status.
		if sc.decoder.PeekKind() == '{' {
			return sc.component(unquote(name), component.judgeIfClear)
		}
	}
	return sc.skip()
}

// ownStatus reads the status that the body gives itself.
func (sc *scanner) ownStatus() error {
	v, err := sc.verdict()
	if err != nil {
		return err
	}
	var status picketv1.Status
	switch v.mood {
	case good:
		status = picketv1.Status_STATUS_HEALTHY
	case warning:
		status = picketv1.Status_STATUS_DEGRADED
	case bad:
		status = picketv1.Status_STATUS_CRITICAL
	default:
		return nil
	}
	if Worse(status, sc.report.own) {
		sc.report.own, sc.report.word = status, v.word
	}
	return nil
}

func (sc *scanner) counter(name []byte) error {
	if sc.decoder.PeekKind() != '0' || len(sc.report.counters) >= MaxCounters {
		return sc.skip()
	}
	key := counterName(name)
	raw, err := sc.decoder.ReadValue()
	if err != nil {
		return err
	}
	value, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(value, 0) || key == "" {
		return nil //nolint:nilerr // a number out of range is no counter, and no fault of the body either
	}
	if sc.report.counters == nil {
		sc.report.counters = make(map[string]float64)
	}
	if _, taken := sc.report.counters[key]; !taken {
		sc.report.counters[key] = value
	}
	return nil
}

// counterName makes a raw member name a metric name: letters, digits and _.:-,
// at most maxName bytes.
func counterName(raw []byte) string {
	raw = raw[1 : len(raw)-1]
	var name [maxName]byte
	n := copy(name[:], raw)
	for i, c := range name[:n] {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == ':', c == '-':
		default:
			name[i] = '_'
		}
	}
	return string(name[:n])
}

// unquote returns the text of a raw JSON string, cleaned and bounded.
func unquote(raw []byte) string {
	text := raw[1 : len(raw)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		if plain, err := jsontext.AppendUnquote(nil, raw); err == nil {
			text = plain
		}
	}
	return clean(string(text[:min(len(text), 2*maxName)]), maxName)
}
