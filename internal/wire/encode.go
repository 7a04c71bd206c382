package wire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	timestampName   = protoreflect.FullName("google.protobuf.Timestamp")
	timestampLayout = "2006-01-02T15:04:05.000Z07:00"

	timestampSeconds = protoreflect.FieldNumber(1)
	timestampNanos   = protoreflect.FieldNumber(2)
)

// AppendJSON writes m behind dst in the form that the package comment describes.
func AppendJSON(dst []byte, m proto.Message) ([]byte, error) {
	message := m.ProtoReflect()
	out, err := appendMessage(dst, shared.plans.of(message.Descriptor()), message)
	if err != nil {
		return dst, fmt.Errorf("encode %s as JSON: %w", message.Descriptor().Name(), err)
	}
	return out, nil
}

func appendMessage(dst []byte, p *plan, m protoreflect.Message) ([]byte, error) {
	if p.time {
		return appendTimestamp(dst, m), nil
	}
	dst = append(dst, '{')
	first := true
	var err error
	for i := range p.fields {
		f := &p.fields[i]
		if !m.Has(f.descriptor) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, f.quoted...)
		value := m.Get(f.descriptor)
		switch {
		case f.entry != nil:
			dst, err = appendMap(dst, f, value.Map())
		case f.list:
			dst, err = appendList(dst, f, value.List())
		default:
			dst, err = appendValue(dst, f, value)
		}
		if err != nil {
			return dst, fmt.Errorf("field %s: %w", f.name, err)
		}
	}
	return append(dst, '}'), nil
}

func appendList(dst []byte, f *field, list protoreflect.List) ([]byte, error) {
	dst = append(dst, '[')
	var err error
	for i := range list.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValue(dst, f, list.Get(i)); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// appendMap sorts the keys, so that equal messages are equal bytes.
func appendMap(dst []byte, f *field, entries protoreflect.Map) ([]byte, error) {
	type entry struct {
		key   string
		value protoreflect.Value
	}
	sorted := make([]entry, 0, entries.Len())
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		sorted = append(sorted, entry{key.String(), value})
		return true
	})
	slices.SortFunc(sorted, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	dst = append(dst, '{')
	var err error
	for i, e := range sorted {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendString(dst, e.key); err != nil {
			return dst, err
		}
		dst = append(dst, ':')
		if dst, err = appendValue(dst, f.entry.value, e.value); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

func appendValue(dst []byte, f *field, value protoreflect.Value) ([]byte, error) {
	switch f.kind {
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, value.Bool()), nil
	case protoreflect.EnumKind:
		if word, ok := f.words.quoted[value.Enum()]; ok {
			return append(dst, word...), nil
		}
		return strconv.AppendInt(dst, int64(value.Enum()), 10), nil
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return strconv.AppendInt(dst, value.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(dst, value.Uint(), 10), nil
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return appendFloat(dst, value.Float())
	case protoreflect.StringKind:
		return appendString(dst, value.String())
	case protoreflect.BytesKind:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, value.Bytes())
		return append(dst, '"'), nil
	case protoreflect.MessageKind:
		return appendMessage(dst, f.message(), value.Message())
	default:
		return dst, fmt.Errorf("kind %s has no JSON form", f.kind)
	}
}

func appendString(dst []byte, s string) ([]byte, error) {
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		return dst, errors.New("string is not valid UTF-8")
	}
	return out, nil
}

// appendFloat writes the shortest form that reads back as the same number. NaN
// and the infinities have none in JSON; protojson writes them as words, and so
// does this.
func appendFloat(dst []byte, f float64) ([]byte, error) {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...), nil
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...), nil
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...), nil
	case f == math.Trunc(f) && math.Abs(f) < 1e15:
		return strconv.AppendFloat(dst, f, 'f', -1, 64), nil
	default:
		return strconv.AppendFloat(dst, f, 'g', -1, 64), nil
	}
}

func appendTimestamp(dst []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	at := time.Unix(m.Get(fields.ByNumber(timestampSeconds)).Int(), m.Get(fields.ByNumber(timestampNanos)).Int()).UTC()
	dst = append(dst, '"')
	dst = at.AppendFormat(dst, timestampLayout)
	return append(dst, '"')
}
