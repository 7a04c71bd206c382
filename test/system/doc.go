// Package system tests Picket from outside: the programs that people run, as
// processes, on real NATS and real PostgreSQL, with targets that answer, break
// and lie. Each scenario is written once and run in every deployment: one
// process (`picket up`), one process per service, and the stack of deploy/, whose
// processes run by the very files of it, permissions included.
//
// May enter: programs, wires, clocks. May leave: verdicts. Nothing here knows
// the inside of a service; what is asked of the database is what an operator would ask.
package system
