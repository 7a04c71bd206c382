// Package wire turns the messages of picket.v1 into bytes and back. Bytes and
// messages enter and leave; subjects, streams and headers belong to package bus.
//
// The JSON form is made to be read by people in a terminal: one line, fields in
// the order of the .proto file (the useful ones first), names as in the .proto
// file, enum values as lower-case words without their prefix, 64-bit integers as
// numbers, timestamps as RFC 3339 in UTC with milliseconds, empty fields left
// out. It holds the same facts as protojson's form, which fuzz tests check.
package wire
