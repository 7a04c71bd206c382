package system_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

func deployments() map[string]func(*testing.T, []string, string) deployment {
	all := map[string]func(*testing.T, []string, string) deployment{"one process": oneProcess}
	for name, deploy := range separate() {
		all[name] = func(t *testing.T, env []string, dir string) deployment { return deploy(t, env, dir) }
	}
	return all
}

// separate are the deployments of a process for each service.
func separate() map[string]func(*testing.T, []string, string) *many {
	return map[string]func(*testing.T, []string, string) *many{
		"many processes": manyProcesses,
		"stack":          onStack,
	}
}

// manyOnPostgres is many processes on a database that can be broken.
func manyOnPostgres(t *testing.T, env []string, dir string) *many {
	return newMany(&many{t: t, dir: dir, shared: embeddedtest.NATS(t), postgres: startPostgres(t, filepath.Join(dir, "database")), env: env})
}

// breakable are the deployments whose servers the test can break. The stack takes as long again and is among them when
// PICKET_DEPLOYMENTS is all.
func breakable() map[string]func(*testing.T, []string, string) deployment {
	all := map[string]func(*testing.T, []string, string) deployment{
		"one process": func(t *testing.T, env []string, dir string) deployment {
			return oneProcessOn(t, newNATSServer(t), env, dir)
		},
		"many processes": func(t *testing.T, env []string, dir string) deployment {
			return newMany(&many{t: t, dir: dir, server: newNATSServer(t), postgres: startPostgres(t, filepath.Join(dir, "database")), env: env})
		},
	}
	if os.Getenv("PICKET_DEPLOYMENTS") == "all" {
		all["stack"] = func(t *testing.T, env []string, dir string) deployment { return onStack(t, env, dir) }
	}
	return all
}
