package metric

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// MaxRules bounds the rules of one check.
const MaxRules = 64

// aggregates are how several series become one figure.
var aggregates = []string{"sum", "max", "min", "avg", "count"}

// Mapping makes figures of series. It is immutable, so that many goroutines may use it.
type Mapping struct {
	rules []rule
	// names are those of all series that some rule needs.
	names map[string]bool
}

type rule struct {
	name          string
	series, by    *Selector
	aggregate     string
	rate          bool
	scale, offset float64
	// low and high bound a figure of a built-in mapping whose rate is measured less exactly than its counters; no
	// bounds when they are equal.
	low, high float64
}

// RuleError is what is wrong with one rule.
type RuleError struct {
	// Index of the rule, from 0.
	Index int
	// Field of MetricRule, by its name in the .proto file.
	Field string
	Err   error
}

// Error names the rule and its field.
func (e *RuleError) Error() string { return fmt.Sprintf("rules[%d].%s: %s", e.Index, e.Field, e.Err) }

// Unwrap is what is wrong with the field.
func (e *RuleError) Unwrap() error { return e.Err }

// ErrUnknownMapping is wrapped when a built-in mapping is named that there is not.
var ErrUnknownMapping = errors.New("unknown mapping")

// Compile makes the mapping of a check: the built-in one of that name (empty: none) and rules of its own, which win over
// those of the mapping that make the same figure. With neither there are all built-in ones. The error wraps
// ErrUnknownMapping or joins a *RuleError for each fault.
func Compile(mapping string, own []*picketv1.MetricRule) (*Mapping, error) {
	m := &Mapping{names: map[string]bool{}}
	var faults []error
	if len(own) > MaxRules {
		return nil, fmt.Errorf("has %d rules, more than %d", len(own), MaxRules)
	}
	for i, declared := range own {
		r, err := compile(i, declared)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if j := slices.IndexFunc(own[:i], func(o *picketv1.MetricRule) bool { return o.GetName() == declared.GetName() }); j >= 0 {
			faults = append(faults, &RuleError{i, "name", fmt.Errorf("the figure %s is made by rules[%d] already", r.name, j)})
		}
		m.rules = append(m.rules, r)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	named := []string{mapping}
	if mapping == "" && len(own) == 0 {
		named = Mappings()
	}
	for _, name := range named {
		if err := m.addBuiltIn(name); err != nil {
			return nil, err
		}
	}
	for i := range m.rules {
		m.names[m.rules[i].series.Name] = true
		if by := m.rules[i].by; by != nil {
			m.names[by.Name] = true
		}
	}
	return m, nil
}

func (m *Mapping) addBuiltIn(name string) error {
	rules, known := BuiltIn(name)
	if !known && name != "" {
		return fmt.Errorf("%w %.64q: known are %s", ErrUnknownMapping, name, strings.Join(Mappings(), ", "))
	}
	for i, declared := range rules {
		if slices.ContainsFunc(m.rules, func(r rule) bool { return r.name == declared.GetName() }) {
			continue
		}
		r, err := compile(i, declared)
		if err != nil {
			return fmt.Errorf("mapping %s: %w", name, err)
		}
		if unit, known := WellKnown(r.name); known && unit == Percent {
			r.high = 100
		}
		m.rules = append(m.rules, r)
	}
	return nil
}

// Needs says whether some rule needs series of this name. What is not needed need not be parsed.
func (m *Mapping) Needs(name []byte) bool { return m.names[string(name)] }

func compile(index int, declared *picketv1.MetricRule) (rule, error) {
	var faults []error
	fault := func(field string, err error) { faults = append(faults, &RuleError{index, field, err}) }
	r := rule{
		name: declared.GetName(), aggregate: declared.GetAggregate(), rate: declared.GetRate(),
		scale: declared.GetScale(), offset: declared.GetOffset(),
	}
	if !IsName(r.name) {
		fault("name", fmt.Errorf("%.64q is no name of a figure", r.name))
	}
	var err error
	if r.series, err = ParseSelector(declared.GetSeries()); err != nil {
		fault("series", err)
	}
	if text := declared.GetDivideBy(); text != "" {
		if r.by, err = ParseSelector(text); err != nil {
			fault("divide_by", err)
		}
	}
	if r.aggregate == "" {
		r.aggregate = aggregates[0]
	}
	if !slices.Contains(aggregates, r.aggregate) {
		fault("aggregate", fmt.Errorf("%.64q is none of %s", r.aggregate, strings.Join(aggregates, ", ")))
	}
	if r.scale == 0 {
		r.scale = 1
	}
	if !finite(r.scale) {
		fault("scale", errors.New("is no finite number"))
	}
	if !finite(r.offset) {
		fault("offset", errors.New("is no finite number"))
	}
	return r, errors.Join(faults...)
}
