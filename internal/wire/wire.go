package wire

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
)

// Content types of the two encodings, as they travel in the Content-Type header.
const (
	ContentTypeJSON     = "application/json"
	ContentTypeProtobuf = "application/protobuf"
)

// ErrUnreadable is wrapped by every error about bytes that are not a message.
var ErrUnreadable = errors.New("unreadable payload")

// Encoding names how messages are written. The zero value is JSON.
type Encoding string

// The encodings, as PICKET_ENCODING spells them.
const (
	JSON     Encoding = "json"
	Protobuf Encoding = "protobuf"
)

// UnmarshalText accepts the words json and protobuf.
func (e *Encoding) UnmarshalText(text []byte) error {
	switch word := Encoding(strings.ToLower(string(text))); word {
	case JSON, Protobuf:
		*e = word
		return nil
	default:
		return fmt.Errorf("encoding %q is neither json nor protobuf", text)
	}
}

// ContentType returns the content type that goes with what Append writes.
func (e Encoding) ContentType() string {
	if e == Protobuf {
		return ContentTypeProtobuf
	}
	return ContentTypeJSON
}

// Append writes m behind dst. It returns an error when a string of m is not valid UTF-8.
func (e Encoding) Append(dst []byte, m proto.Message) ([]byte, error) {
	if e == Protobuf {
		out, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
		if err != nil {
			return dst, fmt.Errorf("encode protobuf: %w", err)
		}
		return out, nil
	}
	return AppendJSON(dst, m)
}

// Decode reads data of the given content type into m; an empty content type is
// JSON. Fields that m does not know are skipped in JSON and kept in protobuf.
// Every error wraps ErrUnreadable.
func Decode(contentType string, data []byte, m proto.Message) error {
	base, _, _ := strings.Cut(contentType, ";")
	switch strings.TrimSpace(base) {
	case "", ContentTypeJSON:
		return UnmarshalJSON(data, m)
	case ContentTypeProtobuf, "application/x-protobuf":
		if err := proto.Unmarshal(data, m); err != nil {
			return fmt.Errorf("%w: decode protobuf: %w", ErrUnreadable, err)
		}
		return nil
	default:
		return fmt.Errorf("%w: content type %q is neither JSON nor protobuf", ErrUnreadable, contentType)
	}
}
