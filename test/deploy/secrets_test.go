package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/test/deploy/stack"
)

// TestSecrets: a second run changes nothing, a missing secret is added, and nobody else may read them.
func TestSecrets(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), ".env")
	first := stack.Secrets(t, file)
	if diff := cmp.Diff(first, stack.Secrets(t, file)); diff != "" {
		t.Errorf("a second run changed:\n%s", diff)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want only the owner to read it", info.Mode().Perm())
	}
	seen := map[string]string{}
	for name, value := range first {
		if other, same := seen[value]; same {
			t.Errorf("%s and %s are the same", name, other)
		}
		seen[value] = name
		if len(value) < 18 {
			t.Errorf("%s is only %d characters long", name, len(value))
		}
	}
	// A person's own line without an end, and a secret taken out to be made anew.
	kept := "LOG_LEVEL=DEBUG\nPICKET_NATS_API_PASSWORD=" + first["PICKET_NATS_API_PASSWORD"]
	if err := os.WriteFile(file, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	second := stack.Secrets(t, file, "--demo")
	if second["LOG_LEVEL"] != "DEBUG" || second["PICKET_NATS_API_PASSWORD"] != first["PICKET_NATS_API_PASSWORD"] {
		t.Error("a line that was there is lost")
	}
	if second["PICKET_SECRET_KEY"] == first["PICKET_SECRET_KEY"] || len(second) != len(first)+3 {
		t.Errorf("%d values of %d, and those of the demo, are there", len(second), len(first))
	}
	if left, err := filepath.Glob(file + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestSecretsRefuseALink: what the file is a link to is somebody else's.
func TestSecretsRefuseALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, ".env")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "deploy", "secrets"))
	cmd.Env = append(os.Environ(), "PICKET_ENV_FILE="+link)
	if err := cmd.Run(); err == nil {
		t.Error("wrote through a symbolic link")
	}
}
