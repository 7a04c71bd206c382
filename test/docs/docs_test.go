// Package docs_test holds the documentation to the code: what a page lists is what the code has, what it names exists,
// and what it shows as an example is what would travel. It reads files and parses sources; it runs nothing.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// root is the root of the repository.
var root = filepath.Join("..", "..")

// read returns a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is what a page says below a heading, up to the next one of the same or a higher level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	level := strings.IndexByte(heading, ' ')
	var found []string
	inside, fenced := false, false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if depth := strings.IndexByte(line, ' '); !fenced && depth > 0 && strings.Trim(line[:depth], "#") == "" {
			switch {
			case strings.TrimSpace(line) == heading:
				inside = true
				continue
			case depth <= level:
				inside = false
			}
		}
		if inside {
			found = append(found, line)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no section %q", heading)
	}
	return strings.Join(found, "")
}

// rows are the cells of the tables of a section, without the heads.
func rows(text string) [][]string {
	var all [][]string
	body := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			body = false
			continue
		}
		if strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "|:") {
			body = true
			continue
		}
		if !body {
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), " | ") {
			cells = append(cells, strings.TrimSpace(strings.ReplaceAll(cell, `\|`, "|")))
		}
		all = append(all, cells)
	}
	return all
}

var code = regexp.MustCompile("`([^`]+)`")

// quoted are the words between backticks.
func quoted(text string) []string {
	var words []string
	for _, match := range code.FindAllStringSubmatch(text, -1) {
		words = append(words, match[1])
	}
	return words
}

// same reports what one list has and the other has not.
func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), slices.Compact(got)); diff != "" {
		t.Errorf("%s (-code +page):\n%s", what, diff)
	}
}

// sources parses the Go files of a directory: the tests, or all others.
func sources(t *testing.T, dir string, tests bool) []*ast.File {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, entry := range entries {
		name := entry.Name()
		if filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") != tests {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

// pages are all Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && (strings.HasPrefix(name, ".") && name != ".." || name == "bin" || name == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(name) == ".md" {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("only %d pages found", len(found))
	}
	return found
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Every link within the repository leads somewhere, to the heading that it names too.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(withoutFences(string(text)), -1) {
			target, err := url.Parse(match[1])
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if target.IsAbs() {
				continue
			}
			to := page
			if target.Path != "" {
				to = filepath.Join(filepath.Dir(page), target.Path)
			}
			info, err := os.Stat(to)
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if target.Fragment == "" || info.IsDir() || filepath.Ext(to) != ".md" {
				continue
			}
			if there, err := os.ReadFile(to); err != nil || !slices.Contains(anchors(string(there)), target.Fragment) {
				t.Errorf("%s: %s has no heading #%s", page, to, target.Fragment)
			}
		}
	}
}

// withoutFences leaves out what stands in code blocks.
func withoutFences(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced {
			b.WriteString(line)
		}
	}
	return b.String()
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)

// anchors are the names of a page's headings, as code hosts make them.
func anchors(text string) []string {
	var names []string
	for line := range strings.Lines(withoutFences(text)) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			name := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			names = append(names, strings.ReplaceAll(name, " ", "-"))
		}
	}
	return names
}

// The list of decisions has them all.
func TestDecisionsAreListed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root, "docs", "adr", "[0-9]*.md"))
	if err != nil {
		t.Fatal(err)
	}
	index := read(t, "docs/adr/README.md")
	for _, file := range files {
		name := filepath.Base(file)
		if !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/adr/README.md does not list %s", name)
		}
		text := read(t, filepath.Join("docs", "adr", name))
		for _, part := range []string{"- Status: ", "## Why", "## Decision", "## What follows"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s has no %q", name, part)
			}
		}
	}
	if len(files) < 5 {
		t.Errorf("only %d decisions found", len(files))
	}
}

// pathLike is what a page may call by its path: a file or folder of ours. What begins with a dot or holds a placeholder is
// not looked for.
var pathLike = regexp.MustCompile(`^(cmd|docs|internal|proto|scripts|services|test|tools)/[A-Za-z0-9_./-]*$`)

// What a page calls by its path is there. The pages on how to add something also name what is to be added.
func TestPathsExist(t *testing.T) {
	t.Parallel()
	named := 0
	for _, page := range pages(t) {
		if strings.HasPrefix(filepath.Base(page), "add-") {
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range quoted(withoutFences(string(text))) {
			if !pathLike.MatchString(word) {
				continue
			}
			named++
			if _, err := os.Stat(filepath.Join(root, word)); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	if named < 30 {
		t.Errorf("only %d paths found", named)
	}
}

var (
	door   = regexp.MustCompile(`(?m)(?:^|[\x60;&] ?)make ([a-z]+)`)
	target = regexp.MustCompile(`(?m)^([a-z]+):`)
)

// What a page says to make can be made.
func TestDoorsExist(t *testing.T) {
	t.Parallel()
	var doors []string
	for _, match := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		doors = append(doors, match[1])
	}
	named := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range door.FindAllStringSubmatch(string(text), -1) {
			named++
			if !slices.Contains(doors, match[1]) {
				t.Errorf("%s: there is no make %s", page, match[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d doors named", named)
	}
}
