package tick

import "math/bits"

const (
	// SlotMS is the width of a slot: what is due within one is released together.
	SlotMS = 10

	wheelSlots = 1 << 13 // 81.92 s a turn: no usual interval is looked at twice
	wheelMask  = wheelSlots - 1
	none       = int32(-1)
)

// Wheel is a timer wheel: it holds values until their deadline and releases them
// in slots of [SlotMS], never early and less than a slot late. Adding and
// removing take constant time; advancing takes time for what is released and for
// the non-empty slots passed. An entry costs 24 bytes and its value.
//
// A wheel is hashed: an entry lies in the slot of its deadline modulo one turn,
// and one that is due in a later turn is passed over until then. It is not safe
// for concurrent use.
type Wheel[T any] struct {
	cursor  int64 // the last absolute slot that was released
	heads   [wheelSlots]int32
	used    [wheelSlots / 64]uint64 // bit set: the slot's list is not empty
	entries []entry[T]
	free    int32
	length  int
}

type entry[T any] struct {
	slot       int64 // absolute
	prev, next int32
	bucket     int32
	generation uint32 // odd while in use
	value      T
}

// Timer names an entry of a [Wheel]. The zero Timer names none.
type Timer struct {
	index      int32
	generation uint32
}

// NewWheel returns an empty wheel that stands at an instant.
func NewWheel[T any](nowMS int64) *Wheel[T] {
	w := &Wheel[T]{cursor: floorSlot(nowMS), free: none}
	for i := range w.heads {
		w.heads[i] = none
	}
	return w
}

// Len returns the number of entries.
func (w *Wheel[T]) Len() int { return w.length }

// Add holds a value until deadlineMS. One that has passed is released by the
// next Advance that reaches another slot.
func (w *Wheel[T]) Add(deadlineMS int64, value T) Timer {
	i := w.free
	if i != none {
		w.free = w.entries[i].next
	} else {
		w.entries = append(w.entries, entry[T]{})
		i = int32(len(w.entries) - 1)
	}
	e := &w.entries[i]
	e.slot = ceilSlot(deadlineMS)
	e.value = value
	e.generation++
	w.link(i)
	w.length++
	return Timer{index: i, generation: e.generation}
}

// link puts an entry into the list of its slot, or of the next one to come.
func (w *Wheel[T]) link(i int32) {
	e := &w.entries[i]
	e.bucket = int32(max(e.slot, w.cursor+1) & wheelMask)
	e.prev, e.next = none, w.heads[e.bucket]
	if e.next != none {
		w.entries[e.next].prev = i
	}
	w.heads[e.bucket] = i
	w.used[e.bucket/64] |= 1 << (e.bucket % 64)
}

// Remove takes an entry out; false when it was released or removed before.
func (w *Wheel[T]) Remove(t Timer) bool {
	if t.generation == 0 || int(t.index) >= len(w.entries) || w.entries[t.index].generation != t.generation {
		return false
	}
	w.release(t.index)
	return true
}

// release takes an entry out and keeps its place for another.
func (w *Wheel[T]) release(i int32) {
	w.unlink(i)
	e := &w.entries[i]
	var zero T
	e.value = zero
	e.generation++
	e.next, w.free = w.free, i
	w.length--
}

func (w *Wheel[T]) unlink(i int32) {
	e := &w.entries[i]
	if e.prev != none {
		w.entries[e.prev].next = e.next
	} else {
		w.heads[e.bucket] = e.next
		if e.next == none {
			w.used[e.bucket/64] &^= 1 << (e.bucket % 64)
		}
	}
	if e.next != none {
		w.entries[e.next].prev = e.prev
	}
}

// Advance moves the wheel on to an instant and appends to due what is released
// on the way, slot by slot. An instant before the one reached does nothing.
func (w *Wheel[T]) Advance(nowMS int64, due []T) []T {
	target := floorSlot(nowMS)
	// One turn passes every slot, so a longer leap needs no more than that: all
	// that is due by its end is released wherever it is met.
	turns := min(target-w.cursor, wheelSlots)
	for n := int64(0); n < turns; {
		bucket := (w.cursor + 1 + n) & wheelMask
		skip := w.skip(bucket, turns-n)
		if n += skip; n >= turns {
			break
		}
		bucket = (bucket + skip) & wheelMask
		for i := w.heads[bucket]; i != none; {
			e := &w.entries[i]
			next := e.next
			if e.slot <= target {
				due = append(due, e.value)
				w.release(i)
			}
			i = next
		}
		n++
	}
	w.cursor = max(w.cursor, target)
	return due
}

// skip returns how many empty slots follow from a slot on, at most limit.
func (w *Wheel[T]) skip(bucket, limit int64) int64 {
	var n int64
	for n < limit {
		at := (bucket + n) & wheelMask
		if word := w.used[at/64] >> (at % 64); word != 0 {
			return min(limit, n+int64(bits.TrailingZeros64(word)))
		}
		n += 64 - at%64
	}
	return limit
}

// Rewind sets the wheel back to an instant, after the clock has stepped back.
// Deadlines are absolute and stay what they are. It takes time for all entries.
func (w *Wheel[T]) Rewind(nowMS int64) {
	w.cursor = min(w.cursor, floorSlot(nowMS))
	for i := range w.entries {
		e := &w.entries[i]
		// One that was overdue when it was added lies in a slot that is not its own.
		if inUse := e.generation%2 == 1; inUse && int64(e.bucket) != e.slot&wheelMask {
			w.unlink(int32(i))
			w.link(int32(i))
		}
	}
}

// Next returns the first instant at which Advance releases something, but never
// looks more than one turn ahead: it may return the end of that turn instead.
// False when the wheel is empty.
func (w *Wheel[T]) Next() (atMS int64, ok bool) {
	if w.length == 0 {
		return 0, false
	}
	for n := int64(0); n < wheelSlots; n++ {
		n += w.skip((w.cursor+1+n)&wheelMask, wheelSlots-n)
		if n >= wheelSlots {
			break
		}
		slot := w.cursor + 1 + n
		for i := w.heads[slot&wheelMask]; i != none; i = w.entries[i].next {
			if w.entries[i].slot <= slot {
				return slot * SlotMS, true
			}
		}
	}
	return (w.cursor + wheelSlots) * SlotMS, true
}

func floorSlot(ms int64) int64 { return (ms - floorMod(ms, SlotMS)) / SlotMS }

func ceilSlot(ms int64) int64 {
	slot := floorSlot(ms)
	if floorMod(ms, SlotMS) > 0 {
		slot++
	}
	return slot
}
