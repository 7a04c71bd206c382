package tick_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/picketd/picket/internal/tick"
)

// A wheel is compared with a plain list: released is what is due at the end of
// its slot, and nothing is released twice, early or later than the next advance.
func TestWheelAgainstAList(t *testing.T) {
	t.Parallel()
	type timer struct {
		handle   tick.Timer
		deadline int64
	}
	slotEnd := func(ms int64) int64 { return (ms + tick.SlotMS - 1) / tick.SlotMS * tick.SlotMS }
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(0, 1_000_000).Draw(t, "start")
		w := tick.NewWheel[int](now)
		held := map[int]timer{}
		var gone []tick.Timer
		id := 0
		reached := now
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "n") {
					after := rapid.OneOf(rapid.Int64Range(-100, 200), rapid.Int64Range(-200_000, 400_000)).Draw(t, "after")
					deadline := max(0, now+after)
					id++
					held[id] = timer{w.Add(deadline, id), deadline}
				}
			},
			"remove": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				ids := slices.Sorted(func(yield func(int) bool) {
					for id := range held {
						if !yield(id) {
							return
						}
					}
				})
				id := rapid.SampledFrom(ids).Draw(t, "id")
				if !w.Remove(held[id].handle) {
					t.Fatalf("cannot remove %d", id)
				}
				gone = append(gone, held[id].handle)
				delete(held, id)
			},
			"remove again": func(t *rapid.T) {
				for _, handle := range gone {
					if w.Remove(handle) {
						t.Fatal("removed what was gone")
					}
				}
				if w.Remove(tick.Timer{}) {
					t.Fatal("removed the zero timer")
				}
			},
			"rewind": func(t *rapid.T) {
				now -= rapid.Int64Range(0, min(now, 100_000)).Draw(t, "by")
				w.Rewind(now)
				reached = min(reached, now)
			},
			"advance": func(t *rapid.T) {
				by := rapid.OneOf(rapid.Int64Range(0, 50), rapid.Int64Range(0, 300_000)).Draw(t, "by")
				if rapid.Bool().Draw(t, "to next") {
					if next, ok := w.Next(); ok {
						by = max(0, next-now)
					}
				}
				now += by
				moved := now/tick.SlotMS > reached/tick.SlotMS
				due := w.Advance(now, nil)
				for _, id := range due {
					timer, ok := held[id]
					if !ok {
						t.Fatalf("%d is released, but not held", id)
					}
					if timer.deadline > now {
						t.Fatalf("%d is released at %d, %d ms early", id, now, timer.deadline-now)
					}
					gone = append(gone, timer.handle)
					delete(held, id)
				}
				reached = max(reached, now)
				for id, timer := range held {
					if moved && slotEnd(timer.deadline) <= now {
						t.Fatalf("%d of %d is not released at %d", id, timer.deadline, now)
					}
				}
			},
			"": func(t *rapid.T) {
				if w.Len() != len(held) {
					t.Fatalf("Len = %d, want %d", w.Len(), len(held))
				}
				next, ok := w.Next()
				if ok != (len(held) > 0) {
					t.Fatalf("Next says %v with %d held", ok, len(held))
				}
				for _, timer := range held {
					if slotEnd(timer.deadline) < next && next > reached/tick.SlotMS*tick.SlotMS+tick.SlotMS {
						t.Fatalf("Next = %d sleeps over %d at %d", next, timer.deadline, reached)
					}
				}
			},
		})
	})
}

// Nothing wakes the loop for a slot in which nothing is due.
func TestWheelSleepsThroughLaterTurns(t *testing.T) {
	t.Parallel()
	w := tick.NewWheel[int](0)
	w.Add(100*81_920+5_000, 1)
	wakes, now := 0, int64(0)
	for w.Len() > 0 {
		now, _ = w.Next()
		w.Advance(now, nil)
		wakes++
	}
	if wakes > 102 {
		t.Errorf("%d wake-ups for one entry 100 turns ahead", wakes)
	}
	if want := int64(100*81_920 + 5_000); now != want {
		t.Errorf("released at %d, want %d", now, want)
	}
}

func TestWheelOfAHundredThousand(t *testing.T) {
	t.Parallel()
	const checks, interval = 100_000, 30_000
	s := tick.Schedules{{Revision: 1, IntervalMS: interval}}
	w := tick.NewWheel[int64](0)
	next := make([]int64, checks)
	for serial := range int64(checks) {
		next[serial], _, _ = s.Next(serial, "local", 0)
		w.Add(next[serial], serial)
	}
	ran := make([]int, checks)
	var due []int64
	for now := int64(0); now <= 2*interval; now += tick.SlotMS {
		due = w.Advance(now, due[:0])
		for _, serial := range due {
			if late := now - next[serial]; late < 0 || late >= tick.SlotMS {
				t.Fatalf("check %d released %d ms late", serial, late)
			}
			ran[serial]++
			next[serial], _, _ = s.Next(serial, "local", next[serial])
			w.Add(next[serial], serial)
		}
	}
	for serial, n := range ran {
		if n != 2 {
			t.Fatalf("check %d ran %d times in two intervals", serial, n)
		}
	}
}

func BenchmarkWheel(b *testing.B) {
	const checks = 100_000
	w := tick.NewWheel[int32](0)
	for i := range int32(checks) {
		w.Add(int64(i)*30_000/checks, i)
	}
	b.ReportAllocs()
	var due []int32
	now := int64(0)
	released := 0
	for b.Loop() {
		now += tick.SlotMS
		due = w.Advance(now, due[:0])
		for _, v := range due {
			w.Add(now+30_000, v)
		}
		released += len(due)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(released), "ns/release")
}
