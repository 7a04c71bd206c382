package wire

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// plan is what the JSON form of one message type needs, in tables: descriptors
// answer the same questions through interfaces, which costs a string for each.
type plan struct {
	time   bool    // google.protobuf.Timestamp, written as RFC 3339
	fields []field // in the order of the .proto file
	byName map[string]*field
}

// field is one field of a message, or the key or value of a map entry.
type field struct {
	descriptor protoreflect.FieldDescriptor
	name       string
	quoted     string // `"name":`
	number     protoreflect.FieldNumber
	kind       protoreflect.Kind
	words      *words
	entry      *entry // of a map
	list       bool
	message    func() *plan // of the message in it; late, as messages may hold themselves
}

type entry struct{ key, value *field }

// words are the values of an enum as the JSON form spells them.
type words struct {
	name   protoreflect.Name
	byName map[string]protoreflect.EnumNumber
	quoted map[protoreflect.EnumNumber]string
}

// plans holds the plan of every message type met so far. They follow from the
// descriptors alone, which never change, so that it matters to nobody who made
// one, nor when.
type plans struct{ byType sync.Map }

func (p *plans) of(message protoreflect.MessageDescriptor) *plan {
	if known, ok := p.byType.Load(message); ok {
		return known.(*plan)
	}
	known, _ := p.byType.LoadOrStore(message, p.build(message))
	return known.(*plan)
}

func (p *plans) build(message protoreflect.MessageDescriptor) *plan {
	descriptors := message.Fields()
	out := &plan{
		time:   message.FullName() == timestampName,
		fields: make([]field, descriptors.Len()),
		byName: make(map[string]*field, descriptors.Len()),
	}
	for i := range out.fields {
		f := p.field(descriptors.Get(i))
		out.fields[i] = f
		out.byName[f.name] = &out.fields[i]
	}
	return out
}

func (p *plans) field(d protoreflect.FieldDescriptor) field {
	f := field{
		descriptor: d, name: string(d.Name()), quoted: `"` + string(d.Name()) + `":`, number: d.Number(), kind: d.Kind(), list: d.IsList(),
	}
	switch {
	case d.IsMap():
		key, value := p.field(d.MapKey()), p.field(d.MapValue())
		f.entry = &entry{key: &key, value: &value}
	case d.Kind() == protoreflect.MessageKind:
		f.message = sync.OnceValue(func() *plan { return p.of(d.Message()) })
	case d.Kind() == protoreflect.EnumKind:
		f.words = newWords(d.Enum())
	}
	return f
}

// newWords spells the values of enum in lower case, without what they all begin
// with: the zero value is always named <PREFIX>UNSPECIFIED.
func newWords(enum protoreflect.EnumDescriptor) *words {
	values := enum.Values()
	prefix := strings.TrimSuffix(string(values.Get(0).Name()), "UNSPECIFIED")
	w := &words{
		name: enum.Name(), byName: make(map[string]protoreflect.EnumNumber, values.Len()),
		quoted: make(map[protoreflect.EnumNumber]string, values.Len()),
	}
	for i := range values.Len() {
		value := values.Get(i)
		word := strings.ToLower(strings.TrimPrefix(string(value.Name()), prefix))
		w.byName[word] = value.Number()
		if _, alias := w.quoted[value.Number()]; !alias {
			w.quoted[value.Number()] = `"` + word + `"`
		}
	}
	return w
}
