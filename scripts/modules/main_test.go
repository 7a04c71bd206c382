package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The program finds each kind of fault in a small repository, cures all, and then finds none.
func TestRun(t *testing.T) {
	t.Setenv("GOWORK", "")
	t.Setenv("GOFLAGS", "-mod=mod")
	root := t.TempDir()
	for name, content := range map[string]string{
		"go.work":           "go 1.26.0\n\nuse .\n",
		"go.mod":            "module example.org/x\n\ngo 1.26.0\n\nrequire example.org/x/a v0.0.0\n\nreplace example.org/x/a => ./wrong\n",
		"a/go.mod":          "module example.org/x/a\n\ngo 1.26.0\n\nrequire example.org/x/b v0.0.0\n\nreplace example.org/x/b => ../b\n",
		"b/go.mod":          "module example.org/x/b\n\ngo 1.25.0\n\nreplace example.org/x/a => ../a\n",
		"tools/go.mod":      "module example.org/tools\n\ngo 1.24.0\n",
		"b/testdata/go.mod": "not even a module\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := run(t.Context(), root, false)
	if err == nil {
		t.Fatal("nothing found")
	}
	for _, want := range []string{
		"a/go.mod is not in go.work",
		"b/go.mod is not in go.work",
		"b/go.mod says go 1.25.0 and go.work go 1.26.0",
		"b/go.mod replaces example.org/x/a and does not reach it",
		"go.mod must replace example.org/x/a by ./a",
		"go.mod must replace example.org/x/b by ./b",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 6 {
		t.Errorf("%d faults, want 6:\n%v", n, err)
	}
	if err := run(t.Context(), root, true); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), root, false); err != nil {
		t.Errorf("after the cure: %v", err)
	}
}
