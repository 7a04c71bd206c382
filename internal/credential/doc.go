// Package credential makes what a check presents to its target, and by what it knows it: headers with the secrets that
// they refer to, the bearer token of a server, TLS options.
//
// The room reads variables that begin with PICKET_SECRET_, files below one directory, and the files that TLS options
// name; it opens no connection. What enters are declarations of the catalog; what leaves are values for requests, and
// errors that hold no secret.
package credential
