package metric

import (
	"sync"
	"time"
)

const (
	// LeastBetween is the least time over which a rate means something.
	LeastBetween = time.Second
	// MostBetween is how old the collection before may be: a rate over longer says nothing of now.
	MostBetween = 10 * time.Minute
	// maxCounters bounds what is remembered of one server; what is beyond has no rate.
	maxCounters = 16 << 10
	// maxPairs bounds the work of one division; a rule that would take more makes nothing.
	maxPairs = 1 << 20
)

// Counters remembers the counters of one server from one collection to the next, as rates need it. The zero value
// remembers nothing yet. It is safe for concurrent use.
type Counters struct {
	mu     sync.Mutex
	at     time.Duration
	values map[string]float64
}

// Figures are what the rules made of one exposition.
type Figures struct {
	// Values by name.
	Values map[string]float64
	// Waiting are the rules that need a second collection, in their order.
	Waiting []string
	// Empty are the rules that made nothing of what was there, in their order.
	Empty []string
}

// Figures makes the figures of the series of one collection, at now by a clock that goes evenly. Counters belong to the
// server; they are renewed unless now is within a second of the last time. A series that comes twice counts once.
func (m *Mapping) Figures(series []Series, counters *Counters, now time.Duration) Figures {
	e := evaluation{byName: map[string][]*Series{}}
	seen := make(map[string]bool, len(series))
	var key []byte
	for i := range series {
		s := &series[i]
		if !m.names[s.Name] {
			continue
		}
		key = appendKey(key[:0], s)
		if seen[string(key)] {
			continue
		}
		seen[string(key)] = true
		e.byName[s.Name] = append(e.byName[s.Name], s)
	}

	counters.mu.Lock()
	defer counters.mu.Unlock()
	if between := now - counters.at; counters.values != nil && between >= LeastBetween && between <= MostBetween {
		e.before, e.between = counters.values, between
	}
	e.after = map[string]float64{}
	figures := Figures{Values: make(map[string]float64, len(m.rules))}
	for i := range m.rules {
		r := &m.rules[i]
		value, ok := e.figure(r)
		switch {
		case ok:
			figures.Values[r.name] = value
		case r.rate && e.before == nil && len(e.selected(r.series)) > 0:
			figures.Waiting = append(figures.Waiting, r.name)
		default:
			figures.Empty = append(figures.Empty, r.name)
		}
	}
	if counters.values == nil || now-counters.at >= LeastBetween {
		counters.at, counters.values = now, e.after
	}
	return figures
}

// evaluation is one collection of one server.
type evaluation struct {
	byName map[string][]*Series
	// before are the counters of the collection before, by key, and between the time since; nil: there is none.
	before  map[string]float64
	between time.Duration
	// after are the counters now.
	after map[string]float64
}

func (e *evaluation) selected(selector *Selector) []*Series {
	var selected []*Series
	for _, s := range e.byName[selector.Name] {
		if selector.matchesLabels(s) {
			selected = append(selected, s)
		}
	}
	return selected
}

func (e *evaluation) figure(r *rule) (float64, bool) {
	series := e.selected(r.series)
	var divisors []*Series
	if r.by != nil {
		divisors = e.selected(r.by)
	}
	if len(series)*len(divisors) > maxPairs {
		return 0, false
	}
	n, sum, least, most := 0, 0.0, 0.0, 0.0
	for _, s := range series {
		value, ok := e.value(s, r.rate)
		if r.by != nil {
			// Not short of the rates of the divisors either, which have to be remembered.
			divisor, found := e.divisor(s, divisors, r.rate)
			ok = ok && found
			value /= divisor
		}
		if !ok || !finite(value) {
			continue
		}
		if n == 0 || value < least {
			least = value
		}
		if n == 0 || value > most {
			most = value
		}
		n++
		sum += value
	}
	if n == 0 {
		return 0, false
	}
	value := sum
	switch r.aggregate {
	case "max":
		value = most
	case "min":
		value = least
	case "avg":
		value = sum / float64(n)
	case "count":
		value = float64(n)
	}
	value = r.scale*value + r.offset
	if r.low < r.high {
		value = min(max(value, r.low), r.high)
	}
	return value, finite(value)
}

// value is the series' own, or its increase per second.
func (e *evaluation) value(s *Series, rate bool) (float64, bool) {
	if !rate {
		return s.Value, true
	}
	key := string(appendKey(nil, s))
	if len(e.after) < maxCounters {
		e.after[key] = s.Value
	}
	before, known := e.before[key]
	if !known {
		return 0, false
	}
	increase := s.Value - before
	if increase < 0 {
		increase = s.Value
	}
	return increase / e.between.Seconds(), true
}

// divisor is the sum of those that agree with s in every label that both have.
func (e *evaluation) divisor(s *Series, divisors []*Series, rate bool) (sum float64, found bool) {
	for _, d := range divisors {
		if !agree(s.Labels, d.Labels) {
			continue
		}
		if value, ok := e.value(d, rate && d.Counter); ok {
			sum += value
			found = true
		}
	}
	return sum, found && sum != 0
}

func agree(a, b []Label) bool {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Name < b[0].Name:
			a = a[1:]
		case a[0].Name > b[0].Name:
			b = b[1:]
		case a[0].Value != b[0].Value:
			return false
		default:
			a, b = a[1:], b[1:]
		}
	}
	return true
}

// appendKey appends what tells series apart; 0xff is in no UTF-8.
func appendKey(key []byte, s *Series) []byte {
	key = append(key, s.Name...)
	for _, l := range s.Labels {
		key = append(append(append(append(key, 0xff), l.Name...), 0xff), l.Value...)
	}
	return key
}
