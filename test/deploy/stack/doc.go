// Package stack is deploy/compose.yaml as programs of this machine, for tests: what the file says of a service becomes a
// command with its arguments, its environment and the files that are mounted. Only places differ: host names and ports
// become ports of loopback, paths in containers become the paths that are mounted there, and the images of others become
// their programs: the NATS server, PostgreSQL and, where it is installed, the S3 server.
//
// May enter: deploy/. May leave: commands. Who runs them, in which order, and what is broken is the tests' own.
package stack
