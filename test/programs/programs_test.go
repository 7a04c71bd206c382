package programs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/picketd/picket/test/programs"
)

func newRun(t *testing.T) *programs.Run {
	t.Helper()
	run, err := programs.NewRun()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(run.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", run.Dir, err)
		}
	})
	return run
}

// Two runs that build the same at the same time share the work and not the file: the next build takes nothing from either.
func TestBuild(t *testing.T) {
	t.Parallel()
	const command = "cmd/pack" // which nobody edits meanwhile
	var infos [2]os.FileInfo
	for i := range infos {
		dir, err := newRun(t).Build(t.Context(), programs.Plain(), command)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, programs.Name(command))
		if infos[i], err = os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if out, _ := exec.CommandContext(t.Context(), path).CombinedOutput(); !strings.Contains(string(out), "Usage") {
			t.Errorf("it says %q", out)
		}
	}
	if !os.SameFile(infos[0], infos[1]) {
		t.Error("what was up to date was built again")
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"github.com/nats-io/nats-server/v2":        "nats-server",
		"github.com/picketd/picket/cmd/picket":     "picket",
		"example.org/services/vault/cmd/v":         "v",
		"example.org/services/prober/cmd/v2/probe": "probe",
	} {
		if got := programs.Name(command); got != want {
			t.Errorf("%s: %s, want %s", command, got, want)
		}
	}
}
