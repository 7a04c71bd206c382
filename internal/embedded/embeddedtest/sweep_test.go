package embeddedtest

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/picketd/picket/internal/embedded"
)

// A test process that was killed leaves a server; the next one takes it away, and nothing that somebody holds.
func TestSweep(t *testing.T) {
	t.Parallel()
	const childVariable = "PICKET_EMBEDDEDTEST_CHILD"
	if dir := os.Getenv(childVariable); dir != "" {
		if _, err := embedded.StartPostgres(t.Context(), embedded.PostgresOptions{DataDir: dir, Disposable: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stdout.WriteString("ready\n"); err != nil {
			t.Fatal(err)
		}
		select {} // until it is killed
	}
	//nolint:usetesting // PostgreSQL runs as another user, who cannot enter t.TempDir
	parent, err := os.MkdirTemp(clusterParent, clusterPrefix+"sweep-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(parent); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	left, held, foreign := filepath.Join(parent, "pkt-left"), filepath.Join(parent, "pkt-held"), filepath.Join(parent, "pkt-foreign")

	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSweep$")
	child.Env = append(os.Environ(), childVariable+"="+left)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{held, foreign} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := embedded.LockDir(held)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	})

	sweep(t.Context(), parent, 0)
	if _, err := os.Stat(left); err != nil {
		t.Errorf("swept the directory of a living process: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // says "killed"
	sweep(t.Context(), parent, sweepAge)
	if _, err := os.Stat(left); err != nil {
		t.Errorf("swept a young directory: %v", err)
	}
	sweep(t.Context(), parent, 0)
	if _, err := os.Stat(left); err == nil {
		t.Error("the killed process' directory stays")
	}
	for _, dir := range []string{held, foreign} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("swept %s: %v", dir, err)
		}
	}
}
