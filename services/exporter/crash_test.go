package exporter

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/store"
)

const (
	// The smallest part of S3, and a history that makes more than one such part as NDJSON.
	partSize             = 5 << 20
	crashChecks, results = 12, 1000
	crashRows            = crashChecks * results
)

// crashPoints are the points at which exporters are ended, by the kind of their store. To an object store an attempt that
// did not begin its upload is as one that never was, and one that reads its object back as one that just made it.
var crashPoints = map[string][]string{
	"dir": points,
	"s3":  {"after create", "in write", "before commit", "after commit"},
}

// stopped reports whether a child was stopped by a signal.
func (c *child) stopped() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.command.Process.Pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "T")
}

// inBothStores runs a test of crashes, with a history, for each kind of store.
func inBothStores(t *testing.T, test func(t *testing.T, w *world, points []string)) {
	t.Helper()
	t.Parallel()
	for name, objects := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, objects(t))
			w.fill(crashChecks, results)
			test(t, w, crashPoints[name])
		})
	}
}

// Exporters that are killed, one at each point of an attempt, and those who go on after them too, leave exports that
// another one makes whole: one object each, with the checksum and the count of its row, and nothing else.
func TestKilledAtEveryPoint(t *testing.T) {
	inBothStores(t, func(t *testing.T, w *world, points []string) {
		var asked []store.Export
		for range points {
			asked = append(asked, w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"}))
		}
		for round := range 2 {
			victims := map[string]*child{}
			for _, point := range points { // each takes one export with it
				victims[point] = w.spawn(childSettings{Name: fmt.Sprintf("%s, %d", point, round), Config: quick(), Point: point})
			}
			limit := time.After(3 * time.Minute)
			for point, victim := range victims {
				select {
				case <-victim.exited:
				case <-limit:
					t.Fatalf("%s: nothing killed the exporter", point)
				}
			}
		}
		for _, e := range asked {
			if status := w.look(e).Status; status == store.ExportCompleted {
				t.Fatal("completed by who was killed")
			}
		}
		w.start(quick(), w.blob)
		for i, e := range asked {
			asked[i] = w.await(e)
			if asked[i].Attempt < 3 {
				t.Errorf("made by attempt %d", asked[i].Attempt)
			}
			w.checkWhole(asked[i], crashRows)
		}
		w.checkNothingElse(asked...)
	})
}

// Exporters that are stopped, one at each point, and go on long after their leases change nothing of what was made
// meanwhile.
func TestStoppedPastItsLease(t *testing.T) {
	inBothStores(t, func(t *testing.T, w *world, points []string) {
		victims := map[string]*child{}
		var asked, later []store.Export
		for _, point := range points {
			asked = append(asked, w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"}))
			victims[point] = w.spawn(childSettings{Name: point, Config: quick(), Point: point, Signal: "stop"})
		}
		for point, victim := range victims {
			w.until(point+": the victim to stop", victim.stopped)
		}
		_, stop := w.start(quick(), w.blob)
		for i, e := range asked {
			asked[i] = w.await(e)
			w.checkWhole(asked[i], crashRows)
		}
		stop()
		for _, victim := range victims {
			// It goes on and does what it would have done. Alone it has to make one more: so it has ended what it was at.
			victim.signal(t, syscall.SIGCONT)
			one := w.await(w.ask(store.NewExport{Type: "servers", Format: "ndjson"}))
			w.checkWhole(one, crashChecks)
			later = append(later, one)
			victim.kill()
		}
		for _, e := range asked {
			if now := w.look(e); now.SHA256 != e.SHA256 || now.Attempt != e.Attempt || now.Status != store.ExportCompleted {
				t.Errorf("the row has changed: %+v", now)
			}
			w.checkWhole(e, crashRows)
		}
		w.start(quick(), w.blob) // its sweep ends what is left
		w.checkNothingElse(append(asked, later...)...)
	})
}

// Exporters that were stopped, and go on while a newer attempt is in the middle of the export, do that attempt no harm.
func TestStoppedMeetsNewerAttempt(t *testing.T) {
	inBothStores(t, func(t *testing.T, w *world, _ []string) {
		for _, point := range []string{"in write", "before commit"} {
			e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
			victim := w.spawn(childSettings{Name: point, Config: quick(), Point: point, Signal: "stop"})
			w.until("the victim to stop", victim.stopped)
			step := make(chan struct{})
			objects := newSlowStore(w.blob, step)
			_, stop := w.start(quick(), objects)
			<-objects.begun
			victim.signal(t, syscall.SIGCONT)
			// The other is busy: so the victim makes this one, and has ended what it was at.
			w.checkWhole(w.await(w.ask(store.NewExport{Type: "servers", Format: "ndjson"})), crashChecks)
			victim.kill()
			close(step)
			e = w.await(e)
			w.checkWhole(e, crashRows)
			if e.Attempt < 2 {
				t.Errorf("%s: made by who was stopped", point)
			}
			stop()
		}
	})
}

// Exporters that are killed at random moments, for as long as there is something to make.
func TestKilledAtRandom(t *testing.T) {
	inBothStores(t, func(t *testing.T, w *world, _ []string) {
		var asked []store.Export
		for _, format := range []string{"ndjson", "parquet", "csv", "ndjson"} {
			asked = append(asked, w.ask(store.NewExport{Type: "health_checks", Format: format}))
		}
		const kills = 8
		children := make([]*child, 2)
		for i := range children {
			children[i] = w.spawn(childSettings{Name: fmt.Sprintf("first-%d", i), Config: quick()})
		}
		for n := range kills {
			wait := time.NewTimer(time.Duration(200+rand.IntN(600)) * time.Millisecond)
			<-wait.C
			i := n % len(children)
			children[i].kill()
			children[i] = w.spawn(childSettings{Name: fmt.Sprintf("next-%d", n), Config: quick()})
			if n%2 == 0 { // there is always something to make
				asked = append(asked, w.ask(store.NewExport{Type: "health_checks", Format: "ndjson", Compression: "gzip"}))
			}
		}
		attempts := 0
		for i, e := range asked {
			asked[i] = w.await(e)
			w.checkWhole(asked[i], crashRows)
			attempts += asked[i].Attempt
		}
		t.Logf("%d exports took %d attempts", len(asked), attempts)
		w.checkNothingElse(asked...)
	})
}
