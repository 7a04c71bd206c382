package bus

import (
	"testing"

	"pgregory.net/rapid"
)

// TestSpans holds the set against a plain one.
func TestSpans(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var set spans
		plain := map[uint64]bool{}
		sequence := rapid.Uint64Range(1, 40)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				seq := sequence.Draw(t, "seq")
				set.add(seq)
				plain[seq] = true
			},
			"drop": func(t *rapid.T) {
				upTo := sequence.Draw(t, "up to")
				set.drop(upTo)
				for seq := range upTo + 1 {
					delete(plain, seq)
				}
			},
			"": func(t *rapid.T) {
				for i, one := range set {
					if one.from > one.to || i > 0 && one.from <= set[i-1].to+1 {
						t.Fatalf("runs touch: %v", set)
					}
				}
				from, to := sequence.Draw(t, "from"), sequence.Draw(t, "to")
				var first, last uint64
				for seq := from; seq <= to; seq++ {
					if !plain[seq] {
						last = seq
						if first == 0 {
							first = seq
						}
					}
				}
				if gotFirst, gotLast := set.missing(from, to); gotFirst != first || gotLast != last {
					t.Fatalf("of %d to %d in %v missing %d to %d, want %d to %d", from, to, set, gotFirst, gotLast, first, last)
				}
			},
		})
	})
}
