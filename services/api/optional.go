package api

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// optional is a member of a JSON merge patch (RFC 7396): left out, null, or a value.
type optional[T any] struct {
	sent, null bool
	value      T
}

// UnmarshalJSON is called only for what was sent.
func (o *optional[T]) UnmarshalJSON(data []byte) error {
	o.sent = true
	if bytes.Equal(data, []byte("null")) {
		o.null = true
		return nil
	}
	return json.Unmarshal(data, &o.value)
}

// MarshalJSON writes what was sent, so that two patches can be compared.
func (o optional[T]) MarshalJSON() ([]byte, error) {
	if !o.sent || o.null {
		return []byte("null"), nil
	}
	return json.Marshal(o.value)
}

// Schema is that of the value, or null.
func (o optional[T]) Schema(registry huma.Registry) *huma.Schema {
	schema := *registry.Schema(reflect.TypeFor[T](), false, "")
	schema.Nullable = true
	return &schema
}

// apply changes to; null is the zero value, as RFC 7396 removes what is null.
func (o optional[T]) apply(to *T) {
	if o.sent {
		*to = o.value
	}
}
