// Package client is a client of the API, generated from its own document. What it needs besides is an editor that sets the
// header Authorization. Nothing in here is written by hand but this comment, the settings and the generator.
package client

//go:generate go run generate.go
//go:generate oapi-codegen -config oapi.yaml openapi.json
