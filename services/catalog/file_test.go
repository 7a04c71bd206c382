package catalog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestEditingTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a", "b"))
	r := w.start("one")
	w.expect(map[string]int64{"a": 1, "b": 1})
	w.expectEvents(event{"added", "a", 1}, event{"added", "b", 1})

	// One changes, one goes, one comes; the others keep their revisions.
	w.write(yaml("a", "c") + "    tags: [x]\n")
	w.expect(map[string]int64{"a": 1, "c": 1})
	w.write(strings.Replace(yaml("a", "c"), "http://a/", "http://other/", 1))
	w.expect(map[string]int64{"a": 2, "c": 2})
	w.expectEvents(event{"added", "a", 1}, event{"added", "b", 1},
		event{"removed", "b", 2}, event{"added", "c", 1},
		event{"changed", "a", 2}, event{"changed", "c", 2})
	if got := testutil.ToFloat64(r.metrics.targets.WithLabelValues("file")); got != 2 {
		t.Errorf("fleet_catalog_servers{source=file} is %v", got)
	}
	if err := r.kit.Health.Ready(); err != nil {
		t.Error(err)
	}
}

func TestABrokenEditChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a", "b"))
	r := w.start("one", comparing)
	w.expect(map[string]int64{"a": 1, "b": 1})

	w.write("servers:\n  - name: a\n    url: http://a/\n    intervall: 5s\n")
	problem := "picket.yaml:4:5: servers[0].intervall: unknown key: did you mean interval?"
	eventually(t, func() error {
		if r.log.count(problem) == 0 {
			return fmt.Errorf("not logged:\n%s", r.log)
		}
		return nil
	})
	// Several looks and comparisons later everything is as before, and nothing was said twice.
	reconciled := func() uint64 { return samples(t, r) }
	since := reconciled()
	eventually(t, func() error {
		if now := reconciled(); now < since+2 {
			return fmt.Errorf("%d comparisons", now)
		}
		return nil
	})
	w.expect(map[string]int64{"a": 1, "b": 1})
	if n := r.log.count("level=ERROR"); n != 1 {
		t.Errorf("%d errors for one edit:\n%s", n, r.log)
	}
	if err := r.kit.Health.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if got := testutil.ToFloat64(r.metrics.refused.WithLabelValues("file")); got != 1 {
		t.Errorf("fleet_catalog_source_refused is %v", got)
	}
	var status picketv1.WorkerStatus
	if r.fillStatus(&status); !strings.Contains(status.LastError, problem) {
		t.Errorf("the heartbeat says %q", status.LastError)
	}

	// The same fault in another edit is said again, and a good edit ends it.
	w.write("# again\nservers:\n  - name: a\n    url: http://a/\n    intervall: 5s\n")
	eventually(t, func() error {
		if n := r.log.count("level=ERROR"); n != 2 {
			return fmt.Errorf("%d errors for two edits", n)
		}
		return nil
	})
	w.write(yaml("a"))
	w.expect(map[string]int64{"a": 1})
	if err := r.sources.problem(); err != nil {
		t.Error(err)
	}
	// A file that is gone declares nothing, which is not the same as no servers.
	if err := os.Remove(w.file); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if r.sources.problem() == nil {
			return errors.New("nobody minds that the file is gone")
		}
		return nil
	})
	w.expect(map[string]int64{"a": 1})
}

// samples is how many comparisons there were.
func samples(t *testing.T, r *replica) uint64 {
	t.Helper()
	families, err := r.kit.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "fleet_catalog_reconcile_seconds" {
			return family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return 0
}

func TestReadingTheSameFileAgainChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a"))
	r := w.start("one", comparing)
	w.expect(map[string]int64{"a": 1})
	r.reload <- syscall.SIGHUP
	r.reload <- syscall.SIGHUP // taken once the first is done
	since := samples(t, r)
	eventually(t, func() error {
		if n := samples(t, r); n < since+2 {
			return fmt.Errorf("%d comparisons", n)
		}
		return nil
	})
	w.expect(map[string]int64{"a": 1})
	w.expectEvents(event{"added", "a", 1})
	if n := r.log.count("file read"); n < 2 {
		t.Errorf("the file was read %d times", n)
	}
}

// Kubernetes mounts a directory of links through ..data, which it moves.
func TestTheFileMayBeBehindLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Dir(w.file)
	version := func(name, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "picket.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "..next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("v1", yaml("a"))
	if err := os.Symlink(filepath.Join("..data", "picket.yaml"), w.file); err != nil {
		t.Fatal(err)
	}
	w.start("told", func(_ *Config, _ *Deps, t *timings) { t.filePoll = time.Hour })
	w.expect(map[string]int64{"a": 1})
	version("v2", yaml("a", "b"))
	w.expect(map[string]int64{"a": 1, "b": 1})
}

// Where the system tells nothing, the file is looked at: here it is reached through a link into another directory.
func TestTheFileIsPolled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := filepath.Join(t.TempDir(), "real.yaml")
	put := func(content string) {
		t.Helper()
		// In place, in two steps: what is read between them must not count.
		if err := os.WriteFile(elsewhere, []byte(content[:len(content)/2]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(elsewhere, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(yaml("a"))
	if err := os.Symlink(elsewhere, w.file); err != nil {
		t.Fatal(err)
	}
	w.start("one")
	w.expect(map[string]int64{"a": 1})
	put(yaml("a", "b"))
	w.expect(map[string]int64{"a": 1, "b": 1})
}
