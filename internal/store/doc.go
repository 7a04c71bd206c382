// Package store keeps what Picket knows in PostgreSQL 15 or newer, plain or with TimescaleDB: one file per aggregate, SQL
// beside the method that runs it, migrations embedded. It is the only room that imports pgx.
//
// May enter: plain Go values and the wire's enumerations. May leave: rows as plain Go structs, and errors that
// [Classify] can name. Nothing here knows NATS, HTTP to targets, or people.
//
// A [Store] opens without a database and works again by itself when one returns. Every transaction has a client deadline
// and its connection is closed when the deadline passes, so that a database which accepts but never answers holds
// nobody for longer than that.
package store
