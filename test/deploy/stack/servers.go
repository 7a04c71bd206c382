package stack

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/picketd/picket/internal/embedded"
)

// onceTimeout bounds what ends by itself.
const onceTimeout = 2 * time.Minute

// DatabaseOptions says how to run the server that plays the image timescaledb: it asks for the passwords of the file, has
// TimescaleDB where the installation has it, and leaves durability to whoever starts it. Its wire is to be placed at
// timescaledb:5432.
func (s *Stack) DatabaseOptions() embedded.PostgresOptions {
	s.t.Helper()
	rules := filepath.Join(s.dir, "pg_hba.conf")
	if err := os.WriteFile(rules, []byte("local all postgres trust\nlocal all all scram-sha-256\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	bin, err := embedded.FindPostgres(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := exec.LookPath("psql"); err != nil {
		if !exists(filepath.Join(bin, "psql")) {
			s.t.Skip("NO PSQL: the roles of the stack cannot be made as deploy/ makes them")
		}
		s.path = bin + ":" + s.path
	}
	settings := map[string]string{"hba_file": rules}
	if hasTimescale(s.t.Context(), bin) {
		settings["shared_preload_libraries"], settings["timescaledb.telemetry_level"] = "timescaledb", "off"
	}
	return embedded.PostgresOptions{BinDir: bin, DataDir: filepath.Join(s.dir, "pg"), Database: "postgres", Settings: settings}
}

// hasTimescale reports whether an installation of PostgreSQL has the extension.
func hasTimescale(ctx context.Context, bin string) bool {
	shared, err := exec.CommandContext(ctx, filepath.Join(bin, "pg_config"), "--sharedir").Output()
	return err == nil && exists(filepath.Join(strings.TrimSpace(string(shared)), "extension", "timescaledb.control"))
}

// RunOnce runs a service that ends by itself, to its good end.
func (s *Stack) RunOnce(name string) {
	s.t.Helper()
	command := s.Command(name, 0, nil)
	ctx, cancel := context.WithTimeout(s.t.Context(), onceTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command.Path, command.Args...)
	cmd.Env, cmd.Dir = command.Env, s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
