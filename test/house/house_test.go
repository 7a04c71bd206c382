// Package house_test holds the house to its plan: which module and package may know which. What concerns one file's
// imports the linter checks (.golangci.yml); here is what needs the whole picture. It asks the go command and reads
// nothing else.
package house_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const root = "github.com/picketd/picket"

// command runs a program at the root of the repository.
func command(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, arguments...)
	cmd.Dir = filepath.Join("..", "..")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, stderr.String())
	}
	return string(out)
}

// packages are all of ours, as `go list` knows them.
var packages = sync.OnceValues(func() ([]listed, error) {
	cmd := exec.Command("go", "list", "-json=Dir,ImportPath,Name,Imports,TestImports,XTestImports,TestGoFiles,XTestGoFiles", "work")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var one listed
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
})

type listed struct {
	Dir, ImportPath, Name              string
	Imports, TestImports, XTestImports []string
	TestGoFiles, XTestGoFiles          []string
}

func list(t *testing.T) []listed {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

// within reports whether an import path is a package or below it.
func within(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

// service is the name of the service a package belongs to, if any.
func service(path string) string {
	rest, ok := strings.CutPrefix(path, root+"/services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// Every go.mod is in go.work, agrees on the Go version and replaces all that it reaches.
func TestModules(t *testing.T) {
	t.Parallel()
	command(t, "go", "run", "./scripts/modules")
}

// Data flows one way: services know the shared rooms and the contract, not each other; shared rooms know no service; the
// contract knows nobody.
func TestWhoMayImportWhom(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if !within(imported, root) {
				continue
			}
			switch own := service(p.ImportPath); {
			case own != "":
				if other := service(imported); other != "" && other != own {
					t.Errorf("service %s imports service %s: %s → %s", own, other, p.ImportPath, imported)
				}
			case within(p.ImportPath, root+"/internal"):
				if !within(imported, root+"/internal") && !within(imported, root+"/proto") {
					t.Errorf("a shared room imports what is above it: %s → %s", p.ImportPath, imported)
				}
			case within(p.ImportPath, root+"/proto"):
				if !within(imported, root+"/proto") {
					t.Errorf("the contract imports an implementation: %s → %s", p.ImportPath, imported)
				}
			}
		}
	}
}

// What a program links it can use, so a wall is complete only when no way at all leads through it.
func TestWhatIsLinked(t *testing.T) {
	t.Parallel()
	const (
		pgx    = "github.com/jackc/pgx/v5"
		goose  = "github.com/pressly/goose/v3"
		minio  = "github.com/minio/minio-go/v7"
		nats   = "github.com/nats-io/nats.go"
		server = "github.com/nats-io/nats-server/v2"
		http   = "net/http"
	)
	walls := map[string][]string{
		// Ticker services know NATS and the network, never the database; no service brings its own NATS server.
		"services/prober/...":    {pgx, goose, minio, server},
		"services/collector/...": {pgx, goose, minio, server},
		"services/catalog/...":   {minio, server},
		"services/writer/...":    {minio, server},
		"services/alerter/...":   {minio, server},
		// The engine of the ticker services knows less than they do.
		"internal/ticker/...": {pgx, goose, minio, server, root + "/internal/store", root + "/internal/blob"},
		// Pure rooms.
		"internal/health/...":           {pgx, minio, nats, server, root + "/internal/bus", root + "/internal/store"},
		"internal/metric/...":           {pgx, minio, nats, server, http, root + "/internal/bus", root + "/internal/store"},
		"internal/credential/...":       {pgx, minio, nats, server, root + "/internal/bus", root + "/internal/store"},
		"services/collector/scrape/...": {pgx, minio, nats, server, root + "/internal/bus", root + "/internal/store"},
		"internal/tick/...":             {pgx, minio, nats, server, http, root + "/internal/bus", root + "/internal/store"},
		"services/alerter/fold/...":     {pgx, minio, nats, server, http, root + "/internal/bus", root + "/internal/store"},
		// Neighbours that must not know each other.
		"internal/bus/...":   {pgx, goose, minio, server, root + "/internal/store"},
		"internal/store/...": {nats, minio, server, root + "/internal/bus"},
	}
	for pattern, forbidden := range walls {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel()
			// storetest is for tests, and no program imports it; so it may know test servers.
			var targets []string
			for name := range strings.FieldsSeq(command(t, "go", "list", root+"/"+pattern)) {
				if !strings.HasSuffix(name, "test") {
					targets = append(targets, name)
				}
			}
			if len(targets) == 0 {
				t.Fatal("no packages: the wall guards nothing")
			}
			for dependency := range strings.FieldsSeq(command(t, "go", append([]string{"list", "-deps"}, targets...)...)) {
				for _, not := range forbidden {
					if within(dependency, not) {
						t.Errorf("links %s", dependency)
						break
					}
				}
			}
		})
	}
}

// A package is named for what it offers. These names offer anything, and so attract it.
func TestNames(t *testing.T) {
	t.Parallel()
	banned := []string{"util", "utils", "common", "helper", "helpers", "model", "models", "type", "types", "pkg", "misc", "base"}
	for _, p := range list(t) {
		for element := range strings.SplitSeq(strings.TrimPrefix(p.ImportPath, root), "/") {
			if slices.Contains(banned, element) || slices.Contains(banned, p.Name) {
				t.Errorf("package %s (%s) has a name that says nothing", p.ImportPath, p.Name)
				break
			}
		}
	}
}

// A test that sleeps is slow or wrong, on some machine both. Within testing/synctest sleeping is how time goes on.
func TestTestsDoNotSleep(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "time.Sleep"+"(") && !strings.Contains(string(text), `"testing/synctest"`) {
				t.Errorf("%s sleeps", filepath.Join(p.ImportPath, name))
			}
		}
	}
}
