package fold

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// naive decides about one check by looking at the whole history each time. It shares no code with the fold but the defaults.
type naive struct {
	rules   rules
	history map[string][]naiveResult // by location, ascending
	verdict map[string]level         // hysteresis of each location
	state   string                   // empty: no alert
	kind    level
}

type naiveResult struct {
	at    time.Time
	level level
}

// run counts the last results in a row for which is holds, and gives the time of the first of them.
func naiveRun(history []naiveResult, is func(level) bool) (n int, since time.Time) {
	for i := len(history) - 1; i >= 0 && is(history[i].level); i-- {
		n, since = n+1, history[i].at
	}
	return n, since
}

func (m *naive) judge(location string) level {
	h := m.history[location]
	last := h[len(h)-1]
	v := m.verdict[location]
	for rule := degraded; rule <= last.level; rule++ {
		n, since := naiveRun(h, func(l level) bool { return l >= rule })
		switch {
		case n < int(m.rules.after[rule]):
			continue
		case rule == unreachable && last.at.Sub(since) < time.Duration(m.rules.unreachableFor)*time.Millisecond:
			continue
		case rule == degraded && last.level == unreachable && m.rules.unreachableFor > 0:
			continue
		}
		shared := critical
		for _, r := range h[len(h)-int(m.rules.after[rule]):] {
			shared = min(shared, r.level)
		}
		v = max(v, shared)
	}
	if n := int(m.rules.closeAfter); len(h) >= n {
		worst := good
		for _, r := range h[len(h)-n:] {
			worst = max(worst, r.level)
		}
		v = min(v, worst)
	}
	return v
}

func (m *naive) fold(location string, at, now time.Time, l level, reach time.Duration, quiet bool) []string {
	if h := m.history[location]; len(h) > 0 && !at.After(h[len(h)-1].at) {
		return nil
	}
	m.history[location] = append(m.history[location], naiveResult{at, l})
	m.verdict[location] = m.judge(location)
	atLeast := func(fresh bool, of func(location string) level) level {
		for l := critical; l > good; l-- {
			votes := 0
			for name, h := range m.history {
				if of(name) >= l && (!fresh || !now.After(h[len(h)-1].at.Add(reach))) {
					votes++
				}
			}
			if votes >= m.rules.quorum {
				return l
			}
		}
		return good
	}
	last := func(name string) level { return m.history[name][len(m.history[name])-1].level }
	fails := func(name string) level { return m.verdict[name] }
	words := func(name string) []string { return []string{name + " " + m.kind.word()} }
	if m.state == "" && !quiet && atLeast(true, last) > good {
		if m.state, m.kind = Open, atLeast(true, fails); m.kind > good {
			return words(Opened)
		}
		m.state, m.kind = Pending, atLeast(true, last)
		return words(Pending)
	}
	if m.state == Pending {
		if atLeast(false, last) == good {
			m.state = ""
			return words(Closed)
		}
		if worst := atLeast(true, fails); worst > good && atLeast(true, last) > good && !quiet {
			m.state, m.kind = Open, worst
			return words(Opened)
		}
		return nil
	}
	if m.state == Open {
		held := atLeast(false, fails)
		if held == good {
			m.state = ""
			return words(Closed)
		}
		to := m.kind
		if worst := atLeast(true, fails); worst > to {
			to = worst
		}
		if to > held {
			to = held
		}
		if to != m.kind && !quiet {
			m.kind = to
			return words(Updated)
		}
	}
	return nil
}

func (l level) word() string { return [...]string{"", KindDegraded, KindUnreachable, KindCritical}[l] }

// TestAgainstModel plays random results, rules and maintenance against the naive reference.
func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		places := []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "locations")]
		c := newCheck(1, "health", places...)
		small := rapid.Int32Range(0, 4)
		c.Alerts = &picketv1.AlertRules{
			CriticalAfter: small.Draw(t, "critical"), UnreachableAfter: small.Draw(t, "unreachable"),
			DegradedAfter: small.Draw(t, "degraded"), CloseAfter: small.Draw(t, "close"), Quorum: small.Draw(t, "quorum"),
			UnreachableForMs: rapid.SampledFrom([]int64{0, 1, 60_000}).Draw(t, "for"),
		}
		def := newServer(1, rapid.SampledFrom([]string{"env", "file"}).Draw(t, "source"), c)
		s := New()
		seq := uint64(1)
		s.Step(Event{Epoch: testEpoch, Sequence: seq, Time: base, Payload: &picketv1.CatalogChange{Change: "added", Server: def}})
		model := &naive{
			rules:   specOf(c.GetAlerts()).rules(def.GetSource(), "health", "http", len(places)),
			history: map[string][]naiveResult{}, verdict: map[string]level{},
		}
		now, quiet := base, false
		for i := range rapid.IntRange(1, 80).Draw(t, "results") {
			seq++
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 10, 30, 30, 30, 150}).Draw(t, "passed")) * time.Second)
			if rapid.IntRange(0, 15).Draw(t, "lifecycle") == 0 {
				quiet = !quiet
				def.Lifecycle = map[bool]string{true: "maintenance", false: "active"}[quiet]
				def.Revision++
				s.Step(Event{Epoch: testEpoch, Sequence: seq, Time: now, Payload: &picketv1.CatalogChange{Change: "changed", Server: def}})
				continue
			}
			place := rapid.SampledFrom(places).Draw(t, "location")
			scheduled := now.Add(-time.Duration(rapid.SampledFrom([]int{0, 0, 0, 30, 120}).Draw(t, "late")) * time.Second)
			status := rapid.SampledFrom([]picketv1.Status{1, 1, 2, 3, 4, 4, 5}).Draw(t, "status")
			result := newResult(checkID(1), place, scheduled, status)
			result.OnDemand = rapid.IntRange(0, 20).Draw(t, "on demand") == 0
			out := s.Step(Event{Epoch: testEpoch, Sequence: seq, Time: now, Payload: result})
			var got, want []string
			for _, tr := range out.Transitions {
				got = append(got, tr.Name+" "+tr.Alert.Kind)
			}
			if l, moves := levelOf(status); moves && !result.GetOnDemand() {
				want = model.fold(place, scheduled, now, l, 95*time.Second, quiet)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("result %d (%v at %v): %s", i, status, place, diff)
			}
		}
	})
}
