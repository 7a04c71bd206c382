// Command modules holds the modules of this workspace together. It checks that every go.mod outside tools/ is listed in
// go.work, that all agree on the Go version, and that each replaces every module of this repository that it reaches, also
// through others: only then does it build without the workspace, because Go honours the replacements of the main module
// alone. With -fix it writes what is missing.
//
// It may read go.work and the go.mod files; it writes them only through the go command.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	fix := flag.Bool("fix", false, "write what is missing")
	flag.Parse()
	ctx := context.Background()
	root, err := output(ctx, ".", "go", "env", "GOWORK")
	if err == nil {
		err = run(ctx, filepath.Dir(strings.TrimSpace(string(root))), *fix)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "modules:", err)
		os.Exit(1)
	}
}

// module is what `go mod edit -json` and `go work edit -json` print, as far as it matters here.
type module struct {
	Dir     string `json:"-"` // relative to the root
	Module  struct{ Path string }
	Go      string
	Require []struct{ Path string }
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
	Use []struct{ DiskPath string } // of go.work
}

// A fault is something to be repaired, and the command that does it.
type fault struct {
	text string
	dir  string
	cure []string
}

func run(ctx context.Context, root string, fix bool) error {
	faults, err := inspect(ctx, root)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range faults {
		if !fix {
			errs = append(errs, errors.New(f.text))
			continue
		}
		fmt.Println("fixing:", f.text)
		if _, err := output(ctx, filepath.Join(root, f.dir), f.cure...); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func inspect(ctx context.Context, root string) ([]fault, error) {
	var work module
	if err := decode(ctx, root, &work, "go", "work", "edit", "-json"); err != nil {
		return nil, err
	}
	modules, err := find(ctx, root)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, use := range work.Use {
		used[filepath.Clean(use.DiskPath)] = true
	}
	var faults []fault
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		m := modules[path]
		file := filepath.Join(m.Dir, "go.mod")
		if !used[m.Dir] {
			faults = append(faults, fault{file + " is not in go.work", ".", []string{"go", "work", "use", "./" + m.Dir}})
		}
		if m.Go != work.Go {
			faults = append(faults, fault{
				fmt.Sprintf("%s says go %s and go.work go %s", file, m.Go, work.Go),
				m.Dir,
				[]string{"go", "mod", "edit", "-go=" + work.Go},
			})
		}
		faults = append(faults, replacements(modules, m)...)
	}
	return faults, nil
}

// replacements compares a module's replace block with what it reaches.
func replacements(modules map[string]*module, m *module) []fault {
	file := filepath.Join(m.Dir, "go.mod")
	want := map[string]string{}
	for path := range reached(modules, m) {
		// Both are relative to the root: there is always a way from one to the other.
		to, _ := filepath.Rel(m.Dir, modules[path].Dir)
		if !strings.HasPrefix(to, ".") {
			to = "./" + to
		}
		want[path] = to
	}
	var faults []fault
	have := map[string]string{}
	for _, replace := range m.Replace {
		if modules[replace.Old.Path] == nil {
			continue
		}
		have[replace.Old.Path] = replace.New.Path
		if _, ok := want[replace.Old.Path]; !ok {
			faults = append(faults, fault{
				fmt.Sprintf("%s replaces %s and does not reach it", file, replace.Old.Path),
				m.Dir,
				[]string{"go", "mod", "edit", "-dropreplace=" + replace.Old.Path},
			})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if have[path] != want[path] {
			faults = append(faults, fault{
				fmt.Sprintf("%s must replace %s by %s", file, path, want[path]),
				m.Dir,
				[]string{"go", "mod", "edit", "-replace=" + path + "=" + want[path]},
			})
		}
	}
	return faults
}

// reached are the modules of this repository that m requires, also through others.
func reached(modules map[string]*module, m *module) map[string]bool {
	seen := map[string]bool{}
	var visit func(*module)
	visit = func(from *module) {
		for _, require := range from.Require {
			if next := modules[require.Path]; next != nil && !seen[require.Path] {
				seen[require.Path] = true
				visit(next)
			}
		}
	}
	visit(m)
	delete(seen, m.Module.Path)
	return seen
}

// find reads every go.mod below root but the tools', by module path.
func find(ctx context.Context, root string) (map[string]*module, error) {
	modules := map[string]*module{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			hidden := strings.HasPrefix(entry.Name(), ".") && rel != "."
			if hidden || rel == "tools" || entry.Name() == "testdata" || entry.Name() == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.Name() != "go.mod" {
			return nil
		}
		m := &module{Dir: filepath.Dir(rel)}
		if err := decode(ctx, filepath.Dir(path), m, "go", "mod", "edit", "-json"); err != nil {
			return err
		}
		modules[m.Module.Path] = m
		return nil
	})
	return modules, err
}

func decode(ctx context.Context, dir string, into any, command ...string) error {
	text, err := output(ctx, dir, command...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s in %s: %w", strings.Join(command, " "), dir, err)
	}
	return nil
}

func output(ctx context.Context, dir string, command ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w: %s", strings.Join(command, " "), dir, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return text, nil
}
