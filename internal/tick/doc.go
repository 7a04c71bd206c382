// Package tick says when a check is due and who runs it: the schedule formula,
// the clock that all replicas share, the timer wheel, and membership and
// ownership. The prober and the collector release their ticks by it; the store's
// coverage and the audits count due ticks by the very same functions.
//
// The package is pure. Nothing in it does I/O, starts a goroutine, keeps a
// global or reads a clock by itself: time enters as a value or through a
// function given to a constructor. Instants are integer milliseconds since the
// Unix epoch, by the clock of the NATS server (see [Clock]); time spans that
// decide who is alive are readings of the local monotonic clock, because those
// cannot step.
package tick
