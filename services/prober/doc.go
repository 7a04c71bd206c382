// Package prober looks at the servers of one location: checks of the kinds http
// and tcp.
//
// It knows NATS and the network, never the database. When a check is run, who
// runs it and what becomes of the result is package ticker's business; how a
// target is looked at is package probe's. What is here compiles a scheduled check
// for the one into a Runner for the other, and resolves the secrets it refers to.
package prober
