// Package deploy_test holds deploy/ to what it promises, without a container engine: the compose file is loaded by the
// library that docker compose is made of; the NATS server runs with the very file that is deployed, and every user is
// tried on every family of subjects; rules and dashboards are checked against the names that the services register and
// the tables that the migrations make; and the whole stack runs as plain processes from its own files.
package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/test/deploy/stack"
	"github.com/picketd/picket/test/programs"
)

// patience bounds every wait; nothing waits that long when all is well.
const patience = 2 * time.Minute

// root is the root of the repository.
var root = filepath.Join("..", "..")

func TestMain(m *testing.M) {
	var err error
	if builds, err = programs.NewRun(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := embeddedtest.Run(m)
	if err := builds.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// builds has the programs that tests run, each built when the first test wants it.
var builds *programs.Run

// program builds a command of this workspace, as the tests are built, or the NATS server, and returns the path of it.
func program(t *testing.T, importPath string) string {
	t.Helper()
	kind := programs.LikeTests()
	if importPath == stack.NATSServer {
		kind = programs.Plain()
	}
	dir, err := builds.Build(t.Context(), kind, importPath)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, programs.Name(importPath))
}

// natsServer is the server as its own project builds it, in the version that the services are tested with.
func natsServer(t *testing.T) string {
	t.Helper()
	return program(t, stack.NATSServer)
}

// serviceProgram is one of our services.
func serviceProgram(t *testing.T, name string) string {
	t.Helper()
	return program(t, "github.com/picketd/picket/services/"+name+"/cmd/"+name)
}

// eventually asks until the answer is good, and fails the test with the last bad one after patience.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		<-ticker.C
	}
}
