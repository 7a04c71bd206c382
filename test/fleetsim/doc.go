// Package fleetsim plays a fleet of servers on the loopback device: any number of them, each with an address of its own
// below 127.0.0.0/8, healthy, degraded, critical, hanging, resetting, flipping between two of these, or hostile in one
// of many ways (see [Hostile]). It writes down what each received and when, so that a test can hold what a prober says against what really arrived.
//
// The fleet must cost little beside the prober that is measured with it, so the answering side is not net/http but a
// loop that reads a request, finds its end and writes a prepared answer.
//
// May enter: HTTP/1.1 from this machine. May leave: health bodies and figures as the two systems that Picket replaces send them, and
// reports. Only tests and measurements use it.
package fleetsim
