package tick_test

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/picketd/picket/internal/tick"
)

// The phases are part of the contract between replicas, stored schedules and
// audits: a change of the formula must not go unnoticed.
func TestPhaseIsStable(t *testing.T) {
	t.Parallel()
	type in struct {
		serial   int64
		location string
		interval int64
	}
	for in, want := range map[in]int64{
		{0, "local", 30_000}:        13310,
		{1, "local", 30_000}:        1851,
		{2, "local", 30_000}:        20392,
		{1, "eu-west", 30_000}:      399,
		{1 << 31, "local", 5_000}:   961,
		{7, "local", 86_400_000}:    66520843,
		{7, "local", 0}:             0,
		{7, "local", -1}:            0,
		{-1, "", 1}:                 0,
		{3, "local", math.MaxInt64}: 2746546900336803112,
	} {
		if got := tick.Phase(in.serial, in.location, in.interval); got != want {
			t.Errorf("Phase(%d, %q, %d) = %d, want %d", in.serial, in.location, in.interval, got, want)
		}
	}
}

// The fixed-point formula is the one of the design, up to what a float64 can say.
func TestPhaseIsTheGoldenRatio(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		serial := rapid.Int64Range(0, 1<<20).Draw(t, "serial")
		interval := rapid.Int64Range(1000, 3_600_000).Draw(t, "interval")
		origin := tick.Phase(0, "local", interval)
		_, frac := math.Modf(float64(serial) * (math.Sqrt(5) - 1) / 2)
		want := math.Mod(float64(origin)+frac*float64(interval), float64(interval))
		got := float64(tick.Phase(serial, "local", interval))
		distance := math.Abs(got - want)
		if distance = min(distance, float64(interval)-distance); distance > 1.01 {
			t.Fatalf("Phase(%d, local, %d) = %v, want %v", serial, interval, got, want)
		}
	})
}

func TestPhasesSpreadTheFleet(t *testing.T) {
	t.Parallel()
	for _, checks := range []int{5_000, 10_000, 100_000} {
		const interval, window = 30_000, 100
		var peak [interval / window]int
		for serial := range checks {
			peak[tick.Phase(int64(serial+1), "local", interval)/window]++
		}
		mean := float64(checks) / float64(len(peak))
		if ratio := float64(slices.Max(peak[:])) / mean; ratio > 1.1 {
			t.Errorf("%d checks: peak to mean in %d ms is %.3f, want at most 1.1", checks, window, ratio)
		}
	}
}

func drawSchedules(t *rapid.T) tick.Schedules {
	n := rapid.IntRange(0, 4).Draw(t, "versions")
	out := make(tick.Schedules, n)
	for i := range out {
		out[i] = tick.Schedule{
			Revision:      int64(i + 1),
			IntervalMS:    rapid.OneOf(rapid.Int64Range(-1, 3), rapid.Int64Range(1, 400)).Draw(t, "interval"),
			EffectiveAtMS: rapid.Int64Range(-500, 2_000).Draw(t, "effective"),
		}
	}
	if rapid.Bool().Draw(t, "in order") {
		slices.SortStableFunc(out, func(a, b tick.Schedule) int { return int(a.EffectiveAtMS - b.EffectiveAtMS) })
		for i := range out {
			out[i].Revision = int64(i + 1)
		}
	}
	return out
}

type due struct{ AtMS, Revision int64 }

// bruteDue is the definition: walk every millisecond and ask the version in force.
func bruteDue(s tick.Schedules, serial int64, location string, from, to int64) []due {
	var out []due
	for at := from; at < to; at++ {
		var in tick.Schedule
		for _, v := range s {
			if v.EffectiveAtMS <= at {
				in = v // the last one that has begun
			}
		}
		if in.IntervalMS <= 0 {
			continue
		}
		phase := tick.Phase(serial, location, in.IntervalMS)
		if ((at-phase)%in.IntervalMS+in.IntervalMS)%in.IntervalMS == 0 {
			out = append(out, due{at, in.Revision})
		}
	}
	return out
}

func collectDue(s tick.Schedules, serial int64, location string, from, to int64) []due {
	var out []due
	for at, revision := range s.Due(serial, location, from, to) {
		out = append(out, due{at, revision})
	}
	return out
}

func TestSchedulesAgreeWithTheDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedules(t)
		serial := rapid.Int64().Draw(t, "serial")
		location := rapid.SampledFrom([]string{"", "local", "eu-west"}).Draw(t, "location")
		from := rapid.Int64Range(-1_000, 2_000).Draw(t, "from")
		to := from + rapid.Int64Range(-10, 1_000).Draw(t, "span")
		want := bruteDue(s, serial, location, from, to)

		if diff := cmp.Diff(want, collectDue(s, serial, location, from, to)); diff != "" {
			t.Fatalf("Due (-want +got):\n%s", diff)
		}
		if got := s.Count(serial, location, from, to); got != int64(len(want)) {
			t.Fatalf("Count = %d, want %d", got, len(want))
		}
		var walked []due
		for at := from - 1; ; {
			next, revision, ok := s.Next(serial, location, at)
			if !ok || next >= to {
				break
			}
			if next <= at {
				t.Fatalf("Next(%d) = %d goes back", at, next)
			}
			at = next
			walked = append(walked, due{next, revision})
		}
		if diff := cmp.Diff(want, walked); diff != "" {
			t.Fatalf("Next (-want +got):\n%s", diff)
		}
		last, revision, ok := s.Last(serial, location, from-1, to-1)
		if ok != (len(want) > 0) || ok && (due{last, revision}) != want[len(want)-1] {
			t.Fatalf("Last = %d %d %v, want the last of %v", last, revision, ok, want)
		}
	})
}

func TestScheduleVersionsMeet(t *testing.T) {
	t.Parallel()
	s := tick.Schedules{
		{Revision: 1, IntervalMS: 100, EffectiveAtMS: 0},
		{Revision: 2, IntervalMS: 0, EffectiveAtMS: 1_000},
		{Revision: 3, IntervalMS: 50, EffectiveAtMS: 2_000},
	}
	counts := map[int64]int{}
	for at, revision := range s.Due(5, "local", 0, 3_000) {
		counts[revision]++
		if in, ok := s.At(at); !ok || in.Revision != revision {
			t.Errorf("tick %d of revision %d, but %+v is in force", at, revision, in)
		}
	}
	if diff := cmp.Diff(map[int64]int{1: 10, 3: 20}, counts); diff != "" {
		t.Errorf("ticks by revision (-want +got):\n%s", diff)
	}
	if _, ok := s.At(-1); ok {
		t.Error("a version is in force before the first")
	}
}

func TestSchedulesAtTheEndOfTime(t *testing.T) {
	t.Parallel()
	for _, interval := range []int64{1, 1 << 62, math.MaxInt64} {
		s := tick.Schedules{{Revision: 1, IntervalMS: interval}}
		if at, _, ok := s.Next(1, "local", math.MaxInt64); ok {
			t.Errorf("interval %d: tick %d after the end of time", interval, at)
		}
		n := 0
		for range s.Due(1, "local", math.MaxInt64-2, math.MaxInt64) {
			n++
		}
		if got := s.Count(1, "local", math.MaxInt64-2, math.MaxInt64); got != int64(n) {
			t.Errorf("interval %d: Count = %d, Due yields %d", interval, got, n)
		}
	}
}

func TestSplitDecidesEveryTickOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedules(t)
		serial := rapid.Int64Range(0, 1000).Draw(t, "serial")
		after := rapid.Int64Range(-600, 2_000).Draw(t, "after")
		now := after + rapid.Int64Range(0, 1_000).Draw(t, "span")
		want := bruteDue(s, serial, "local", after+1, now+1)

		got := s.Split(serial, "local", after, now)
		decided := got.Missed.Count
		if got.Run {
			decided++
		}
		if decided != int64(len(want)) {
			t.Fatalf("Split decides %d of %d ticks: %+v", decided, len(want), got)
		}
		if len(want) == 0 {
			return
		}
		last := want[len(want)-1]
		in, _ := s.At(last.AtMS)
		if young := 2*(now-last.AtMS) < in.IntervalMS; young != got.Run {
			t.Fatalf("last tick %d of interval %d at %d: run = %v", last.AtMS, in.IntervalMS, now, got.Run)
		}
		if got.Run {
			if (due{got.RunMS, got.Revision}) != last {
				t.Fatalf("runs %+v, want %+v", got, last)
			}
			want = want[:len(want)-1]
		}
		if len(want) == 0 {
			return
		}
		if got.Missed.FirstMS != want[0].AtMS || got.Missed.Revision != want[0].Revision ||
			got.Missed.LastMS != want[len(want)-1].AtMS {
			t.Fatalf("missed %+v, want %v", got.Missed, want)
		}
	})
}

func TestPacerHoldsTheRate(t *testing.T) {
	t.Parallel()
	var p tick.Pacer
	const rate = 200.0 // a second
	var at int64
	for range 1_000 {
		at = p.Reserve(10_000, rate)
	}
	if want := int64(10_000 + 999*5); at != want {
		t.Errorf("the 1000th at %d, want %d", at, want)
	}
	if at := p.Reserve(60_000, rate); at != 60_000 {
		t.Errorf("after a pause at %d, want at once", at)
	}
	if a, b := p.Reserve(70_000, 0), p.Reserve(70_000, 0); a != b {
		t.Errorf("no rate: %d then %d, want both at once", a, b)
	}
}

func BenchmarkNext(b *testing.B) {
	s := tick.Schedules{{Revision: 1, IntervalMS: 30_000}}
	at := int64(1_700_000_000_000)
	for b.Loop() {
		at, _, _ = s.Next(4711, "local", at)
	}
}
