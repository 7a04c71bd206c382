package store

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrUnknownOutcome says that a COMMIT was sent and its answer never came: the work is in the database or it is
	// not. Whoever sees it repeats the work in a way that does no harm when it was.
	ErrUnknownOutcome = errors.New("outcome of commit unknown")
	// ErrNoSchema says that the database has not been migrated far enough.
	ErrNoSchema = errors.New("database schema missing or too old")
	// ErrNotFound says that what was asked for does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a name or an id is taken.
	ErrExists = errors.New("exists already")
	// ErrEnded says that something is over: a token that is revoked or has expired.
	ErrEnded = errors.New("has ended")
)

const (
	uniqueViolation = "23505"
	notNullViolated = "23502"
	checkViolation  = "23514"
	undefinedTable  = "42P01"
	lockNotAvail    = "55P03"
	serialization   = "40001"
	deadlock        = "40P01"
	badEncoding     = "22021"
	badEscape       = "22P05"
	timeOutOfRange  = "22008"
)

// Class says what to do about an error of the database; the table is in docs/ARCHITECTURE.md, by SQLSTATE
// (https://www.postgresql.org/docs/15/errcodes-appendix.html).
type Class int

// The classes.
const (
	// Unknown: nothing we expect. Retried and shown as an error; never taken for a fault of the data.
	Unknown Class = iota
	// Unavailable: the database is away, shutting down, out of resources or too slow (08, 53, 57, connection lost,
	// deadline passed). Retried when it answers again.
	Unavailable
	// Conflict: a unique key exists already (23505).
	Conflict
	// NoPartition: no partition takes the row (23514 without a constraint's name). Made, then retried.
	NoPartition
	// Data: the row itself is refused (22xxx, 23502, 23514 of a named constraint).
	Data
	// Retry: a serialization failure or deadlock (40001, 40P01), or a lock not had in time (55P03).
	Retry
)

// String is the class in a word, for logs and metrics.
func (c Class) String() string {
	switch c {
	case Unavailable:
		return "unavailable"
	case Conflict:
		return "conflict"
	case NoPartition:
		return "no_partition"
	case Data:
		return "data"
	case Retry:
		return "retry"
	default:
		return "unknown"
	}
}

// Classify names what went wrong. A nil error is Unknown.
func Classify(err error) Class {
	if server, ok := errors.AsType[*pgconn.PgError](err); ok {
		return classifyState(server)
	}
	var network net.Error
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &connect), errors.As(err, &network),
		errors.Is(err, ErrUnknownOutcome),
		errors.Is(err, ErrNoSchema),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, net.ErrClosed),
		pgconn.SafeToRetry(err):
		return Unavailable
	}
	return Unknown
}

func classifyState(err *pgconn.PgError) Class {
	switch err.Code {
	case uniqueViolation:
		return Conflict
	case notNullViolated:
		return Data
	case checkViolation:
		// A row without a partition and a violated CHECK share the code; only the second names a constraint. The
		// message would tell too, but in the server's language.
		if err.ConstraintName == "" {
			return NoPartition
		}
		return Data
	case serialization, deadlock, lockNotAvail:
		return Retry
	}
	if len(err.Code) != 5 {
		return Unknown
	}
	switch err.Code[:2] {
	case "22":
		return Data
	case "08", "53", "57":
		return Unavailable
	}
	return Unknown
}

// Unstorable says that a value is no text or time that the database can hold: a NUL character, bytes that are not UTF-8, an
// instant out of its range. Whoever sent it is at fault, and not we.
func Unstorable(err error) bool {
	switch sqlState(err) {
	case badEncoding, badEscape, timeOutOfRange:
		return true
	}
	return false
}

// sqlState is the code of a server's error, or empty.
func sqlState(err error) string {
	if server, ok := errors.AsType[*pgconn.PgError](err); ok {
		return server.Code
	}
	return ""
}
