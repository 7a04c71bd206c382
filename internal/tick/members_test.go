package tick_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/picketd/picket/internal/tick"
)

func ringOf(names ...string) tick.Ring {
	m := tick.NewMembers()
	for _, name := range names {
		m.Heard(name, 0)
	}
	return m.Update(0)
}

func keys(n int) []tick.Key {
	out := make([]tick.Key, n)
	for i := range out {
		out[i] = tick.KeyOf(fmt.Sprintf("0190f3c4-aaaa-7bbb-8ccc-%012d", i))
	}
	return out
}

func TestOwnershipIsEven(t *testing.T) {
	t.Parallel()
	checks := keys(10_000)
	for n := 1; n <= 5; n++ {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("prober-%d", i)
		}
		share := map[string]int{}
		for ring, i := ringOf(names...), 0; i < len(checks); i++ {
			share[ring.Owner(checks[i])]++
		}
		for _, name := range names {
			want := float64(len(checks)) / float64(n)
			if off := math.Abs(float64(share[name])-want) / want; off > 0.06 {
				t.Errorf("%d members: %s owns %d of %d", n, name, share[name], len(checks))
			}
		}
	}
}

func TestAChangeMovesOnlyItsShare(t *testing.T) {
	t.Parallel()
	checks := keys(2_000)
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9-]{1,12}`), 2, 6, rapid.ID).Draw(t, "names")
		changed := names[0]
		before, after := ringOf(names[1:]...), ringOf(names...)
		for _, key := range checks {
			was, is := before.Owner(key), after.Owner(key)
			if is != changed && is != was {
				t.Fatalf("with %s a check moves from %s to %s", changed, was, is)
			}
			if !after.Owns(is, key) || after.Owns(was, key) != (was == is) {
				t.Fatalf("Owns and Owner disagree about %s and %s", was, is)
			}
		}
		slices.Reverse(names)
		again := ringOf(names...)
		for _, key := range checks {
			if after.Owner(key) != again.Owner(key) {
				t.Fatal("the owner depends on the order in which members were heard")
			}
		}
	})
}

func TestMembersLiveAndDie(t *testing.T) {
	t.Parallel()
	m := tick.NewMembers()
	want := func(at time.Duration, names ...string) {
		t.Helper()
		if diff := cmp.Diff(names, m.Update(at).Members()); diff != "" {
			t.Fatalf("at %v (-want +got):\n%s", at, diff)
		}
	}
	if owner := m.Update(0).Owner(1); owner != "" {
		t.Fatalf("no members, but %q owns", owner)
	}
	m.Heard("a", 0)
	m.Heard("b", 0)
	want(0, "a", "b")
	m.Heard("a", 4*time.Second)
	want(5*time.Second, "a", "b")
	want(5*time.Second+1, "a")
	m.Heard("b", 6*time.Second)
	want(6*time.Second, "a", "b")
	m.Goodbye("b")
	want(6*time.Second, "a")

	// The connection is down: nobody is heard, nobody is lost, nobody comes.
	m.Heard("b", 7*time.Second)
	m.Heard("a", 7*time.Second)
	want(7*time.Second, "a", "b")
	m.Freeze()
	m.Heard("c", 8*time.Second)
	want(time.Hour, "a", "b")
	m.Thaw(time.Hour)
	m.Heard("a", time.Hour+time.Second)
	m.Heard("c", time.Hour+time.Second)
	want(time.Hour+tick.AliveFor-1, "a", "b")
	want(time.Hour+tick.AliveFor, "a", "c")

	// A goodbye acts at once, also then.
	m.Freeze()
	m.Goodbye("c")
	want(2*time.Hour, "a")
}

// A loop that sleeps until the set changes sees each change in the moment.
func TestMembersSayWhenTheyChange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := tick.NewMembers()
		now := time.Duration(0)
		if _, ok := m.Changes(now); ok {
			t.Fatal("an empty set changes")
		}
		t.Repeat(map[string]func(*rapid.T){
			"hear": func(t *rapid.T) {
				m.Heard(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "who"), now)
				m.Update(now)
			},
			"freeze": func(*rapid.T) { m.Freeze() },
			"thaw":   func(*rapid.T) { m.Thaw(now); m.Update(now) },
			"wait": func(t *rapid.T) {
				at, ok := m.Changes(now)
				before := m.Update(now)
				until := now + time.Duration(rapid.Int64Range(0, int64(8*time.Second)).Draw(t, "for"))
				if ok && at > now && at <= until {
					if !m.Update(at - 1).Equal(before) {
						t.Fatalf("the set changes before %v", at)
					}
				}
				now = until
				if !m.Update(now).Equal(before) && (!ok || at > now) {
					t.Fatalf("the set changed by %v, said %v %v", now, at, ok)
				}
			},
		})
	})
}

func BenchmarkOwner(b *testing.B) {
	ring, checks := ringOf("prober-0", "prober-1", "prober-2", "prober-3"), keys(1024)
	for i := 0; b.Loop(); i++ {
		ring.Owner(checks[i%1024])
	}
}
