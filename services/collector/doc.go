// Package collector fetches the figures of servers, and of the platform itself, and publishes them onto the metric stream.
// It knows NATS and the network; the database it never sees.
package collector
