package tick

import (
	"iter"
	"math"
	"math/bits"
	"slices"
)

// goldenRatio is (√5−1)/2 as a fraction of 2^64.
const goldenRatio = 0x9E3779B97F4A7C15

// Phase returns where in its interval a check is due, in milliseconds within
// [0, intervalMS); 0 when the interval is not positive.
//
// It is floor(interval · frac(serial·0.6180339887… + hash01(location))) computed
// in fixed point: a fraction is a uint64 in units of 2^-64, so that adding wraps
// by itself and every replica and every audit gets the same millisecond on every
// platform, for any serial. Multiples of the golden ratio fill the interval as
// evenly as points that arrive one by one can (any n neighbouring gaps take at
// most three lengths); phases made from a hash alone bunch up to 1.6 times the
// mean.
func Phase(serial int64, location string, intervalMS int64) int64 {
	if intervalMS <= 0 {
		return 0
	}
	fraction := uint64(serial)*goldenRatio + mix64(hash64(location))
	phase, _ := bits.Mul64(fraction, uint64(intervalMS))
	return int64(phase)
}

// hash64 is FNV-1a (64 bits): short, and stable for ever. Its low bits are good
// and its high bits are not, so it never goes out without mix64.
func hash64(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h ^= uint64(s[i])
		h *= 0x100000001b3
	}
	return h
}

// mix64 is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, variant 13
// of Stafford): each bit in flips each bit out with a chance near one half.
func mix64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Schedule is one version of when a check is due.
type Schedule struct {
	// Revision names the version; a result carries that of the tick it is for.
	Revision int64
	// IntervalMS is the time from tick to tick; not positive: never due.
	IntervalMS int64
	// EffectiveAtMS is the first instant at which the version is in force.
	EffectiveAtMS int64
}

// Schedules are the versions of one check's schedule, oldest first. Version i is
// in force in [effective i, effective i+1), the last one for ever; before the
// first nothing is due. A version that does not start after all those behind it
// is cut short by them, so that at any instant at most one is in force, whatever
// a hostile list says.
type Schedules []Schedule

// end returns the first instant at which version i is no longer in force.
func (s Schedules) end(i int) int64 {
	end := int64(math.MaxInt64)
	for _, later := range s[i+1:] {
		end = min(end, later.EffectiveAtMS)
	}
	return end
}

// first returns the first multiple of the interval after the phase that is at or
// after fromMS.
func (v Schedule) first(serial int64, location string, fromMS int64) (int64, bool) {
	if v.IntervalMS <= 0 {
		return 0, false
	}
	at := fromMS
	if over := floorMod(fromMS-Phase(serial, location, v.IntervalMS), v.IntervalMS); over > 0 {
		at += v.IntervalMS - over
	}
	return at, at >= fromMS // else it is beyond the end of time
}

// At returns the version in force at an instant; false when there is none.
func (s Schedules) At(atMS int64) (Schedule, bool) {
	for i, v := range slices.Backward(s) {
		if v.EffectiveAtMS <= atMS {
			return v, atMS < s.end(i)
		}
	}
	return Schedule{}, false
}

// Next returns the first tick strictly after an instant, and the revision that
// makes it due; false when none is ever due again.
func (s Schedules) Next(serial int64, location string, afterMS int64) (atMS, revision int64, ok bool) {
	if afterMS == math.MaxInt64 {
		return 0, 0, false
	}
	for i, v := range s {
		at, ok := v.first(serial, location, max(afterMS+1, v.EffectiveAtMS))
		if ok && at < s.end(i) {
			return at, v.Revision, true
		}
	}
	return 0, 0, false
}

// Due yields every tick in [fromMS, toMS), in order, with the revision that
// makes it due.
func (s Schedules) Due(serial int64, location string, fromMS, toMS int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		for i, v := range s {
			end := min(toMS, s.end(i))
			at, ok := v.first(serial, location, max(fromMS, v.EffectiveAtMS))
			for ok && at < end {
				if !yield(at, v.Revision) {
					return
				}
				next := at + v.IntervalMS
				ok, at = next > at, next
			}
		}
	}
}

// Count returns how many ticks [Schedules.Due] would yield, in a time that
// depends only on the number of versions.
func (s Schedules) Count(serial int64, location string, fromMS, toMS int64) int64 {
	var n int64
	for i, v := range s {
		end := min(toMS, s.end(i))
		at, ok := v.first(serial, location, max(fromMS, v.EffectiveAtMS))
		if ok && at < end {
			n += (end-1-at)/v.IntervalMS + 1
		}
	}
	return n
}

// Last returns the last tick in (afterMS, untilMS]; false when there is none.
func (s Schedules) Last(serial int64, location string, afterMS, untilMS int64) (atMS, revision int64, ok bool) {
	for i, v := range slices.Backward(s) {
		if v.IntervalMS <= 0 || v.EffectiveAtMS > untilMS {
			continue
		}
		at := min(untilMS, s.end(i)-1)
		at -= floorMod(at-Phase(serial, location, v.IntervalMS), v.IntervalMS)
		if at > afterMS && at >= v.EffectiveAtMS {
			return at, v.Revision, true
		}
	}
	return 0, 0, false
}

// floorMod is the remainder in [0, m), also of negative numbers.
func floorMod(x, m int64) int64 {
	r := x % m
	if r < 0 {
		r += m
	}
	return r
}
