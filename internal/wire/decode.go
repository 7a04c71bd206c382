package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxKept bounds the payload whose buffers are kept for the next one.
const maxKept = 64 << 10

// UnmarshalJSON reads one JSON object into m, which it resets first. Unknown
// fields are skipped, so that old readers stand new writers. Duplicate names,
// invalid UTF-8, values of the wrong type and anything behind the object are
// errors; all wrap ErrUnreadable. It accepts enum values as words or numbers.
//
// It writes the object anew in protobuf's binary form and lets the tables of the
// generated message read that: setting fields one by one through reflection
// costs several times as much.
func UnmarshalJSON(data []byte, m proto.Message) error {
	r, _ := shared.readers.Get().(*reader)
	if r == nil {
		r = &reader{}
	}
	if len(data) <= maxKept {
		defer shared.readers.Put(r)
	}
	message := m.ProtoReflect().Descriptor()
	if err := r.read(data, shared.plans.of(message)); err != nil {
		proto.Reset(m)
		return fmt.Errorf("%w: decode JSON of %s: %w", ErrUnreadable, message.Name(), err)
	}
	if err := proto.Unmarshal(r.out, m); err != nil {
		return fmt.Errorf("%w: decode JSON of %s: %w", ErrUnreadable, message.Name(), err)
	}
	return nil
}

// shared is the one variable of this package: what descriptors say, in tables,
// and buffers that are empty between two calls. Nothing that it holds changes
// what a function returns; without it every call would build both.
var shared struct {
	plans   plans
	readers sync.Pool // of *reader
}

// reader turns JSON into protobuf's binary form.
type reader struct {
	input bytes.Buffer
	json  jsontext.Decoder
	out   []byte
	text  []byte // a string without its escapes
}

func (r *reader) read(data []byte, p *plan) error {
	r.input, r.out = *bytes.NewBuffer(data), r.out[:0]
	r.json.Reset(&r.input)
	if err := r.message(p); err != nil {
		return err
	}
	if _, err := r.json.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func (r *reader) message(p *plan) error {
	if p.time {
		return r.timestamp()
	}
	if err := r.expect('{'); err != nil {
		return err
	}
	for r.json.PeekKind() != '}' {
		name, err := r.json.ReadValue()
		if err != nil {
			return err
		}
		f := p.byName[string(r.unquote(name))]
		if f == nil || r.json.PeekKind() == 'n' {
			if err := r.json.SkipValue(); err != nil {
				return err
			}
			continue
		}
		if err := r.field(f); err != nil {
			return fmt.Errorf("field %s: %w", f.name, err)
		}
	}
	_, err := r.json.ReadToken()
	return err
}

func (r *reader) field(f *field) error {
	switch {
	case f.entry != nil:
		return r.entries(f)
	case f.list:
		if err := r.expect('['); err != nil {
			return err
		}
		for r.json.PeekKind() != ']' {
			if err := r.value(f); err != nil {
				return err
			}
		}
		_, err := r.json.ReadToken()
		return err
	default:
		return r.value(f)
	}
}

func (r *reader) entries(f *field) error {
	if err := r.expect('{'); err != nil {
		return err
	}
	if f.entry.key.kind != protoreflect.StringKind {
		return fmt.Errorf("maps with %s keys are not read", f.entry.key.kind)
	}
	for r.json.PeekKind() != '}' {
		name, err := r.json.ReadValue()
		if err != nil {
			return err
		}
		start := r.begin(f.number)
		r.appendText(f.entry.key.number, r.unquote(name))
		if err := r.value(f.entry.value); err != nil {
			return err
		}
		r.end(start)
	}
	_, err := r.json.ReadToken()
	return err
}

// value writes the next JSON value as field f.
func (r *reader) value(f *field) error {
	if f.message != nil {
		start := r.begin(f.number)
		if err := r.message(f.message()); err != nil {
			return err
		}
		r.end(start)
		return nil
	}
	raw, err := r.json.ReadValue()
	if err != nil {
		return err
	}
	switch f.kind {
	case protoreflect.StringKind, protoreflect.BytesKind:
		if raw.Kind() != '"' {
			return wrongType(raw, "a string")
		}
		text := r.unquote(raw)
		if f.kind == protoreflect.StringKind {
			r.appendText(f.number, text)
			return nil
		}
		start := r.begin(f.number)
		r.out, err = base64.StdEncoding.AppendDecode(r.out, text)
		r.end(start)
		return err
	case protoreflect.BoolKind:
		if raw.Kind() != 't' && raw.Kind() != 'f' {
			return wrongType(raw, "a boolean")
		}
		r.appendVarint(f.number, protowire.EncodeBool(raw.Kind() == 't'))
		return nil
	case protoreflect.EnumKind:
		return r.enum(f, raw)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return r.float(f, raw)
	default:
		return r.integer(f, raw)
	}
}

func (r *reader) enum(f *field, raw jsontext.Value) error {
	switch raw.Kind() {
	case '"':
		word := r.unquote(raw)
		number, ok := f.words.byName[string(word)]
		if !ok {
			number, ok = f.words.byName[strings.ToLower(string(word))]
		}
		if !ok {
			return fmt.Errorf("%q is no %s", word, f.words.name)
		}
		r.appendVarint(f.number, uint64(number)) // a negative number as 64 bits
		return nil
	case '0':
		return r.integer(f, raw)
	default:
		return wrongType(raw, "a word")
	}
}

// integer parses the value's own digits: a detour by float64 would bend large numbers.
func (r *reader) integer(f *field, raw jsontext.Value) error {
	if raw.Kind() != '0' {
		return wrongType(raw, "a number")
	}
	var signed int64
	var unsigned uint64
	var err error
	bits := 64
	switch f.kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind, protoreflect.EnumKind:
		bits = 32
		signed, err = strconv.ParseInt(string(raw), 10, bits)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		signed, err = strconv.ParseInt(string(raw), 10, bits)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		bits = 32
		unsigned, err = strconv.ParseUint(string(raw), 10, bits)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		unsigned, err = strconv.ParseUint(string(raw), 10, bits)
	default:
		return fmt.Errorf("kind %s has no JSON form", f.kind)
	}
	if err != nil {
		return fmt.Errorf("%s is not a %d-bit integer", raw, bits)
	}
	switch f.kind {
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		r.appendVarint(f.number, protowire.EncodeZigZag(signed))
	case protoreflect.Sfixed32Kind, protoreflect.Fixed32Kind:
		r.appendFixed32(f.number, uint32(signed)|uint32(unsigned))
	case protoreflect.Sfixed64Kind, protoreflect.Fixed64Kind:
		r.appendFixed64(f.number, uint64(signed)|unsigned)
	default:
		r.appendVarint(f.number, uint64(signed)|unsigned)
	}
	return nil
}

func (r *reader) float(f *field, raw jsontext.Value) error {
	var number float64
	var err error
	switch raw.Kind() {
	case '0':
		number, err = strconv.ParseFloat(string(raw), 64)
	case '"':
		switch string(r.unquote(raw)) {
		case "NaN":
			number = math.NaN()
		case "Infinity":
			number = math.Inf(1)
		case "-Infinity":
			number = math.Inf(-1)
		default:
			err = wrongType(raw, "a number")
		}
	default:
		err = wrongType(raw, "a number")
	}
	if f.kind == protoreflect.FloatKind {
		r.appendFixed32(f.number, math.Float32bits(float32(number)))
	} else {
		r.appendFixed64(f.number, math.Float64bits(number))
	}
	return err
}

func (r *reader) timestamp() error {
	raw, err := r.json.ReadValue()
	if err != nil {
		return err
	}
	if raw.Kind() != '"' {
		return wrongType(raw, "a time")
	}
	var at time.Time
	if err := at.UnmarshalText(r.unquote(raw)); err != nil {
		return fmt.Errorf("%s is no RFC 3339 time", raw)
	}
	r.appendVarint(timestampSeconds, uint64(at.Unix()))
	r.appendVarint(timestampNanos, uint64(at.Nanosecond()))
	return nil
}

// unquote returns what a JSON string says, until the next call.
func (r *reader) unquote(raw jsontext.Value) []byte {
	if raw.Kind() != '"' {
		return nil // the decoder refuses such a name
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	// The decoder has read it, so that there is nothing wrong with it.
	r.text, _ = jsontext.AppendUnquote(r.text[:0], raw)
	return r.text
}

// begin opens a field of a length that is not yet known; end closes it.
func (r *reader) begin(number protowire.Number) (start int) {
	r.out = protowire.AppendTag(r.out, number, protowire.BytesType)
	r.out = append(r.out, 0)
	return len(r.out)
}

func (r *reader) end(start int) {
	n := len(r.out) - start
	var room [9]byte // more than one byte of length is rare: the content moves
	more := protowire.SizeVarint(uint64(n)) - 1
	r.out = append(r.out, room[:more]...)
	copy(r.out[start+more:], r.out[start:start+n])
	protowire.AppendVarint(r.out[:start-1], uint64(n))
}

func (r *reader) appendText(number protowire.Number, text []byte) {
	r.out = protowire.AppendBytes(protowire.AppendTag(r.out, number, protowire.BytesType), text)
}

func (r *reader) appendVarint(number protowire.Number, v uint64) {
	r.out = protowire.AppendVarint(protowire.AppendTag(r.out, number, protowire.VarintType), v)
}

func (r *reader) appendFixed32(number protowire.Number, v uint32) {
	r.out = protowire.AppendFixed32(protowire.AppendTag(r.out, number, protowire.Fixed32Type), v)
}

func (r *reader) appendFixed64(number protowire.Number, v uint64) {
	r.out = protowire.AppendFixed64(protowire.AppendTag(r.out, number, protowire.Fixed64Type), v)
}

func (r *reader) expect(kind jsontext.Kind) error {
	token, err := r.json.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != kind {
		return fmt.Errorf("found %s where %s is expected", token.Kind(), kind)
	}
	return nil
}

func wrongType(raw jsontext.Value, want string) error {
	return fmt.Errorf("found %s where %s is expected", raw.Kind(), want)
}
