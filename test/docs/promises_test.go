package docs_test

import (
	"go/ast"
	"regexp"
	"slices"
	"testing"
)

var testName = regexp.MustCompile(`^(Test|Fuzz|Benchmark)[A-Z]`)

// Every promise and every fault that was caught names tests, and each of them is there: "`internal/bus`: `TestA`, `TestB`;
// `test/system`: `TestC`".
func TestPromisesNameTests(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"docs/promises.md", "docs/robustness.md"} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			namesTests(t, page)
		})
	}
}

func namesTests(t *testing.T, page string) {
	functions := map[string][]string{}
	named := 0
	for _, row := range rows(read(t, page)) {
		words := quoted(row[len(row)-1])
		if len(words) == 0 {
			t.Errorf("nothing holds %q", row[0])
		}
		dir := ""
		for _, word := range words {
			if !testName.MatchString(word) {
				dir = word
				continue
			}
			if functions[dir] == nil {
				for _, file := range sources(t, dir, true) {
					for _, declaration := range file.Decls {
						if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil {
							functions[dir] = append(functions[dir], function.Name.Name)
						}
					}
				}
			}
			if !slices.Contains(functions[dir], word) {
				t.Errorf("%s has no %s, which is to hold %q", dir, word, row[0])
			}
			named++
		}
	}
	if named < 30 {
		t.Errorf("only %d tests named", named)
	}
}
