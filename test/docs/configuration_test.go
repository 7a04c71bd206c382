package docs_test

import (
	"go/ast"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// keySections say where the keys are described that a function of the decoder reads.
var keySections = map[string]string{
	"document":       "### The file",
	"commonFields":   "### Defaults",
	"server":         "### Servers",
	"checkFields":    "### Checks",
	"alerts":         "### Alerts",
	"httpFields":     "### Checks of the kind `http`",
	"tcpFields":      "### Checks of the kind `tcp`",
	"metricsFields":  "### Checks of the kind `metrics`",
	"rules":          "### Rules",
	"tls":            "### TLS",
	"jsonAssertions": "### JSON assertions",
}

// Every key that the decoder of picket.yaml reads is described where it belongs, and no other.
func TestKeysAreThoseOfTheDecoder(t *testing.T) {
	t.Parallel()
	page := read(t, "docs/configuration.md")
	decoded := decoderKeys(t)
	delete(decoded, "apiFields") // of no file
	for function := range decoded {
		if keySections[function] == "" {
			t.Errorf("the decoder's %s reads keys that no section is for", function)
		}
	}
	for function, heading := range keySections {
		var listed []string
		for _, row := range rows(section(t, page, heading)) {
			listed = append(listed, quoted(row[0])...)
		}
		same(t, heading, decoded[function], listed)
	}
}

// decoderKeys are the keys of all `fields` in the decoder, by function. Those of `defaults` alone count with the common ones.
func decoderKeys(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, file := range sources(t, "internal/catalog", false) {
		for _, declaration := range file.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok || function.Body == nil {
				continue
			}
			ast.Inspect(function.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CompositeLit:
					if kind, ok := n.Type.(*ast.Ident); !ok || kind.Name != "fields" {
						return true
					}
					for _, element := range n.Elts {
						if pair, ok := element.(*ast.KeyValueExpr); ok {
							if key, ok := literal(pair.Key); ok {
								found[function.Name.Name] = append(found[function.Name.Name], key)
							}
						}
					}
				case *ast.AssignStmt:
					for _, left := range n.Lhs {
						index, ok := left.(*ast.IndexExpr)
						if !ok {
							continue
						}
						if of, ok := index.X.(*ast.Ident); !ok || of.Name != "known" {
							continue
						}
						if key, ok := literal(index.Index); ok {
							found["commonFields"] = append(found["commonFields"], key)
						}
					}
				}
				return true
			})
		}
	}
	if len(found) < 5 || !strings.Contains(strings.Join(found["server"], " "), "lifecycle") {
		t.Fatalf("keys of the decoder not found: %v", found)
	}
	return found
}

// The page says where each service listens when it is a process of its own.
func TestAddressesAreThoseOfTheServices(t *testing.T) {
	t.Parallel()
	var want []string
	for _, dir := range mains(t) {
		for _, file := range sources(t, dir, false) {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if function, ok := call.Fun.(*ast.SelectorExpr); !ok || function.Sel.Name != "DefaultCommon" || len(call.Args) != 1 {
					return true
				}
				if address, ok := literal(call.Args[0]); ok {
					want = append(want, filepath.Base(dir)+" "+address)
				}
				return true
			})
		}
	}
	var got []string
	address := regexp.MustCompile("([a-z]+) `([^`]+)`")
	for _, row := range rows(section(t, read(t, "docs/configuration.md"), "## Settings")) {
		if row[0] == "`PICKET_ADMIN_LISTEN`" && len(row) == 2 {
			for _, match := range address.FindAllStringSubmatch(row[1], -1) {
				got = append(got, match[1]+" "+match[2])
			}
		}
	}
	same(t, "addresses of services", want, got)
}

// mains are the directories of the services' programs.
func mains(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "services", "*", "cmd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, dir := range found {
		if found[i], err = filepath.Rel(root, dir); err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 4 {
		t.Fatalf("only %d programs of services", len(found))
	}
	return found
}
