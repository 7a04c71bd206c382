package catalog_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/picketd/picket/internal/catalog"
)

var update = flag.Bool("update", false, "write the golden files")

// Every file of testdata/refused begins with the faults that it must give, all of them, one `# ` line each.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/refused/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(data)) {
				comment, found := strings.CutPrefix(line, "# ")
				if !found {
					break
				}
				want = append(want, strings.TrimSpace(comment))
			}
			file, err := catalog.Parse("picket.yaml", data, catalog.Defaults{})
			if err == nil {
				t.Fatalf("accepted: %+v", file)
			}
			got := strings.Split(err.Error(), "\n")
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], "picket.yaml:")
			}
			if *update {
				rest := data
				for bytes.HasPrefix(rest, []byte("# ")) {
					_, rest, _ = bytes.Cut(rest, []byte("\n"))
				}
				head := "# " + strings.Join(got, "\n# ") + "\n"
				if err := os.WriteFile(path, append([]byte(head), rest...), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/accepted/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, err := catalog.Parse("picket.yaml", data, catalog.Defaults{})
			if err != nil {
				t.Fatal(err)
			}
			got := golden(t, file.Servers)
			goldenPath := strings.TrimSuffix(path, ".yaml") + ".json"
			if *update {
				if err := os.WriteFile(goldenPath, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(goldenPath)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("servers (-want +got):\n%s", diff)
			}
		})
	}
}

// golden is the wire form of servers as stable JSON: protojson's own spacing changes on purpose.
func golden(t *testing.T, servers []catalog.Server) []byte {
	t.Helper()
	var all bytes.Buffer
	for i := range servers {
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(servers[i].Proto())
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Indent(&all, data, "", "  "); err != nil {
			t.Fatal(err)
		}
		all.WriteByte('\n')
	}
	return all.Bytes()
}

func TestParseBoundsAliases(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("defaults: {interval: &i0 30s}\nservers:\n  - name: a\n    url: http://x\n    tags: &t0 [x]\n")
	// A JSON value of 10^9 entries behind nine lines.
	b.WriteString("    checks:\n      - name: j\n        url: http://x\n        expect_json:\n          - path: $.a\n            equals:\n")
	b.WriteString("              v0: &v0 [a,a,a,a,a,a,a,a,a,a]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "              v%d: &v%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*v%d,", i-1), 10), ","))
	}
	if _, err := catalog.Parse("picket.yaml", []byte(b.String()), catalog.Defaults{}); err == nil {
		t.Fatal("a value of a billion entries was accepted")
	}
}

func FuzzParse(f *testing.F) {
	for _, glob := range []string{"testdata/refused/*.yaml", "testdata/accepted/*.yaml"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := catalog.Parse("picket.yaml", data, catalog.Defaults{})
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without a word")
			}
			return
		}
		seen := map[catalog.Key]bool{}
		for i := range file.Servers {
			server := &file.Servers[i]
			if faults := server.Validate(""); faults != nil {
				t.Fatalf("accepted what validation refuses: %v", faults)
			}
			if seen[server.Key()] {
				t.Fatalf("accepted %s twice", server.Key())
			}
			seen[server.Key()] = true
			if _, err := protojson.Marshal(server.Proto()); err != nil {
				t.Fatalf("accepted what cannot travel: %v", err)
			}
		}
		if len(file.Positions) != len(file.Servers) {
			t.Fatal("a server without a position")
		}
	})
}
