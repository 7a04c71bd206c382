package format

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// csvRows writes RFC 4180. encoding/csv would want each value as a string: 20 allocations a row.
type csvRows struct{ columns []Column }

func (c *csvRows) begin(buffer []byte) []byte {
	for i, column := range c.columns {
		if i > 0 {
			buffer = append(buffer, ',')
		}
		buffer = appendField(buffer, column.Name)
	}
	return append(buffer, "\r\n"...)
}

func (c *csvRows) row(buffer []byte, values []any) ([]byte, error) {
	for i, value := range values {
		if i > 0 {
			buffer = append(buffer, ',')
		}
		if value == nil {
			if len(values) == 1 {
				buffer = append(buffer, `""`...) // a line of nothing would not be a row
			}
			continue
		}
		ok := false
		if buffer, ok = c.value(buffer, c.columns[i], value); !ok {
			return buffer, wrongValue(c.columns[i], value)
		}
	}
	return append(buffer, "\r\n"...), nil
}

func (c *csvRows) value(buffer []byte, column Column, value any) (_ []byte, ok bool) {
	switch column.Type {
	case Int:
		return appendNumber(buffer, column, value)
	case Float:
		if !finite(value) {
			v, _, _ := float(value)
			return append(buffer, notFinite(v)...), true
		}
		return appendNumber(buffer, column, value)
	case Bool:
		v, ok := value.(bool)
		return strconv.AppendBool(buffer, v), ok
	case Time:
		return appendTime(buffer, value)
	default:
		switch v := value.(type) {
		case string:
			return appendField(buffer, v), true
		case []byte:
			return appendField(buffer, string(v)), column.Type == JSON
		}
		return buffer, false
	}
}

// notFinite is what PostgreSQL and most readers call these.
func notFinite(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "Infinity"
	case math.IsInf(v, -1):
		return "-Infinity"
	default:
		return "NaN"
	}
}

func (c *csvRows) end(buffer []byte) []byte { return buffer }

// appendField appends a text, quoted where it has to be and harmless for a spreadsheet.
func appendField(buffer []byte, text string) []byte {
	text = valid(text)
	escape := formula(text)
	if text != "" && !strings.ContainsAny(text, "\",\r\n\x00") && text[0] != ' ' && text[len(text)-1] != ' ' {
		if escape {
			buffer = append(buffer, '\'')
		}
		return append(buffer, text...)
	}
	buffer = append(buffer, '"')
	if escape {
		buffer = append(buffer, '\'')
	}
	for {
		quote := strings.IndexByte(text, '"')
		if quote < 0 {
			break
		}
		buffer = append(append(buffer, text[:quote+1]...), '"')
		text = text[quote+1:]
	}
	return append(append(buffer, text...), '"')
}

// formula reports whether a spreadsheet would run a text, or a reader of ours take an apostrophe off it.
func formula(text string) bool {
	first, _ := utf8.DecodeRuneInString(text)
	switch first {
	case '=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠', '\'':
		return true
	}
	return false
}
