package tick_test

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/picketd/picket/internal/tick"
)

func TestClockSlewsSmallErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		clock := tick.NewClock(start, func() time.Duration { return time.Since(start) })
		for _, ahead := range []time.Duration{200 * time.Millisecond, -200 * time.Millisecond} {
			before := clock.NowMS()
			if step, stepped := clock.Observe(ahead); stepped {
				t.Fatalf("Observe(%v) steps %+v", ahead, step)
			}
			if at := clock.NowMS(); at != before {
				t.Errorf("Observe(%v) jumps from %d to %d", ahead, before, at)
			}
			time.Sleep(time.Second) // fake time
			if got, want := clock.NowMS()-before, 1000+ahead.Milliseconds()/4; got != want {
				t.Errorf("after 1 s of slewing %v: %d ms, want %d", ahead, got, want)
			}
			time.Sleep(9 * time.Second)
			if got, want := clock.NowMS()-before, 10_000+ahead.Milliseconds(); got != want {
				t.Errorf("after 10 s of slewing %v: %d ms, want %d", ahead, got, want)
			}
		}
	})
}

func TestClockStepsLargeErrors(t *testing.T) {
	t.Parallel()
	mono := time.Duration(0)
	wall := time.UnixMilli(1_700_000_000_000)
	clock := tick.NewClock(wall, func() time.Duration { return mono })
	for _, ahead := range []time.Duration{250 * time.Millisecond, -time.Hour} {
		mono += time.Second
		before := clock.NowMS()
		step, stepped := clock.Observe(ahead)
		if !stepped || step.FromMS != before || step.ToMS != before+ahead.Milliseconds() {
			t.Errorf("Observe(%v) = %+v, %v at %d", ahead, step, stepped, before)
		}
		if got := clock.NowMS(); got != step.ToMS {
			t.Errorf("reads %d after a step to %d", got, step.ToMS)
		}
		if got := clock.Now().UnixMilli(); got != step.ToMS {
			t.Errorf("Now is %d after a step to %d", got, step.ToMS)
		}
	}
}

// Whatever is measured, without a step the clock goes forward, at a rate between
// 0.95 and 1.05, and without error it is exact.
func TestClockIsMonotonicBetweenSteps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mono := time.Duration(0)
		clock := tick.NewClock(time.UnixMilli(0), func() time.Duration { return mono })
		last, lastMono := clock.Now(), mono
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				mono += time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "for"))
				now := clock.Now()
				passed, spent := now.Sub(last), mono-lastMono
				if passed < spent-spent/20-1 || passed > spent+spent/20+1 {
					t.Fatalf("%v passed in %v", passed, spent)
				}
				last, lastMono = now, mono
			},
			"observe": func(t *rapid.T) {
				ahead := time.Duration(rapid.Int64Range(int64(-time.Second), int64(time.Second)).Draw(t, "ahead"))
				before := clock.Now()
				step, stepped := clock.Observe(ahead)
				if stepped != (ahead.Abs() >= tick.StepThreshold) {
					t.Fatalf("Observe(%v) steps: %v", ahead, stepped)
				}
				if stepped && step.ToMS-step.FromMS-ahead.Milliseconds() > 1 {
					t.Fatalf("Observe(%v) steps %+v", ahead, step)
				}
				if !stepped && !clock.Now().Equal(before) {
					t.Fatalf("Observe(%v) jumps from %v to %v", ahead, before, clock.Now())
				}
				last, lastMono = clock.Now(), mono
			},
		})
	})
}
