package bus

import (
	"cmp"
	"slices"
)

// span is a run of sequences, both ends included.
type span struct{ from, to uint64 }

// spans is a set of sequences, kept as runs in ascending order that do not touch. Sequences come nearly in order, so that
// it is short.
type spans []span

// maxSpans bounds the memory; the lowest are forgotten first.
const maxSpans = maxAckPending

// add puts a sequence into the set.
func (s *spans) add(seq uint64) {
	all := *s
	if last := len(all) - 1; last >= 0 && seq == all[last].to+1 {
		all[last].to = seq
		return
	}
	// i is the first run that ends at or behind the sequence before this one.
	i, _ := slices.BinarySearchFunc(all, seq, func(one span, seq uint64) int { return cmp.Compare(one.to+1, seq) })
	switch {
	case i == len(all) || seq+1 < all[i].from:
		all = slices.Insert(all, i, span{seq, seq})
	case seq < all[i].from:
		all[i].from = seq
	case seq > all[i].to:
		all[i].to = seq
		if i+1 < len(all) && all[i+1].from == seq+1 {
			all[i].to = all[i+1].to
			all = slices.Delete(all, i+1, i+2)
		}
	}
	if len(all) > maxSpans {
		all = slices.Delete(all, 0, len(all)-maxSpans)
	}
	*s = all
}

// drop removes everything up to a sequence.
func (s *spans) drop(upTo uint64) {
	i := 0
	for ; i < len(*s) && (*s)[i].to <= upTo; i++ {
	}
	*s = slices.Delete(*s, 0, i)
	if len(*s) > 0 {
		(*s)[0].from = max((*s)[0].from, upTo+1)
	}
}

// missing returns the first and the last sequence of [from, to] that are not in the set, 0 and 0 when all are.
func (s spans) missing(from, to uint64) (first, last uint64) {
	for _, one := range s {
		if one.from <= from && from <= one.to {
			from = one.to + 1
		}
	}
	for _, one := range slices.Backward(s) {
		if one.from <= to && to <= one.to {
			to = one.from - 1
		}
	}
	if from > to {
		return 0, 0
	}
	return from, to
}
