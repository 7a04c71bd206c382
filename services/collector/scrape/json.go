package scrape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/picketd/picket/internal/metric"
)

// Bounds of what one answer can be made of.
const (
	// MaxFigures is how many numbers are taken as figures; those beyond are in the extra.
	MaxFigures = 512
	// MaxExtra bounds the JSON of what is no figure, in bytes.
	MaxExtra = 64 << 10
	// maxDepth bounds how deeply a value in it may be nested; with the object around it that is what the stream takes.
	maxDepth = 31
)

// ErrBody is wrapped by the errors of an answer that cannot be read at all.
var ErrBody = errors.New("unreadable")

// Reading is what an answer in JSON says.
type Reading struct {
	// Values are the figures by name.
	Values map[string]float64
	// Extra is a JSON object of everything else, as it came; empty: there was nothing else.
	Extra []byte
	// Faults name what could not be taken, one sentence each. The rest of the answer is good.
	Faults []string
}

// JSON reads the source system's answer: one flat object. The well-known names must be numbers of their unit, or null
// where the server does not know; one that is anything else is a fault, and never a zero. Any other number is a figure
// of its name; what is no number, nested or has no name for a figure is in Extra, whole. The error wraps ErrBody.
func JSON(body []byte) (Reading, error) {
	r := Reading{Values: map[string]float64{}}
	d := jsontext.NewDecoder(bytes.NewReader(body))
	if kind := d.PeekKind(); kind != '{' {
		return Reading{}, fmt.Errorf("%w: it is no JSON object", ErrBody)
	}
	if _, err := d.ReadToken(); err != nil {
		return Reading{}, unreadable(err)
	}
	for {
		token, err := d.ReadToken()
		if err != nil {
			return Reading{}, unreadable(err)
		}
		if token.Kind() == '}' {
			break
		}
		name := token.String()
		value, err := d.ReadValue()
		if err != nil {
			return Reading{}, unreadable(err)
		}
		r.take(name, value)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return Reading{}, fmt.Errorf("%w: something follows the JSON object", ErrBody)
	}
	if len(r.Extra) > 0 {
		r.Extra = append(r.Extra, '}')
	}
	return r, nil
}

func unreadable(err error) error {
	if fault, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("%w: it is no JSON from byte %d on", ErrBody, fault.ByteOffset)
	}
	return fmt.Errorf("%w: it is no JSON", ErrBody)
}

func (r *Reading) take(name string, value jsontext.Value) {
	if unit, known := metric.WellKnown(name); known {
		r.takeKnown(name, unit, value)
		return
	}
	if number, ok := numberOf(value); ok && metric.IsName(name) && len(r.Values) < MaxFigures {
		r.Values[name] = number
		return
	}
	if fault := storable(name, value); fault != "" {
		r.fault("%.64q %s", name, fault)
		return
	}
	value.Compact() //nolint:errcheck // it was read a moment ago
	start := byte(',')
	if len(r.Extra) == 0 {
		start = '{'
	}
	extra := append(r.Extra, start) //nolint:gocritic // kept only when it fits
	extra, err := jsontext.AppendQuote(extra, name)
	if err != nil {
		r.fault("%.64q cannot be a name", name)
		return
	}
	extra = append(append(extra, ':'), value...)
	if len(extra) >= MaxExtra {
		r.fault("%.64q is left out: what is no figure takes more than %d bytes", name, MaxExtra)
		return
	}
	r.Extra = extra
}

func (r *Reading) takeKnown(name string, unit metric.Unit, value jsontext.Value) {
	if value.Kind() == 'n' {
		return
	}
	number, ok := numberOf(value)
	switch {
	case !ok:
		r.fault("%s is %.40s, expected a number", name, value)
	case !unit.Fits(number):
		r.fault("%s is %.40s, expected %s", name, value, expected(unit))
	default:
		r.Values[name] = number
	}
}

func expected(unit metric.Unit) string {
	switch unit {
	case metric.Percent:
		return "a number that is not negative"
	case metric.Money:
		return "a number of dollars"
	default:
		return "a whole number that is not negative"
	}
}

// fault keeps the first few: there can be as many as names.
func (r *Reading) fault(format string, args ...any) {
	if len(r.Faults) < 8 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

func numberOf(value jsontext.Value) (float64, bool) {
	if value.Kind() != '0' {
		return 0, false
	}
	number, err := strconv.ParseFloat(string(value), 64)
	return number, err == nil && !math.IsInf(number, 0)
}

// storable says what keeps a value out of the database's jsonb, which is narrower than JSON; empty: nothing.
func storable(name string, value jsontext.Value) string {
	const nul = "holds a NUL character"
	if bytes.IndexByte([]byte(name), 0) >= 0 {
		return nul
	}
	d := jsontext.NewDecoder(bytes.NewReader(value))
	for {
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return ""
		}
		if err != nil {
			return "cannot be read"
		}
		switch token.Kind() {
		case '0':
			if number, err := strconv.ParseFloat(token.String(), 64); err != nil || math.IsInf(number, 0) {
				return "holds a number that is too large"
			}
		case '"':
			if bytes.IndexByte([]byte(token.String()), 0) >= 0 {
				return nul
			}
		case '{', '[':
			if d.StackDepth() > maxDepth {
				return fmt.Sprintf("is nested more than %d deep", maxDepth)
			}
		}
	}
}
