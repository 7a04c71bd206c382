package stack

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// Root is the root of the repository.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			t.Fatal("no go.work above the test")
		}
		dir = above
	}
}

// Secrets runs deploy/secrets on a file of the test's own and returns what it holds.
func Secrets(t testing.TB, file string, arguments ...string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(Root(t), "deploy", "secrets"), arguments...)
	cmd.Env = append(os.Environ(), "PICKET_ENV_FILE="+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("deploy/secrets: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if _, twice := values[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		values[name] = value
	}
	return values
}

// Load loads deploy/compose.yaml as docker compose would with the given .env and nothing else of the environment.
func Load(root, envFile string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "deploy", "compose.yaml")},
		cli.WithEnvFiles(envFile), cli.WithDotEnv, cli.WithProfiles([]string{"*"}))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

// Own returns which of our programs a service runs, if any.
func Own(service types.ServiceConfig) (program string, ok bool) {
	if service.Build == nil || service.Build.Args["SERVICE"] == nil {
		return "", false
	}
	return *service.Build.Args["SERVICE"], true
}

// importPath is where the program of a service of ours is.
func importPath(program string) string {
	if program == "demo" {
		return "github.com/picketd/picket/deploy/demo"
	}
	return "github.com/picketd/picket/services/" + program + "/cmd/" + program
}

// OneShot reports whether somebody waits for the end of a service.
func OneShot(project *types.Project, name string) bool {
	for _, service := range project.Services {
		if service.DependsOn[name].Condition == types.ServiceConditionCompletedSuccessfully {
			return true
		}
	}
	return false
}

// Order puts every service behind those that it waits for.
func Order(project *types.Project) ([]string, error) {
	var order []string
	left := slices.Sorted(maps.Keys(project.Services))
	for len(left) > 0 {
		before := len(left)
		left = slices.DeleteFunc(left, func(name string) bool {
			for other := range project.Services[name].DependsOn {
				if !slices.Contains(order, other) {
					return false
				}
			}
			order = append(order, name)
			return true
		})
		if len(left) == before {
			return nil, fmt.Errorf("services wait for each other: %v", left)
		}
	}
	return order, nil
}
