package fold

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/google/uuid"
)

// encoder appends the parts of a chunk; a decoder reads them in the same order. Integers are varints, texts carry their
// length.
type encoder struct{ b []byte }

func (e *encoder) int(v int64)    { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) uint(v uint64)  { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) id(v uuid.UUID) { e.b = append(e.b, v[:]...) }
func (e *encoder) text(v string)  { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) time(v time.Time) { // zero stays zero; everything else is whole milliseconds
	ms := int64(math.MinInt64)
	if !v.IsZero() {
		ms = v.UnixMilli()
	}
	e.int(ms)
}

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// errChunk is what every damage of a chunk comes to: there is no use in knowing more, it is folded anew.
var errChunk = errors.New("chunk is damaged")

// decoder reads what encoder wrote. After the first damage it answers zeros, and err is set.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	d.b = nil
	d.err = errChunk
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// size reads the number of things that follow, of at least one byte each.
func (d *decoder) size() int {
	v := d.uint()
	if v > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(v)
}

func (d *decoder) int32() int32 {
	v := d.int()
	if v < math.MinInt32 || v > math.MaxInt32 {
		d.fail()
		return 0
	}
	return int32(v)
}

func (d *decoder) text() string {
	n := d.size()
	v := string(d.b[:n])
	d.b = d.b[n:]
	return v
}

func (d *decoder) id() uuid.UUID {
	var v uuid.UUID
	if len(d.b) < len(v) {
		d.fail()
		return v
	}
	copy(v[:], d.b)
	d.b = d.b[len(v):]
	return v
}

func (d *decoder) bool() bool {
	if len(d.b) == 0 || d.b[0] > 1 {
		d.fail()
		return false
	}
	v := d.b[0] == 1
	d.b = d.b[1:]
	return v
}

func (d *decoder) time() time.Time {
	ms := d.int()
	if ms == math.MinInt64 {
		return time.Time{}
	}
	return fromMS(ms)
}

func (d *decoder) level() level {
	v := d.uint()
	if v >= uint64(levels) {
		d.fail()
		return good
	}
	return level(v)
}

// done checks that nothing is left over.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail()
	}
	return d.err
}

func (e *encoder) alert(a *Alert) {
	e.bool(a != nil)
	if a == nil {
		return
	}
	e.id(a.ID)
	for _, v := range []string{
		a.Org, a.Fingerprint, a.Kind, a.Severity, a.State, a.Server, a.Check, a.Location, a.Summary, a.Reason, a.AckedBy,
	} {
		e.text(v)
	}
	e.id(a.CheckID)
	for _, v := range []time.Time{a.Since, a.PendingAt, a.OpenedAt, a.AckedAt, a.ClosedAt} {
		e.time(v)
	}
	e.int(a.Triggers)
}

func (d *decoder) alert() *Alert {
	if !d.bool() {
		return nil
	}
	a := &Alert{ID: d.id()}
	for _, v := range []*string{
		&a.Org, &a.Fingerprint, &a.Kind, &a.Severity, &a.State, &a.Server, &a.Check, &a.Location, &a.Summary, &a.Reason, &a.AckedBy,
	} {
		*v = d.text()
	}
	a.CheckID = d.id()
	for _, v := range []*time.Time{&a.Since, &a.PendingAt, &a.OpenedAt, &a.AckedAt, &a.ClosedAt} {
		*v = d.time()
	}
	a.Triggers = d.int()
	if d.err != nil {
		return nil
	}
	if a.State != Pending && a.State != Open && a.State != Acknowledged {
		d.fail()
	}
	return a
}
