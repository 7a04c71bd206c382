// Package blobtest gives tests a real S3 server: versitygw, which checks signatures, as a process of its own on loopback
// with credentials and a bucket that nobody else has.
//
// May enter: the program, built by `make .bin/versitygw`. May leave: settings for [blob.Open]. Only tests import it.
package blobtest
