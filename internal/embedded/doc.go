// Package embedded runs the two servers Picket stands on, NATS and PostgreSQL, as private parts of one program: for
// `picket up`, where nothing else has to be installed or configured, and for tests, which talk to real servers.
//
// NATS runs inside the process. PostgreSQL runs as a child in a process group of its own, reachable only through a unix
// socket in a directory of its user; it survives an interrupt typed at the terminal until [Postgres.Stop] is called, and
// one that outlived a killed parent is stopped and started again. A directory belongs to one process at a time
// ([LockDir]).
//
// May enter: nats-server, the operating system. May leave: addresses and connection strings. Schemas, streams and clients
// are other rooms' business; no other room starts a server.
package embedded
