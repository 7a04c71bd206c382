package format

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	bufferSize = 64 << 10
	// bufferMost is how large the buffer may stay after a row that was larger.
	bufferMost = 1 << 20
	// zstdWindow bounds what the compressor remembers: less than the 8 MiB it would take, more than repeats matter here.
	zstdWindow = 1 << 20
	// gzipLevel: the levels above take twice the time for a few percent.
	gzipLevel = 5

	timeLayout = "2006-01-02T15:04:05.000000Z07:00"
)

// rowWriter appends the parts of a text file to a buffer.
type rowWriter interface {
	begin(buffer []byte) []byte
	row(buffer []byte, values []any) ([]byte, error)
	end(buffer []byte) []byte
}

// textEncoder is a text format with its buffer and its compressor.
type textEncoder struct {
	out     io.Writer
	packer  io.WriteCloser // nil: none
	rows    rowWriter
	columns []Column
	buffer  []byte
}

func newText(w io.Writer, compression Compression, columns []Column, rows rowWriter) (*textEncoder, error) {
	encoder := &textEncoder{out: w, rows: rows, columns: columns, buffer: make([]byte, 0, bufferSize+bufferSize/4)}
	var err error
	switch compression {
	case None:
	case Gzip:
		encoder.packer, err = gzip.NewWriterLevel(w, gzipLevel)
	case Zstd:
		// One goroutine, the caller's: exports run beside each other already.
		encoder.packer, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	default:
		return nil, fmt.Errorf("%w: compression %q", ErrUnsupported, compression)
	}
	if err != nil {
		return nil, fmt.Errorf("begin %s: %w", compression, err)
	}
	if encoder.packer != nil {
		encoder.out = encoder.packer
	}
	encoder.buffer = rows.begin(encoder.buffer)
	return encoder, nil
}

func (e *textEncoder) Row(values []any) (err error) {
	if len(values) != len(e.columns) {
		return wrongRow(e.columns, values)
	}
	if e.buffer, err = e.rows.row(e.buffer, values); err != nil {
		return err
	}
	if len(e.buffer) < bufferSize {
		return nil
	}
	return e.flush()
}

func (e *textEncoder) flush() error {
	_, err := e.out.Write(e.buffer)
	if e.buffer = e.buffer[:0]; cap(e.buffer) > bufferMost {
		e.buffer = make([]byte, 0, bufferSize+bufferSize/4)
	}
	return err
}

func (e *textEncoder) Close() error {
	e.buffer = e.rows.end(e.buffer)
	if err := e.flush(); err != nil {
		return err
	}
	if e.packer == nil {
		return nil
	}
	return e.packer.Close()
}

// integer is the value of an Int.
func integer(value any) (int64, bool) {
	switch v := value.(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case int16:
		return int64(v), true
	case int:
		return int64(v), true
	}
	return 0, false
}

// float is the value of a Float, and how many bits it has.
func float(value any) (v float64, bits int, ok bool) {
	switch v := value.(type) {
	case float64:
		return v, 64, true
	case float32:
		return float64(v), 32, true
	}
	return 0, 0, false
}

// appendNumber appends the value of an Int or a finite Float; ok is false for values of other types.
func appendNumber(buffer []byte, column Column, value any) (_ []byte, ok bool) {
	if column.Type == Int {
		v, ok := integer(value)
		if !ok {
			return buffer, false
		}
		return strconv.AppendInt(buffer, v, 10), true
	}
	v, bits, ok := float(value)
	if !ok {
		return buffer, false
	}
	// Plain digits where people read them, an exponent where there would be too many.
	verb := byte('f')
	if size := math.Abs(v); size != 0 && (size < 1e-6 || size >= 1e21) {
		verb = 'e'
	}
	return strconv.AppendFloat(buffer, v, verb, -1, bits), true
}

func finite(value any) bool {
	v, _, ok := float(value)
	return !ok || !math.IsNaN(v) && !math.IsInf(v, 0)
}

func appendTime(buffer []byte, value any) (_ []byte, ok bool) {
	v, ok := value.(time.Time)
	if !ok {
		return buffer, false
	}
	return v.UTC().AppendFormat(buffer, timeLayout), true
}

// valid is the text as UTF-8.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
