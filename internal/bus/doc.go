// Package bus is Picket's way onto NATS and the only room that imports its client.
// Messages of picket.v1 enter and leave; nobody else knows a subject, a stream, a
// bucket, a header or an acknowledgement.
//
//   - subject.go builds and parses every subject.
//   - stream.go names the streams and creates them.
//   - message.go, publisher.go and flight.go send: one message with its acknowledgement, or a
//     FIFO that keeps order and loses nothing while the server is away.
//   - consume.go and follow.go receive: a shared durable with acknowledgement after
//     commit, or the whole stream in order.
//   - request.go asks a service to run something now, and serves that.
//   - bucket.go is the key-value form of the catalog and of the servers' states, worker.go the heartbeats.
package bus
