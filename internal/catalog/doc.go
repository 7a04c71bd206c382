// Package catalog is what Picket knows about the things it watches: servers, their checks and when those are due. It
// reads them from YAML ([Parse]) and from the environment ([FromEnviron]), completes and validates them with all faults
// at once, plans the way from what the database holds to what a source declares ([Diff]), and gives them the form in
// which they travel ([Server.Proto], [Check.Scheduled]).
//
// May enter: bytes of a file, variables of the environment, servers made by other rooms. May leave: valid servers,
// faults with the place where each is, plans, wire messages. Nothing here does I/O, knows NATS or SQL, or looks at a
// clock.
package catalog
