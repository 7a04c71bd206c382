// Package programs builds the commands that tests run as processes. Linking all of Picket's takes half a minute of a
// processor with the race detector, so the programs stay in .bin/programs, where go build sees that one is up to date:
// after a change they are linked once, for all packages of tests and for the next run.
//
// May enter: import paths and flags of go build. May leave: a directory that belongs to one run of one package's tests.
// Only tests import it.
package programs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// staleAfter is the age of a directory whose tests were killed: none runs that long.
const staleAfter = 24 * time.Hour

// A Run is the programs of one run of one package's tests.
type Run struct {
	// Dir is where they are, in one directory each kind.
	Dir string

	kept string // where they stay

	mu    sync.Mutex
	built map[string]bool // by path
}

// NewRun makes the directory of a run; Close removes it.
//
// It also tells go test that the result depends on every file of the workspace: programs are built by a process of their
// own, so without that a change of a service would leave an old result of these tests in the cache.
func NewRun() (*Run, error) {
	root, err := workspace()
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(root, ".bin", "programs")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return nil, fmt.Errorf("make room for programs: %w", err)
	}
	if err := sweep(kept); err != nil {
		return nil, fmt.Errorf("sweep programs: %w", err)
	}
	dir, err := os.MkdirTemp(kept, "run-")
	if err != nil {
		return nil, fmt.Errorf("make room for programs: %w", err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), dependOn(root)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Run{Dir: dir, kept: kept, built: map[string]bool{}}, nil
}

// Close removes the programs of this run.
func (r *Run) Close() error { return os.RemoveAll(r.Dir) }

// Kind is a way to build: flags of go build, and the name of a directory, which says the same flags everywhere.
type Kind struct {
	Name  string
	Flags []string
}

// Plain is a program as it is shipped.
func Plain() Kind { return Kind{Name: "plain"} }

// Build builds commands, each once in a run, and returns the directory with the programs, which are called as go build calls
// them, see [Name]. Safe for concurrent use, also by other processes.
func (r *Run) Build(ctx context.Context, kind Kind, commands ...string) (dir string, err error) {
	dir, kept := filepath.Join(r.Dir, kind.Name), filepath.Join(r.kept, kind.Name)
	r.mu.Lock()
	defer r.mu.Unlock()
	commands = slices.DeleteFunc(slices.Clone(commands), func(command string) bool { return r.built[filepath.Join(dir, Name(command))] })
	if len(commands) == 0 {
		return dir, nil
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(kept, 0o755)); err != nil {
		return "", fmt.Errorf("make room for programs: %w", err)
	}
	lock, err := os.Create(filepath.Join(r.kept, kind.Name+".lock"))
	if err != nil {
		return "", fmt.Errorf("lock programs: %w", err)
	}
	defer lock.Close() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock programs: %w", err)
	}
	// Without DWARF, which neither a panic nor the race detector needs.
	args := append([]string{"build", "-ldflags=-w", "-o", kept + string(filepath.Separator)}, kind.Flags...)
	if out, err := exec.CommandContext(ctx, "go", append(args, commands...)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", strings.Join(commands, " "), err, out)
	}
	for _, command := range commands {
		name := Name(command)
		path := filepath.Join(dir, name)
		// go build makes a new file in the place of the old one, so a link keeps what this run began with.
		if err := os.Link(filepath.Join(kept, name), path); err != nil {
			return "", fmt.Errorf("take %s: %w", name, err)
		}
		r.built[path] = true
	}
	return dir, nil
}

// Name is what go build calls the program of a command.
func Name(command string) string {
	name := path.Base(command)
	if version, ok := strings.CutPrefix(name, "v"); ok && version != "" && strings.Trim(version, "0123456789") == "" {
		return path.Base(path.Dir(command))
	}
	return name
}

// workspace is the directory of go.work above us.
func workspace() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.work in this directory or above")
}

// dependOn opens each directory of the sources: go test notes that and asks, before it gives an old result, whether any
// file in them has changed.
func dependOn(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // somebody's temporary file
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "bin"):
			return fs.SkipDir
		}
		return nil
	})
}

// sweep removes what runs left that were killed.
func sweep(kept string) error {
	runs, err := filepath.Glob(filepath.Join(kept, "run-*"))
	if err != nil {
		return err
	}
	for _, run := range runs {
		info, err := os.Stat(run)
		if err == nil && time.Since(info.ModTime()) > staleAfter {
			err = os.RemoveAll(run)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
