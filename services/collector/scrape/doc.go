// Package scrape reads what servers show of themselves: the JSON of the source system, and expositions of Prometheus
// and OpenMetrics.
//
// The room is pure. What enters are the bytes of one answer, already bounded; what leaves are figures or series, and
// errors that say in which line what is wrong. Everything that it holds is bounded by the length of the answer and by
// the limits named here, whatever the answer says.
package scrape
