package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// MinPostgresMajor is the oldest PostgreSQL Picket runs on.
const MinPostgresMajor = 15

// PostgresBinVariable names the environment variable that points at a directory of PostgreSQL binaries.
const PostgresBinVariable = "PICKET_POSTGRES_BIN"

// ErrNoPostgres is matched by the error of [FindPostgres] when this machine has no PostgreSQL that Picket could run.
var ErrNoPostgres = errors.New("no PostgreSQL found")

// FindPostgres returns a directory that holds initdb and postgres of version 15 or newer: $PICKET_POSTGRES_BIN if that
// is set (then nothing else is looked at), else the one on PATH, else the newest of the places where Debian, the
// PostgreSQL project's packages and Homebrew put them, and where scripts/postgres unpacks them for a user who may not
// install. When there is none the error matches [ErrNoPostgres] and says what to install.
func FindPostgres(ctx context.Context) (binDir string, err error) {
	if dir := os.Getenv(PostgresBinVariable); dir != "" {
		if _, err := postgresMajor(ctx, dir); err != nil {
			return "", fmt.Errorf("%s=%s: %w", PostgresBinVariable, dir, err)
		}
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if dir, err := filepath.Abs(filepath.Dir(path)); err == nil && usable(ctx, dir) {
			return dir, nil
		}
	}
	var candidates []string
	patterns := []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	}
	// Root installs, and the user it runs the server as could not enter a cache in somebody's home.
	if cache, err := os.UserCacheDir(); err == nil && os.Geteuid() != 0 {
		patterns = append(patterns, filepath.Join(cache, "picket", "postgres", "*", "bin"))
	}
	for _, pattern := range patterns {
		// A pattern that a strange home makes malformed finds nothing, as it should.
		found, _ := filepath.Glob(pattern)
		candidates = append(candidates, found...)
	}
	slices.SortFunc(candidates, func(a, b string) int { return pathMajor(b) - pathMajor(a) })
	for _, dir := range candidates {
		if usable(ctx, dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: need version %d or newer; %s, or point %s at its bin directory",
		ErrNoPostgres, MinPostgresMajor, installHint(), PostgresBinVariable)
}

func usable(ctx context.Context, dir string) bool {
	_, err := postgresMajor(ctx, dir)
	return err == nil
}

var digits = regexp.MustCompile(`\d+`)

// pathMajor is the last number in a path such as /usr/lib/postgresql/17/bin.
func pathMajor(path string) int {
	numbers := digits.FindAllString(path, -1)
	if len(numbers) == 0 {
		return 0
	}
	major, _ := strconv.Atoi(numbers[len(numbers)-1]) // one too large: an unlikely candidate, last
	return major
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// postgresMajor asks the binary itself for its version.
func postgresMajor(ctx context.Context, binDir string) (int, error) {
	if _, err := os.Stat(filepath.Join(binDir, "initdb")); err != nil {
		return 0, fmt.Errorf("find initdb: %w", err)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(binDir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask postgres for its version: %w", err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("unknown postgres version %q", strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(string(match[1]))
	if err != nil {
		return 0, fmt.Errorf("unknown postgres version: %w", err)
	}
	if major < MinPostgresMajor {
		return 0, fmt.Errorf("PostgreSQL %d is too old, need %d or newer", major, MinPostgresMajor)
	}
	return major, nil
}

// installHint is the line a person types on this system.
func installHint() string {
	if runtime.GOOS == "darwin" {
		return "install it with `brew install postgresql@17`"
	}
	for _, manager := range []struct{ command, hint string }{
		{"apt-get", "install it with `apt-get install --no-install-recommends postgresql`"},
		{"dnf", "install it with `dnf install postgresql-server`"},
		{"apk", "install it with `apk add postgresql17`"},
		{"pacman", "install it with `pacman -S postgresql`"},
		{"zypper", "install it with `zypper install postgresql-server`"},
	} {
		if _, err := exec.LookPath(manager.command); err == nil {
			return manager.hint
		}
	}
	return "install it"
}
