// Package prober runs the checks of one location: it releases their ticks on
// time, looks at the targets and publishes what it saw.
//
// It knows NATS and the network, never the database. Scheduled checks and the
// heartbeats of its replicas come in, results, missed markers and its own
// heartbeats go out; how a target is looked at is package probe's business, and
// when a tick is due and who owns it is package tick's.
//
//   - prober.go wires the parts and stops them in order.
//   - loop.go turns the timer wheel; its heartbeat says that the wheel turns.
//   - scheduler.go decides about every tick exactly once: run, or missed.
//   - ownership.go follows the replicas and takes checks over.
//   - ready.go orders what is due and bounds what is in flight.
//   - pool.go keeps the goroutines that probe.
//   - report.go makes results and markers of outcomes.
package prober
