package format

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	parquetzstd "github.com/parquet-go/parquet-go/compress/zstd"
)

const (
	// A row group is in memory, encoded and compressed, until it is whole. It ends at so many rows, or bytes before that.
	groupRows  = 128 << 10
	groupBytes = 12 << 20
	// dictionaryBytes is when a column has too many values for a dictionary and goes on without.
	dictionaryBytes = 128 << 10
	pageBytes       = 64 << 10
	pageWindow      = 256 << 10
	batchRows       = 64
	batchBytes      = 1 << 20
)

// parquetEncoder gathers rows into batches, and batches into row groups.
type parquetEncoder struct {
	columns []Column
	writer  *parquet.GenericWriter[any]
	batch   []parquet.Row
	rows    int // in the batch
	held    int // bytes of text that the batch refers to
	size    int // bytes of the row group
	group   int // rows of the row group
}

func newParquet(w io.Writer, compression Compression, columns []Column) (*parquetEncoder, error) {
	var codec compress.Codec
	switch compression {
	case None:
		codec = &parquet.Uncompressed
	case Gzip:
		codec = &parquet.Gzip
	case Zstd:
		encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(pageWindow), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("begin %s: %w", compression, err)
		}
		codec = &pageZstd{&parquet.Zstd, encoder}
	default:
		return nil, fmt.Errorf("%w: compression %q", ErrUnsupported, compression)
	}
	encoder := &parquetEncoder{columns: columns, batch: make([]parquet.Row, batchRows)}
	for i := range encoder.batch {
		encoder.batch[i] = make(parquet.Row, len(columns))
	}
	options := []parquet.WriterOption{
		schema(columns), parquet.Compression(codec), parquet.PageBufferSize(pageBytes), parquet.DictionaryMaxBytes(dictionaryBytes),
	}
	for _, column := range columns {
		if column.Type == String || column.Type == JSON {
			// The least and the greatest text of each row group, at their full length, would be held until the footer.
			options = append(options, parquet.SkipPageBounds(column.Name))
		}
	}
	encoder.writer = parquet.NewGenericWriter[any](w, options...)
	return encoder, nil
}

// pageZstd is zstd with a window for pages; the library's is for files and holds 16 MiB.
type pageZstd struct {
	*parquetzstd.Codec
	encoder *zstd.Encoder
}

func (z *pageZstd) Encode(dst, src []byte) ([]byte, error) {
	return z.encoder.EncodeAll(src, dst[:0]), nil
}

// schema has the columns in their order; a parquet.Group alone would sort them.
func schema(columns []Column) *parquet.Schema {
	group := orderedGroup{Group: parquet.Group{}}
	for _, column := range columns {
		group.Group[column.Name] = parquet.Optional(leaf(column.Type))
		group.order = append(group.order, column.Name)
	}
	return parquet.NewSchema("picket", group)
}

type orderedGroup struct {
	parquet.Group
	order []string
}

func (g orderedGroup) Fields() []parquet.Field {
	byName := map[string]parquet.Field{}
	for _, field := range g.Group.Fields() {
		byName[field.Name()] = field
	}
	fields := make([]parquet.Field, len(g.order))
	for i, name := range g.order {
		fields[i] = byName[name]
	}
	return fields
}

func leaf(t Type) parquet.Node {
	switch t {
	case Int:
		return parquet.Encoded(parquet.Int(64), &parquet.DeltaBinaryPacked)
	case Float:
		return parquet.Leaf(parquet.DoubleType)
	case Bool:
		return parquet.Leaf(parquet.BooleanType)
	case Time:
		return parquet.Encoded(parquet.Timestamp(parquet.Microsecond), &parquet.DeltaBinaryPacked)
	case JSON:
		return parquet.Encoded(parquet.JSON(), &parquet.RLEDictionary)
	default:
		return parquet.Encoded(parquet.String(), &parquet.RLEDictionary) // names, statuses, reasons: few and often
	}
}

func (e *parquetEncoder) Row(values []any) error {
	if len(values) != len(e.columns) {
		return wrongRow(e.columns, values)
	}
	row := e.batch[e.rows]
	for i, column := range e.columns {
		if values[i] == nil {
			row[i] = parquet.NullValue().Level(0, 0, i)
			continue
		}
		value, ok := parquetValue(column, values[i])
		if !ok {
			return wrongValue(column, values[i])
		}
		if kind := value.Kind(); kind == parquet.ByteArray {
			e.held += len(value.ByteArray())
		}
		row[i] = value.Level(0, 1, i)
	}
	e.rows++
	if e.rows == batchRows || e.held >= batchBytes {
		return e.flush()
	}
	return nil
}

func parquetValue(column Column, value any) (parquet.Value, bool) {
	switch column.Type {
	case Int:
		v, ok := integer(value)
		return parquet.Int64Value(v), ok
	case Float:
		v, _, ok := float(value)
		return parquet.DoubleValue(v), ok
	case Bool:
		v, ok := value.(bool)
		return parquet.BooleanValue(v), ok
	case Time:
		v, ok := value.(time.Time)
		return parquet.Int64Value(v.UnixMicro()), ok
	case JSON:
		switch v := value.(type) {
		case string:
			return bytesValue(jsonText(v)), true
		case []byte:
			return bytesValue(jsonText(string(v))), true
		}
	default:
		if v, ok := value.(string); ok {
			return bytesValue(valid(v)), true
		}
	}
	return parquet.Value{}, false
}

// jsonText is the text of a JSON value, which what is none becomes as in the other formats.
func jsonText(text string) string {
	if utf8.ValidString(text) && json.Valid(bytesOf(text)) {
		return text
	}
	return string(appendString(nil, text))
}

// bytesOf is the text without a copy; whoever gets it reads only.
//
//nolint:gosec // a copy of every text is what this saves
func bytesOf(text string) []byte { return unsafe.Slice(unsafe.StringData(text), len(text)) }

// bytesValue refers to the text; the writer copies it into its pages.
func bytesValue(text string) parquet.Value { return parquet.ByteArrayValue(bytesOf(text)) }

// flush gives the batch to the writer, and ends a row group that is large enough.
func (e *parquetEncoder) flush() error {
	if _, err := e.writer.WriteRows(e.batch[:e.rows]); err != nil {
		return err
	}
	e.group += e.rows
	e.size += e.held + 8*e.rows*len(e.columns)
	for _, row := range e.batch[:e.rows] {
		clear(row) // refers to texts
	}
	e.rows, e.held = 0, 0
	if e.group < groupRows && e.size < groupBytes {
		return nil
	}
	e.group, e.size = 0, 0
	return e.writer.Flush()
}

func (e *parquetEncoder) Close() error {
	if err := e.flush(); err != nil {
		return err
	}
	return e.writer.Close()
}
