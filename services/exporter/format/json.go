package format

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// jsonRows writes an object per line, and for a document what makes one of them.
type jsonRows struct {
	columns  []Column
	document bool
	names    [][]byte // {"first": and ,"other":
	count    int64
}

func (j *jsonRows) begin(buffer []byte) []byte {
	for i, column := range j.columns {
		name := []byte{','}
		if i == 0 {
			name[0] = '{'
		}
		j.names = append(j.names, append(appendString(name, column.Name), ':'))
	}
	if j.document {
		buffer = append(buffer, `{"data":[`...)
	}
	return buffer
}

func (j *jsonRows) row(buffer []byte, values []any) ([]byte, error) {
	if j.document {
		if j.count > 0 {
			buffer = append(buffer, ',')
		}
		buffer = append(buffer, '\n')
	}
	for i, value := range values {
		buffer = append(buffer, j.names[i]...)
		ok := false
		if buffer, ok = j.value(buffer, j.columns[i], value); !ok {
			return buffer, wrongValue(j.columns[i], value)
		}
	}
	j.count++
	buffer = append(buffer, '}')
	if !j.document {
		buffer = append(buffer, '\n')
	}
	return buffer, nil
}

func (j *jsonRows) end(buffer []byte) []byte {
	if !j.document {
		return buffer
	}
	buffer = append(buffer, "\n],\"count\":"...)
	return append(strconv.AppendInt(buffer, j.count, 10), "}\n"...)
}

func (j *jsonRows) value(buffer []byte, column Column, value any) (_ []byte, ok bool) {
	if value == nil || column.Type == Float && !finite(value) {
		return append(buffer, "null"...), true
	}
	switch column.Type {
	case Int, Float:
		return appendNumber(buffer, column, value)
	case Bool:
		v, ok := value.(bool)
		return strconv.AppendBool(buffer, v), ok
	case Time:
		buffer, ok = appendTime(append(buffer, '"'), value)
		return append(buffer, '"'), ok
	case JSON:
		switch v := value.(type) {
		case string:
			return appendJSON(buffer, v), true
		case []byte:
			return appendJSON(buffer, string(v)), true
		}
	default:
		if v, ok := value.(string); ok {
			return appendString(buffer, v), true
		}
	}
	return buffer, false
}

// appendString quotes a text.
func appendString(buffer []byte, text string) []byte {
	buffer, _ = jsontext.AppendQuote(buffer, valid(text)) // its one error is text that is not UTF-8
	return buffer
}

// appendJSON appends a JSON value as it is, on one line. What is none becomes a string: an export does not fail, nor turn
// unreadable, for one value.
func appendJSON(buffer []byte, text string) []byte {
	start := len(buffer)
	buffer = append(buffer, text...)
	value := buffer[start:]
	if !utf8.Valid(value) || !json.Valid(value) {
		return appendString(buffer[:start], text)
	}
	if bytes.ContainsAny(value, "\r\n") { // between its tokens: inside of strings there is none
		var compact bytes.Buffer
		if err := json.Compact(&compact, value); err != nil {
			return appendString(buffer[:start], text)
		}
		return append(buffer[:start], compact.Bytes()...)
	}
	return buffer
}
