// Package catalog is the service that decides what is watched. It alone reads the environment and picket.yaml, writes
// the catalog into the database, and from there brings it to everybody else: whole servers as CatalogChange events, and
// what each prober runs as entries of the bucket picket_catalog. An event goes out before the entries of its server, so
// that the fold knows a check before its first result.
//
// May enter: declarations, the database's notifications, the state of the stream and of the bucket. May leave: rows,
// events, entries. Every replica reads its sources; one of them, by a lease of the database, acts. Everything is a
// comparison of what should be with what is there, so that it may be repeated at any time and stops when both agree.
package catalog
