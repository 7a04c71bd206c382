// Package embeddedtest gives tests real servers: a NATS server and a database per test, and a wire between a client and
// a server that can be broken on purpose.
//
// The PostgreSQL server is one per test process, started by the first test that asks and stopped by [Main]:
//
//	func TestMain(m *testing.M) { embeddedtest.Main(m) }
//
// May enter: the servers of internal/embedded, and pgx to make databases. May leave: addresses. Only tests import it.
package embeddedtest
