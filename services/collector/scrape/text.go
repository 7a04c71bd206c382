package scrape

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/picketd/picket/internal/metric"
)

// ErrTooManySeries says that more series are needed than a server may show.
var ErrTooManySeries = errors.New("too many series")

// TextOptions say how an exposition is read.
type TextOptions struct {
	// OpenMetrics says that the answer declares itself to be of that dialect, which must end with `# EOF`.
	OpenMetrics bool
	// Needs says by its name whether a series is needed; lines of others are not looked into.
	Needs func(name []byte) bool
	// MaxSeries bounds those that are needed.
	MaxSeries int
}

// Text reads an exposition of Prometheus (0.0.4) or OpenMetrics (1.0) and returns the series that are needed. Lines of
// the needed series are brought into one form, without timestamps, exemplars and types, which is where the dialects
// differ; prometheus/common's parser reads it. The error wraps ErrTooManySeries or ErrBody, and names the line.
func Text(body []byte, opts TextOptions) ([]metric.Series, error) {
	n := normalizer{opts: opts, types: map[string]string{}}
	if err := n.normalize(body); err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(&n.out)
	if err != nil {
		if fault, ok := errors.AsType[expfmt.ParseError](err); ok && fault.Line >= 1 && fault.Line <= len(n.lines) {
			return nil, fmt.Errorf("%w: line %d: %s", ErrBody, n.lines[fault.Line-1], fault.Msg)
		}
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	series := make([]metric.Series, 0, len(n.lines))
	for name, family := range families {
		counter := n.counter(name)
		for _, m := range family.GetMetric() {
			series = append(series, metric.Series{
				Name: name, Labels: labels(m.GetLabel()), Value: m.GetUntyped().GetValue(), Counter: counter,
			})
		}
	}
	return series, nil
}

func labels(pairs []*dto.LabelPair) []metric.Label {
	list := make([]metric.Label, 0, len(pairs))
	for _, p := range pairs {
		value := p.GetValue()
		if value == "" {
			continue // the same as a label that is not there
		}
		if name := p.GetName(); name == "le" || name == "quantile" {
			value = bound(value)
		}
		list = append(list, metric.Label{Name: p.GetName(), Value: value})
	}
	slices.SortFunc(list, func(a, b metric.Label) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// bound writes a bound of a bucket in one way: the dialects have 1 and 1.0.
func bound(value string) string {
	number, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return value
	}
	if math.IsInf(number, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(number, 'g', -1, 64)
}

// normalizer writes the needed lines in one form.
type normalizer struct {
	opts TextOptions
	out  bytes.Buffer
	// lines are where each line of out came from.
	lines []int
	// types are the declared ones of families that may be needed.
	types map[string]string
}

func (n *normalizer) normalize(body []byte) error {
	ended := false
	for number := 1; len(body) > 0; number++ {
		var line []byte
		line, body, _ = bytes.Cut(body, []byte("\n"))
		line = bytes.Trim(line, " \t\r")
		fault := ""
		switch {
		case len(line) == 0:
		case ended && n.opts.OpenMetrics:
			fault = "something follows # EOF"
		case line[0] == '#':
			ended = ended || string(line) == "# EOF"
			n.comment(line)
		default:
			fault = n.sample(line, number)
		}
		if fault != "" {
			return fmt.Errorf("%w: line %d: %s", ErrBody, number, fault)
		}
		if len(n.lines) > n.opts.MaxSeries {
			return fmt.Errorf("%w: more than %d are needed", ErrTooManySeries, n.opts.MaxSeries)
		}
	}
	if n.opts.OpenMetrics && !ended {
		return fmt.Errorf("%w: it ends without # EOF", ErrBody)
	}
	return nil
}

// suffixes are what the series of a family can have behind its name.
func suffixes() []string { return []string{"", "_total", "_bucket", "_count", "_sum"} }

// comment keeps the type of a family that may be needed.
func (n *normalizer) comment(line []byte) {
	fields := bytes.Fields(line)
	if len(fields) != 4 || string(fields[0]) != "#" || string(fields[1]) != "TYPE" {
		return
	}
	name := fields[2]
	if unquoted := bytes.Trim(name, `"`); len(unquoted) == len(name)-2 {
		name = unquoted
	}
	for _, suffix := range suffixes() {
		if n.opts.Needs(append(slices.Clip(name), suffix...)) {
			n.types[string(name)] = string(fields[3])
			return
		}
	}
}

// counter says whether a series only grows: by its family's type, or by its name where none is declared.
func (n *normalizer) counter(name string) bool {
	for _, suffix := range suffixes() {
		family, found := strings.CutSuffix(name, suffix)
		if !found {
			continue
		}
		switch declared := n.types[family]; declared {
		case "":
		case "untyped", "unknown":
			return suffix != ""
		case "histogram", "summary":
			return suffix != "" && suffix != "_total"
		default:
			return declared == "counter"
		}
	}
	return slices.ContainsFunc(suffixes()[1:], func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// sample writes a line of a series that is needed, without what stands behind its value. It returns what is wrong.
func (n *normalizer) sample(line []byte, number int) string {
	end := 0
	for end < len(line) && isNamePart(line[end]) {
		end++
	}
	if end == 0 && line[0] != '{' || end > 0 && line[0] >= '0' && line[0] <= '9' {
		return "it does not begin with the name of a metric"
	}
	name, rest := line[:end], line[end:]
	if end == 0 {
		// The name stands quoted within the braces, as names of any characters do.
		quoted, ok := quotedName(line)
		if !ok || !n.opts.Needs(quoted) {
			return ""
		}
	} else if !n.opts.Needs(name) {
		return ""
	}
	if trimmed := bytes.TrimLeft(rest, " \t"); len(trimmed) > 0 && trimmed[0] == '{' {
		size := labelsEnd(trimmed)
		if size < 0 {
			return "its labels do not end"
		}
		end += len(rest) - len(trimmed) + size
	}
	value := bytes.TrimLeft(line[end:], " \t")
	if i := bytes.IndexAny(value, " \t"); i >= 0 {
		value = value[:i]
	}
	if len(value) == 0 {
		return "it has no value"
	}
	n.out.Write(line[:end])
	n.out.WriteByte(' ')
	n.out.Write(value)
	n.out.WriteByte('\n')
	n.lines = append(n.lines, number)
	return ""
}

// quotedName returns what stands in the quotes that begin the labels.
func quotedName(line []byte) ([]byte, bool) {
	inner := bytes.TrimLeft(line[1:], " \t")
	if len(inner) == 0 || inner[0] != '"' {
		return nil, false
	}
	end := bytes.IndexByte(inner[1:], '"')
	if end < 0 || !utf8.Valid(inner[1:1+end]) {
		return nil, false
	}
	return inner[1 : 1+end], true
}

// labelsEnd returns the length of the labels in braces, -1 when they do not end.
func labelsEnd(b []byte) int {
	quoted := false
	for i := 0; i < len(b); i++ {
		switch {
		case quoted && b[i] == '\\':
			i++
		case b[i] == '"':
			quoted = !quoted
		case !quoted && b[i] == '}':
			return i + 1
		}
	}
	return -1
}

func isNamePart(c byte) bool {
	return c == ':' || c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
}
