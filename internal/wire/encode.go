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
)

// AppendJSON writes m behind dst in the form that the package comment describes.
func AppendJSON(dst []byte, m proto.Message) ([]byte, error) {
	out, err := appendMessage(dst, m.ProtoReflect())
	if err != nil {
		return dst, fmt.Errorf("encode %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return out, nil
}

func appendMessage(dst []byte, m protoreflect.Message) ([]byte, error) {
	if m.Descriptor().FullName() == timestampName {
		return appendTimestamp(dst, m), nil
	}
	fields := m.Descriptor().Fields()
	dst = append(dst, '{')
	first := true
	var err error
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, field.Name()...)
		dst = append(dst, '"', ':')
		value := m.Get(field)
		switch {
		case field.IsMap():
			dst, err = appendMap(dst, field, value.Map())
		case field.IsList():
			dst, err = appendList(dst, field, value.List())
		default:
			dst, err = appendValue(dst, field, value)
		}
		if err != nil {
			return dst, fmt.Errorf("field %s: %w", field.Name(), err)
		}
	}
	return append(dst, '}'), nil
}

func appendList(dst []byte, field protoreflect.FieldDescriptor, list protoreflect.List) ([]byte, error) {
	dst = append(dst, '[')
	var err error
	for i := range list.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValue(dst, field, list.Get(i)); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// appendMap sorts the keys, so that equal messages are equal bytes.
func appendMap(dst []byte, field protoreflect.FieldDescriptor, entries protoreflect.Map) ([]byte, error) {
	keys := make([]string, 0, entries.Len())
	entries.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key.String())
		return true
	})
	slices.Sort(keys)
	dst = append(dst, '{')
	var err error
	for i, key := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendString(dst, key); err != nil {
			return dst, err
		}
		dst = append(dst, ':')
		value := entries.Get(protoreflect.ValueOfString(key).MapKey())
		if dst, err = appendValue(dst, field.MapValue(), value); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

func appendValue(dst []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, value.Bool()), nil
	case protoreflect.EnumKind:
		return appendEnum(dst, field.Enum(), value.Enum())
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
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(dst, value.Message())
	default:
		return dst, fmt.Errorf("kind %s has no JSON form", field.Kind())
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

func appendEnum(dst []byte, enum protoreflect.EnumDescriptor, number protoreflect.EnumNumber) ([]byte, error) {
	value := enum.Values().ByNumber(number)
	if value == nil {
		return strconv.AppendInt(dst, int64(number), 10), nil
	}
	dst = append(dst, '"')
	word := len(dst)
	dst = append(dst, value.Name()[enumPrefix(enum):]...)
	for i := word; i < len(dst); i++ {
		if 'A' <= dst[i] && dst[i] <= 'Z' {
			dst[i] += 'a' - 'A'
		}
	}
	return append(dst, '"'), nil
}

// enumPrefix is the length of what all values of enum begin with: its zero
// value is always named <PREFIX>UNSPECIFIED.
func enumPrefix(enum protoreflect.EnumDescriptor) int {
	zero := string(enum.Values().Get(0).Name())
	return len(strings.TrimSuffix(zero, "UNSPECIFIED"))
}

func appendTimestamp(dst []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	at := time.Unix(m.Get(fields.ByNumber(1)).Int(), m.Get(fields.ByNumber(2)).Int()).UTC()
	dst = append(dst, '"')
	dst = at.AppendFormat(dst, timestampLayout)
	return append(dst, '"')
}
