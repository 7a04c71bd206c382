//go:build ignore

// Writes openapi.json, in version 3.0, which the generator of the client reads.
package main

import (
	"fmt"
	"os"

	"github.com/picketd/picket/services/api"
)

func main() {
	document, err := api.Document()
	if err == nil {
		err = os.WriteFile("openapi.json", document, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
