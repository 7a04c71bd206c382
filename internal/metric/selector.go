package metric

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a selector.
const (
	maxSelector = 1024
	maxMatchers = 16
)

// Label is one label of a series.
type Label struct{ Name, Value string }

// Series is one line of an exposition.
type Series struct {
	Name string
	// Labels are sorted by name.
	Labels []Label
	Value  float64
	// Counter says that the series only grows, until what counts starts anew.
	Counter bool
}

// label returns the value of a label; a label that is not there is empty, as everywhere in Prometheus.
func (s *Series) label(name string) (string, bool) {
	i, found := slices.BinarySearchFunc(s.Labels, name, func(l Label, name string) int { return strings.Compare(l.Name, name) })
	if !found {
		return "", false
	}
	return s.Labels[i].Value, true
}

// Selector selects series: a name and what labels must match, as in `node_cpu_seconds_total{mode="idle"}`. The
// operators are =, !=, =~ and !~; regular expressions are RE2 and match the whole value. A label that a series has not
// is an empty one.
type Selector struct {
	// Name of the series.
	Name     string
	matchers []matcher
}

type matcher struct {
	label, value string
	pattern      *regexp.Regexp // of =~ and !~
	not          bool
}

// Matches says whether the selector selects s.
func (s *Selector) Matches(series *Series) bool {
	return series.Name == s.Name && s.matchesLabels(series)
}

func (s *Selector) matchesLabels(series *Series) bool {
	for i := range s.matchers {
		m := &s.matchers[i]
		value, _ := series.label(m.label)
		matches := value == m.value
		if m.pattern != nil {
			matches = m.pattern.MatchString(value)
		}
		if matches == m.not {
			return false
		}
	}
	return true
}

// ParseSelector reads a selector. Its errors say where in the text something is wrong.
func ParseSelector(text string) (*Selector, error) {
	if len(text) > maxSelector {
		return nil, fmt.Errorf("is longer than %d bytes", maxSelector)
	}
	p := &selectorParser{text: text}
	p.space()
	s := &Selector{Name: p.word(isNameStart, isNamePart)}
	if s.Name == "" {
		return nil, p.fault("the name of a metric is expected")
	}
	p.space()
	if p.take("{") {
		var err error
		if s.matchers, err = p.matchers(); err != nil {
			return nil, err
		}
		p.space()
	}
	if p.at < len(text) {
		return nil, p.fault("nothing more is expected")
	}
	return s, nil
}

type selectorParser struct {
	text string
	at   int
}

func (p *selectorParser) fault(what string) error {
	found := "the end"
	if p.at < len(p.text) {
		found = strconv.Quote(p.text[p.at:min(p.at+8, len(p.text))])
	}
	return fmt.Errorf("column %d: %s, found %s", p.at+1, what, found)
}

func (p *selectorParser) space() {
	p.at += len(p.text[p.at:]) - len(strings.TrimLeft(p.text[p.at:], " \t\r\n"))
}

func (p *selectorParser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.at:], token) {
		return false
	}
	p.at += len(token)
	return true
}

func (p *selectorParser) word(start, part func(byte) bool) string {
	from := p.at
	for p.at < len(p.text) && (part(p.text[p.at]) && p.at > from || start(p.text[p.at])) {
		p.at++
	}
	return p.text[from:p.at]
}

// matchers reads what follows the opening brace.
func (p *selectorParser) matchers() ([]matcher, error) {
	var all []matcher
	for {
		p.space()
		if p.take("}") {
			return all, nil
		}
		if len(all) == maxMatchers {
			return nil, p.fault(fmt.Sprintf("no more than %d labels are expected", maxMatchers))
		}
		m, err := p.matcher()
		if err != nil {
			return nil, err
		}
		all = append(all, m)
		p.space()
		if !p.take(",") && !strings.HasPrefix(p.text[p.at:], "}") {
			return nil, p.fault("a comma or } is expected")
		}
	}
}

func (p *selectorParser) matcher() (m matcher, err error) {
	if m.label = p.word(isLabelStart, isLabelPart); m.label == "" {
		return m, p.fault("the name of a label is expected")
	}
	p.space()
	regular := false
	switch {
	case p.take("=~"):
		regular = true
	case p.take("!~"):
		regular, m.not = true, true
	case p.take("!="):
		m.not = true
	case p.take("="):
	default:
		return m, p.fault("one of = != =~ !~ is expected")
	}
	p.space()
	from := p.at
	if m.value, err = p.quoted(); err != nil {
		return m, err
	}
	if regular {
		if m.pattern, err = regexp.Compile("^(?s:" + m.value + ")$"); err != nil {
			p.at = from
			return m, p.fault("a regular expression is expected")
		}
	}
	return m, nil
}

// quoted reads a text in double quotes, single quotes or backquotes; within the last nothing is escaped.
func (p *selectorParser) quoted() (string, error) {
	from := p.at
	if p.at == len(p.text) || !strings.ContainsRune("\"'`", rune(p.text[p.at])) {
		return "", p.fault("a text in quotes is expected")
	}
	quote := p.text[p.at]
	var b strings.Builder
	rest := p.text[p.at+1:]
	for rest != "" && rest[0] != quote {
		if quote == '`' {
			b.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		char, multibyte, tail, err := strconv.UnquoteChar(rest, quote)
		if err != nil {
			p.at = len(p.text) - len(rest)
			return "", p.fault("a text in quotes is expected")
		}
		if multibyte {
			b.WriteRune(char)
		} else {
			b.WriteByte(byte(char))
		}
		rest = tail
	}
	if rest == "" {
		p.at = from
		return "", p.fault("an end of the quotes is expected")
	}
	p.at = len(p.text) - len(rest) + 1
	return b.String(), nil
}

func isLabelStart(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' }
func isLabelPart(c byte) bool  { return isLabelStart(c) || '0' <= c && c <= '9' }
func isNameStart(c byte) bool  { return c == ':' || isLabelStart(c) }
func isNamePart(c byte) bool   { return c == ':' || isLabelPart(c) }
