// Package exporter turns work items into artifacts: rows in one snapshot, streamed in the format asked for into the blob
// store. It knows NATS, the database and the blob store.
package exporter
