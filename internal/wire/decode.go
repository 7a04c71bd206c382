package wire

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// UnmarshalJSON reads one JSON object into m, which it resets first. Unknown
// fields are skipped, so that old readers stand new writers. Duplicate names,
// invalid UTF-8, values of the wrong type and anything behind the object are
// errors; all wrap ErrUnreadable. It accepts enum values as words or numbers.
func UnmarshalJSON(data []byte, m proto.Message) error {
	proto.Reset(m)
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	if err := readMessage(dec, m.ProtoReflect()); err != nil {
		return fmt.Errorf("%w: decode JSON of %s: %w", ErrUnreadable, m.ProtoReflect().Descriptor().Name(), err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return fmt.Errorf("%w: something follows the JSON object", ErrUnreadable)
	}
	return nil
}

func readMessage(dec *jsontext.Decoder, m protoreflect.Message) error {
	if m.Descriptor().FullName() == timestampName {
		return readTimestamp(dec, m)
	}
	if err := expect(dec, '{'); err != nil {
		return err
	}
	fields := m.Descriptor().Fields()
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return err
		}
		field := fields.ByName(protoreflect.Name(name.String()))
		if field == nil || dec.PeekKind() == 'n' {
			if err := dec.SkipValue(); err != nil {
				return err
			}
			continue
		}
		if err := readField(dec, m, field); err != nil {
			return fmt.Errorf("field %s: %w", field.Name(), err)
		}
	}
	_, err := dec.ReadToken()
	return err
}

func readField(dec *jsontext.Decoder, m protoreflect.Message, field protoreflect.FieldDescriptor) error {
	switch {
	case field.IsMap():
		return readMap(dec, field, m.Mutable(field).Map())
	case field.IsList():
		return readList(dec, field, m.Mutable(field).List())
	case field.Kind() == protoreflect.MessageKind:
		return readMessage(dec, m.Mutable(field).Message())
	default:
		value, err := readScalar(dec, field)
		if err != nil {
			return err
		}
		m.Set(field, value)
		return nil
	}
}

func readList(dec *jsontext.Decoder, field protoreflect.FieldDescriptor, list protoreflect.List) error {
	if err := expect(dec, '['); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		if field.Kind() == protoreflect.MessageKind {
			if err := readMessage(dec, list.AppendMutable().Message()); err != nil {
				return err
			}
			continue
		}
		value, err := readScalar(dec, field)
		if err != nil {
			return err
		}
		list.Append(value)
	}
	_, err := dec.ReadToken()
	return err
}

func readMap(dec *jsontext.Decoder, field protoreflect.FieldDescriptor, entries protoreflect.Map) error {
	if err := expect(dec, '{'); err != nil {
		return err
	}
	if field.MapKey().Kind() != protoreflect.StringKind {
		return fmt.Errorf("maps with %s keys are not read", field.MapKey().Kind())
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return err
		}
		key := protoreflect.ValueOfString(name.String()).MapKey()
		if field.MapValue().Kind() == protoreflect.MessageKind {
			value := entries.NewValue()
			if err := readMessage(dec, value.Message()); err != nil {
				return err
			}
			entries.Set(key, value)
			continue
		}
		value, err := readScalar(dec, field.MapValue())
		if err != nil {
			return err
		}
		entries.Set(key, value)
	}
	_, err := dec.ReadToken()
	return err
}

func readScalar(dec *jsontext.Decoder, field protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	token, err := dec.ReadToken()
	if err != nil {
		return protoreflect.Value{}, err
	}
	switch kind := field.Kind(); kind {
	case protoreflect.BoolKind:
		if token.Kind() != 't' && token.Kind() != 'f' {
			return protoreflect.Value{}, wrongType(token, "a boolean")
		}
		return protoreflect.ValueOfBool(token.Bool()), nil
	case protoreflect.EnumKind:
		return readEnum(token, field.Enum())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		number, err := integer(token, strconv.ParseInt, 32)
		return protoreflect.ValueOfInt32(int32(number)), err //nolint:gosec // ParseInt was given 32 bits
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		number, err := integer(token, strconv.ParseInt, 64)
		return protoreflect.ValueOfInt64(number), err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		number, err := integer(token, strconv.ParseUint, 32)
		return protoreflect.ValueOfUint32(uint32(number)), err //nolint:gosec // ParseUint was given 32 bits
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		number, err := integer(token, strconv.ParseUint, 64)
		return protoreflect.ValueOfUint64(number), err
	case protoreflect.FloatKind:
		number, err := float(token)
		return protoreflect.ValueOfFloat32(float32(number)), err
	case protoreflect.DoubleKind:
		number, err := float(token)
		return protoreflect.ValueOfFloat64(number), err
	case protoreflect.StringKind:
		if token.Kind() != '"' {
			return protoreflect.Value{}, wrongType(token, "a string")
		}
		return protoreflect.ValueOfString(token.String()), nil
	case protoreflect.BytesKind:
		if token.Kind() != '"' {
			return protoreflect.Value{}, wrongType(token, "a string")
		}
		raw, err := base64.StdEncoding.DecodeString(token.String())
		return protoreflect.ValueOfBytes(raw), err
	default:
		return protoreflect.Value{}, fmt.Errorf("kind %s has no JSON form", kind)
	}
}

func readEnum(token jsontext.Token, enum protoreflect.EnumDescriptor) (protoreflect.Value, error) {
	switch token.Kind() {
	case '"':
		prefix := string(enum.Values().Get(0).Name())[:enumPrefix(enum)]
		value := enum.Values().ByName(protoreflect.Name(prefix + strings.ToUpper(token.String())))
		if value == nil {
			return protoreflect.Value{}, fmt.Errorf("%q is no %s", token.String(), enum.Name())
		}
		return protoreflect.ValueOfEnum(value.Number()), nil
	case '0':
		number, err := integer(token, strconv.ParseInt, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number)), err //nolint:gosec // ParseInt was given 32 bits
	default:
		return protoreflect.Value{}, wrongType(token, "a word")
	}
}

// integer parses the token's own digits: a detour by float64 would bend large numbers.
func integer[T int64 | uint64](token jsontext.Token, parse func(string, int, int) (T, error), bits int) (T, error) {
	if token.Kind() != '0' {
		return 0, wrongType(token, "a number")
	}
	number, err := parse(token.String(), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("%s is not a %d-bit integer", token, bits)
	}
	return number, nil
}

func float(token jsontext.Token) (float64, error) {
	switch token.Kind() {
	case '0':
		return strconv.ParseFloat(token.String(), 64)
	case '"':
		switch token.String() {
		case "NaN":
			return math.NaN(), nil
		case "Infinity":
			return math.Inf(1), nil
		case "-Infinity":
			return math.Inf(-1), nil
		}
	}
	return 0, wrongType(token, "a number")
}

func readTimestamp(dec *jsontext.Decoder, m protoreflect.Message) error {
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != '"' {
		return wrongType(token, "a time")
	}
	at, err := time.Parse(time.RFC3339Nano, token.String())
	if err != nil {
		return fmt.Errorf("%q is no RFC 3339 time", token.String())
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByNumber(1), protoreflect.ValueOfInt64(at.Unix()))
	m.Set(fields.ByNumber(2), protoreflect.ValueOfInt32(int32(at.Nanosecond()))) //nolint:gosec // below 1e9
	return nil
}

func expect(dec *jsontext.Decoder, kind jsontext.Kind) error {
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != kind {
		return wrongType(token, kind.String())
	}
	return nil
}

func wrongType(token jsontext.Token, want string) error {
	return fmt.Errorf("found %s where %s is expected", token.Kind(), want)
}
