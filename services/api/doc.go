// Package api answers people: everything under /api/v1/fleet. It reads the database, writes what people change, and asks
// the other services over NATS.
package api
