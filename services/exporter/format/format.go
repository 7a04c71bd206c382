package format

import (
	"errors"
	"fmt"
	"io"
)

// ErrUnsupported says that a format, a compression, a column or a value is none that can be written. Trying again ends the
// same.
var ErrUnsupported = errors.New("unsupported")

// Format is a file format.
type Format string

// The formats.
const (
	CSV          Format = "csv"
	NDJSON       Format = "ndjson"
	JSONDocument Format = "json"
	Parquet      Format = "parquet"
)

// Compression is what makes a file smaller.
type Compression string

// The compressions. An empty one means [None].
const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// Type is what the values of a column are. Each column may have nil.
type Type int

// The types, with the Go types of their values.
const (
	String Type = iota // string
	Int                // int64, int32, int16, int
	Float              // float64, float32
	Bool               // bool
	Time               // time.Time
	JSON               // string or []byte, the text of a JSON value; what is not one is written as a string
)

// Column is a column of the file.
type Column struct {
	Name string
	Type Type
}

// Encoder writes a file row by row. It is for one goroutine. After an error of either method the file is good for nothing
// and the encoder is only to be dropped; it holds no more than memory.
type Encoder interface {
	// Row writes a row: a value per column, nil for none, as the types say. Nothing of values is kept. Errors are of the
	// writer, or [ErrUnsupported].
	Row(values []any) error
	// Close writes what is left. It does not close the writer.
	Close() error
}

// New begins a file in w. Errors are of the writer, or [ErrUnsupported].
func New(w io.Writer, format Format, compression Compression, columns []Column) (Encoder, error) {
	if err := check(columns); err != nil {
		return nil, err
	}
	if compression == "" {
		compression = None
	}
	if format == Parquet {
		return newParquet(w, compression, columns)
	}
	var text rowWriter
	switch format {
	case CSV:
		text = &csvRows{columns: columns}
	case NDJSON:
		text = &jsonRows{columns: columns}
	case JSONDocument:
		text = &jsonRows{columns: columns, document: true}
	default:
		return nil, fmt.Errorf("%w: format %q", ErrUnsupported, format)
	}
	return newText(w, compression, columns, text)
}

func check(columns []Column) error {
	if len(columns) == 0 {
		return fmt.Errorf("%w: no columns", ErrUnsupported)
	}
	seen := map[string]bool{}
	for _, c := range columns {
		if c.Name == "" || seen[c.Name] {
			return fmt.Errorf("%w: column %q is there twice or has no name", ErrUnsupported, c.Name)
		}
		if c.Type < String || c.Type > JSON {
			return fmt.Errorf("%w: column %q is of type %d", ErrUnsupported, c.Name, c.Type)
		}
		seen[c.Name] = true
	}
	return nil
}

// Extension is what the name of such a file ends with, from the dot on.
func Extension(format Format, compression Compression) string {
	extension := "." + string(format)
	if format == Parquet {
		return extension
	}
	switch compression {
	case Gzip:
		extension += ".gz"
	case Zstd:
		extension += ".zst"
	}
	return extension
}

// ContentType is the media type of such a file as it is stored: of a compressed one, that of the compression, for nobody
// is to unpack it on the way and keep the name.
func ContentType(format Format, compression Compression) string {
	switch {
	case format == Parquet:
		return "application/vnd.apache.parquet"
	case compression == Gzip:
		return "application/gzip" // RFC 6713
	case compression == Zstd:
		return "application/zstd" // RFC 8878
	case format == CSV:
		return "text/csv; charset=utf-8; header=present" // RFC 4180
	case format == NDJSON:
		return "application/x-ndjson"
	default:
		return "application/json"
	}
}

func wrongRow(columns []Column, values []any) error {
	return fmt.Errorf("%w: a row of %d values for %d columns", ErrUnsupported, len(values), len(columns))
}

func wrongValue(column Column, value any) error {
	return fmt.Errorf("%w: a value of type %T in column %q", ErrUnsupported, value, column.Name)
}
