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

// stopped reports whether a child was stopped by a signal.
func (c *child) stopped() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.command.Process.Pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "T")
}

// An exporter that is killed at any point of an attempt, and the next one too, leaves an export that another one makes
// whole: one object, with the checksum and the count of its row, and nothing else.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	for name, objects := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, objects(t))
			w.fill(30, 1000)
			var done []store.Export
			for _, point := range points {
				e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson", Compression: "gzip"})
				for n := range 2 {
					victim := w.spawn(childSettings{Name: fmt.Sprintf("victim-%d", n), Config: quick(), Point: point})
					select {
					case <-victim.exited:
					case <-time.After(time.Minute):
						t.Fatalf("%s: nothing killed the exporter", point)
					}
					if status := w.look(e).Status; status == store.ExportCompleted {
						t.Fatalf("%s: completed by who was killed", point)
					}
				}
				_, stop := w.start(quick(), w.blob)
				e = w.await(e)
				if e.Attempt < 3 {
					t.Errorf("%s: made by attempt %d", point, e.Attempt)
				}
				stop()
				w.checkWhole(e, 30_000)
				done = append(done, e)
			}
			w.start(quick(), w.blob) // its sweep ends what is left
			w.checkNothingElse(done...)
		})
	}
}

// An exporter that is stopped at any point and goes on long after its lease changes nothing of what was made meanwhile.
func TestStoppedPastItsLease(t *testing.T) {
	t.Parallel()
	for name, objects := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, objects(t))
			w.fill(30, 1000)
			var done []store.Export
			for _, point := range points {
				e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
				victim := w.spawn(childSettings{Name: "victim", Config: quick(), Point: point, Signal: "stop"})
				w.until(point+": the victim to stop", victim.stopped)
				_, stop := w.start(quick(), w.blob)
				e = w.await(e)
				w.checkWhole(e, 30_000)
				// It goes on and does what it would have done, while the other makes the next one.
				victim.signal(t, syscall.SIGCONT)
				next := w.ask(store.NewExport{Type: "servers", Format: "ndjson"})
				w.checkWhole(w.await(next), 30)
				stop()
				// With the other gone, the victim has to make one more: so it has ended what it was at.
				last := w.ask(store.NewExport{Type: "servers", Format: "ndjson"})
				w.checkWhole(w.await(last), 30)
				victim.kill()
				if now := w.look(e); now.SHA256 != e.SHA256 || now.Attempt != e.Attempt || now.Status != store.ExportCompleted {
					t.Errorf("%s: the row has changed: %+v", point, now)
				}
				w.checkWhole(e, 30_000)
				done = append(done, e, next, last)
			}
			w.start(quick(), w.blob)
			w.checkNothingElse(done...)
		})
	}
}

// Exporters that are killed at random moments, for as long as there is something to make.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	for name, objects := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, objects(t))
			w.fill(50, 1000)
			var asked []store.Export
			for i := range 6 {
				format := []string{"ndjson", "parquet", "csv"}[i%3]
				asked = append(asked, w.ask(store.NewExport{Type: "health_checks", Format: format}))
			}
			const kills = 12
			children := make([]*child, 2)
			for i := range children {
				children[i] = w.spawn(childSettings{Name: fmt.Sprintf("first-%d", i), Config: quick()})
			}
			for n := range kills {
				wait := time.NewTimer(time.Duration(100+rand.IntN(900)) * time.Millisecond)
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
				w.checkWhole(asked[i], 50_000)
				attempts += asked[i].Attempt
			}
			t.Logf("%d exports took %d attempts", len(asked), attempts)
			w.checkNothingElse(asked...)
		})
	}
}
