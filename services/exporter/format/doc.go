// Package format turns rows into files: CSV, NDJSON, JSON and Parquet, each with gzip or zstd if asked for. It needs the
// same memory for ten rows and for ten million, and it takes any text: what came from a hostile target is data here.
//
// All formats say the same of a value:
//
//	             CSV                        NDJSON, JSON           Parquet
//	no value     nothing                    null                   null
//	String       text, see below            string                 BYTE_ARRAY, STRING
//	Int          digits                     number                 INT64
//	Float        shortest that reads back   number                 DOUBLE
//	Bool         true, false                true, false            BOOLEAN
//	Time         RFC 3339, UTC, µs          the same, a string     INT64, TIMESTAMP(MICROS, UTC)
//	JSON         its text                   itself                 BYTE_ARRAY, JSON
//
// Text is UTF-8; bytes that are not become U+FFFD. NaN and infinities, which JSON does not have, are null there and NaN,
// Infinity and -Infinity in CSV.
//
// CSV is as RFC 4180 has it: a header, commas, CRLF, quotes doubled. An empty string is "" and no value is nothing. A
// spreadsheet runs a text as a formula that begins with one of = + - @ (also the wide ones of East Asian keyboards), a tab,
// or an end of line; such a text gets an apostrophe in front, and so does one that begins with an apostrophe, so that
// taking one apostrophe off the front of every text that begins with one gives back what was there. Numbers are not text.
// Programs do better with the other formats.
//
// JSON is {"data":[…],"count":n}, an object per row, keys in the order of the columns; NDJSON is the same objects, a line
// each.
//
// Compression wraps CSV, NDJSON and JSON, whose name then ends with .gz or .zst. Inside a Parquet file it is the codec of
// the columns, and the name stays .parquet: a wrapped one could not be read in parts, nor by most readers at all.
//
// May enter: rows, an io.Writer. May leave: bytes. No I/O of its own, no clock, no store.
package format
