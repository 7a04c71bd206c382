// Package deploy_test holds deploy/ to what it promises, without a container engine: the compose file is loaded by the
// library that docker compose is made of; the NATS server runs with the very file that is deployed, and every user is
// tried on every family of subjects; rules and dashboards are checked against the names that the services register and
// the tables that the migrations make; and the whole stack runs as plain processes from its own files.
package deploy_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/test/deploy/stack"
)

// patience bounds every wait; nothing waits that long when all is well.
const patience = 2 * time.Minute

// root is the root of the repository.
var root = filepath.Join("..", "..")

func TestMain(m *testing.M) {
	code := embeddedtest.Run(m)
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir) // a temporary directory
	}
	os.Exit(code)
}

// programs are built when the first test wants one, and once.
var programs struct {
	mu    sync.Mutex
	dir   string
	built map[string]error
}

// program builds a command of this workspace, or of a module that it requires, and returns the path of it.
func program(t *testing.T, importPath string) string {
	t.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "pkt-deploy-programs-") //nolint:usetesting // it outlives the test that is first
		if err != nil {
			t.Fatal(err)
		}
		programs.dir, programs.built = dir, map[string]error{}
	}
	path := filepath.Join(programs.dir, filepath.Base(importPath))
	if strings.HasSuffix(importPath, "/v2") {
		path = filepath.Join(programs.dir, filepath.Base(filepath.Dir(importPath)))
	}
	err, done := programs.built[importPath]
	if !done {
		out, buildErr := exec.CommandContext(context.Background(), "go", "build", "-o", path, importPath).CombinedOutput()
		if buildErr != nil {
			err = fmt.Errorf("build %s: %w\n%s", importPath, buildErr, out)
		}
		programs.built[importPath] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
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
