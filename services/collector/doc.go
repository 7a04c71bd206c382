// Package collector fetches the figures of the servers of one location and publishes them, and those of Picket's own
// streams, onto the metric stream.
//
// It knows NATS and the network, never the database. Scheduled checks of the kind metrics and the states of servers come
// in; batches of figures, the results of those checks and the ticker's own messages go out. When a check is due and who
// owns it is package ticker's business, what an answer says package scrape's, and what figures are made of it package
// metric's.
//
//   - collector.go wires the parts.
//   - collection.go collects from one server: request, reading, verdict.
//   - fetch.go asks a server over HTTP, within bounds.
//   - states.go follows the states of servers, so that those that are down are left alone.
//   - platform.go looks at the streams.
package collector
