package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// TestFirstScreen: everything is there, the token only when it is new, and no line is longer than a terminal.
func TestFirstScreen(t *testing.T) {
	t.Parallel()
	st := newSelf(t)
	st.settings.DataDir = t.TempDir()
	st.settings.API.AdminToken = "pk_s6pmrly7mfbaf4v7_" + strings.Repeat("A", 52)
	file := filepath.Join(st.settings.DataDir, adminTokenFile)
	if err := os.WriteFile(file, []byte(st.settings.API.AdminToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, newToken := range []bool{true, false} {
		screen := firstScreen(st, newToken)
		for _, want := range []string{st.url("/docs"), st.natsURL(), file, "tail", "$(cat " + file + ")", st.url("/api/v1/fleet/summary")} {
			if !strings.Contains(screen, want) {
				t.Errorf("no %q in\n%s", want, screen)
			}
		}
		if strings.Contains(screen, st.settings.API.AdminToken) != newToken {
			t.Errorf("new token %t:\n%s", newToken, screen)
		}
		for line := range strings.Lines(screen) {
			// How long these are is a matter of where the test runs.
			line = strings.NewReplacer(st.settings.DataDir, "/var/lib/picket", command(), "bin/picket").Replace(line)
			if n := utf8.RuneCountInString(line); n > 101 {
				t.Errorf("%d columns: %s", n-1, line)
			}
		}
	}
}

// TestPsql: what is shown is short, and right for paths that a shell would take apart.
func TestPsql(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"postgres:///picket?host=%2Fvar%2Flib%2Fpicket%2Frun&port=5432&user=postgres": " -h /var/lib/picket/run -U postgres picket",
		"postgres:///picket?host=%2Ftmp%2Fit%27s+mine&port=5433&user=postgres":        ` -h '/tmp/it'\''s mine' -p 5433 -U postgres picket`,
	} {
		if got := psql(t.TempDir(), address); !strings.HasSuffix(got, want) {
			t.Errorf("got %s, want …%s", got, want)
		}
	}
}

// TestPartsSayWhatTheyHave: in one process, too, each part says in its metrics whether it has what it needs.
func TestPartsSayWhatTheyHave(t *testing.T) {
	t.Parallel()
	st := newSelf(t)
	st.metrics = prometheus.NewRegistry()
	for _, p := range st.parts {
		p.registry = p.newRegistry()
	}
	families, err := st.gather().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "fleet_component_up" {
			return
		}
	}
	t.Error("no fleet_component_up")
}
