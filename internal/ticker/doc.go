// Package ticker is the engine of a service that runs checks on time: it follows
// the catalog, shares the checks of a location with its replicas, releases their
// ticks, and publishes what comes of them.
//
// Scheduled checks and the heartbeats of the replicas come in; results, missed
// markers and this process's own heartbeats go out. How a check is run is the
// service's business: it gives a function that makes a Runner of each. The room
// knows NATS, never a target and never the database; when a tick is due and who
// owns it is package tick's.
//
//   - options.go is what a service says and gives.
//   - ticker.go wires the parts and stops them in order.
//   - catalog.go follows the checks of the location.
//   - loop.go turns the timer wheel; its heartbeat says that the wheel turns.
//   - scheduler.go decides about every tick exactly once: run, or missed.
//   - ownership.go follows the replicas and takes checks over.
//   - gifts.go explains what others who had its checks, or have them, left undone.
//   - skip.go leaves servers alone, and makes up for it.
//   - ready.go orders what is due and bounds what is in flight.
//   - pool.go keeps the goroutines that run checks.
//   - report.go makes results and markers of outcomes, settle.go knows which are
//     safe in the stream, statistics.go counts them, cycle.go tells of them.
//   - ondemand.go runs what somebody asks for now.
package ticker
