package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/service"
)

//go:generate go test -run ^TestConfigurationPage$ . -update-page

var updatePage = flag.Bool("update-page", false, "write the table of docs/configuration.md anew")

// The table of settings in docs/configuration.md is what `picket config print -o markdown` prints.
func TestConfigurationPage(t *testing.T) {
	const begin, end = "<!-- settings: written by `make gen` -->\n", "<!-- settings: end -->"
	path := filepath.Join("..", "..", "docs", "configuration.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	table, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s does not say where its table begins and ends", path)
	}
	defaults := defaultSettings()
	want := settingsTable(service.Describe(&defaults))
	if *updatePage {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("%s is stale, `make gen` writes it anew (-code +page):\n%s", path, diff)
	}
}
