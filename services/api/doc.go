// Package api answers people: everything under /api/v1/fleet, as described by its own /openapi.json.
//
// May enter: HTTP requests with a token, rows of the database, answers of other services over NATS. May leave: rows that
// people change (catalog, tokens, exports to be made, the record of all that), commands and requests on NATS. It never
// talks to a target and never writes what only the alerter and the writer may.
//
// A resource is a file with a function registerX that calls route for each of its operations; registrations lists them.
package api
