package health

import (
	"bytes"
	"strings"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// mood is what a word says, from best to worst.
type mood int

const (
	silent  mood = iota // nothing was said
	good                // ok healthy up pass true
	unsure              // "unknown": Spring's word for a part that was not asked
	warning             // it works, with concerns
	unclear             // a word that we do not know
	bad                 // it does not work
)

type verdict struct {
	mood mood
	word string // cleaned; only set when the mood is not good
}

// verdict reads the next value as a word; objects, arrays, numbers and null say
// nothing.
func (sc *scanner) verdict() (verdict, error) {
	switch sc.decoder.PeekKind() {
	case 't':
		return verdict{mood: good}, sc.skip()
	case 'f':
		return verdict{mood: bad, word: "false"}, sc.skip()
	case '"':
		raw, err := sc.decoder.ReadValue()
		if err != nil {
			return verdict{}, err
		}
		m := moodOf(raw[1 : len(raw)-1])
		if m == good {
			return verdict{mood: m}, nil
		}
		return verdict{mood: m, word: unquote(raw)}, nil
	default:
		return verdict{}, sc.skip()
	}
}

func moodOf(text []byte) mood {
	text = bytes.TrimSpace(text)
	var lower [16]byte
	if len(text) > len(lower) {
		return unclear
	}
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	switch string(lower[:len(text)]) {
	case "ok", "healthy", "up", "pass", "true":
		return good
	case "warn", "warning", "degraded":
		return warning
	case "down", "fail", "failed", "failing", "failure", "error", "critical", "unhealthy", "out_of_service",
		"unreachable", "unavailable", "offline", "false":
		return bad
	case "unknown":
		return unsure
	default:
		return unclear
	}
}

// judgement turns what a component says into what it makes of the whole;
// unspecified when it says nothing.
type judgement func(component, verdict) picketv1.Status

// judgeStrictly is for database and redis: not good is critical.
func (component) judgeStrictly(v verdict) picketv1.Status {
	switch v.mood {
	case silent:
		return picketv1.Status_STATUS_UNSPECIFIED
	case good:
		return picketv1.Status_STATUS_HEALTHY
	default:
		return picketv1.Status_STATUS_CRITICAL
	}
}

// judge is for all components that are declared as such: not good is degraded,
// but a database or redis that does not work is critical. The part before a
// colon is the component's name (health+json: "database:responseTime"); db is
// what Spring calls its database.
func (c component) judge(v verdict) picketv1.Status {
	switch v.mood {
	case silent, unsure:
		return picketv1.Status_STATUS_UNSPECIFIED
	case good:
		return picketv1.Status_STATUS_HEALTHY
	case warning:
		return picketv1.Status_STATUS_DEGRADED
	}
	name, _, _ := strings.Cut(c.name, ":")
	if strings.EqualFold(name, "database") || strings.EqualFold(name, "db") || strings.EqualFold(name, "redis") {
		return picketv1.Status_STATUS_CRITICAL
	}
	return picketv1.Status_STATUS_DEGRADED
}

// judgeIfClear is for objects that merely look like components: a word that we
// do not know may be about anything.
func (c component) judgeIfClear(v verdict) picketv1.Status {
	if v.mood == unclear {
		return picketv1.Status_STATUS_UNSPECIFIED
	}
	return c.judge(v)
}

// component reads the next value as the component called name.
func (sc *scanner) component(name string, judge judgement) error {
	c := component{name: name}
	v, err := sc.assess(&c, 0)
	if err != nil {
		return err
	}
	sc.note(c, v, judge)
	return nil
}

func (sc *scanner) note(c component, v verdict, judge judgement) {
	if c.status = judge(c, v); c.status == picketv1.Status_STATUS_UNSPECIFIED || c.name == "" {
		return
	}
	c.word = v.word
	sc.report.add(c)
}

// assess reads what the next value says of c: a word, an object with a status or
// healthy member, or a list of such objects (health+json), of which the worst
// counts. A component without a name takes the one that it carries.
func (sc *scanner) assess(c *component, level int) (verdict, error) {
	var worst verdict
	switch kind := sc.decoder.PeekKind(); {
	case kind == '{':
		err := sc.object(func(name []byte) error {
			switch string(name) {
			case `"status"`, `"healthy"`:
				v, err := sc.verdict()
				if v.mood > worst.mood {
					worst = v
				}
				return err
			case `"name"`:
				if c.name == "" && sc.decoder.PeekKind() == '"' {
					raw, err := sc.decoder.ReadValue()
					if err == nil {
						c.name = unquote(raw)
					}
					return err
				}
			}
			return sc.skip()
		})
		return worst, err
	case kind == '[' && level == 0:
		err := sc.list(func() error {
			v, err := sc.assess(c, level+1)
			if v.mood > worst.mood {
				worst = v
			}
			return err
		})
		return worst, err
	default:
		return sc.verdict()
	}
}

// list calls element for each element, which must consume exactly it.
func (sc *scanner) list(element func() error) error {
	if _, err := sc.decoder.ReadToken(); err != nil {
		return err
	}
	for sc.decoder.PeekKind() != ']' {
		if err := element(); err != nil {
			return err
		}
	}
	_, err := sc.decoder.ReadToken()
	return err
}

// parts reads a value that holds components: an object by name, or a list of
// objects that carry their names (MicroProfile). Anything else is a component
// called as the container.
func (sc *scanner) parts(container string) error {
	switch sc.decoder.PeekKind() {
	case '{':
		return sc.object(func(name []byte) error { return sc.component(unquote(name), component.judge) })
	case '[':
		return sc.list(func() error { return sc.component("", component.judge) })
	default:
		return sc.component(container, component.judge)
	}
}

// services reads the member of that name: {healthy: true} of the fleet format,
// beside which there may be objects by name, or a list as in parts.
func (sc *scanner) services() error {
	if sc.decoder.PeekKind() != '{' {
		return sc.parts("services")
	}
	var all verdict
	err := sc.object(func(name []byte) error {
		switch string(name) {
		case `"status"`, `"healthy"`:
			v, err := sc.verdict()
			if v.mood > all.mood {
				all = v
			}
			return err
		}
		if sc.decoder.PeekKind() == '{' {
			return sc.component(unquote(name), component.judge)
		}
		return sc.skip()
	})
	if err == nil {
		sc.note(component{name: "services"}, all, component.judge)
	}
	return err
}
