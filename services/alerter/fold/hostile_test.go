package fold

import (
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestForgedResults: an id is no right to speak for another organization's check.
func TestForgedResults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "env", newCheck(1, "health", "local")))
	forged := newResult(checkID(1), "local", base, letters['C'])
	forged.Org = "other"
	if out := w.step(base, forged); out.Skip != SkipContract || w.s.checks[mustID(checkID(1))].series[0].last != 0 {
		t.Errorf("skip %q, want %q and nothing folded", out.Skip, SkipContract)
	}
}

// TestFingerprintsDiffer: two checks whose names make one fingerprint would be two alerts that the database refuses, and
// with them everything after.
func TestFingerprintsDiffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "env", newCheck(1, "health", "local")))
	for n, names := range [][2]string{{"a", "b:c"}, {"a:b", "c"}, {"A", "c"}, {"a.b", "c"}, {"a", ""}} {
		def := newServer(10+n, "env", newCheck(10+n, names[1], "local"))
		def.Name = names[0]
		if out := w.step(w.now, &picketv1.CatalogChange{Change: "added", Server: def}); out.Skip != SkipContract {
			t.Errorf("server %q with check %q: skip %q, want %q", names[0], names[1], out.Skip, SkipContract)
		}
	}
}

// TestClockBack: results from a time that the server's clock has taken back do not keep those of now from counting.
func TestClockBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "env", newCheck(1, "health", "local")))
	ahead := base.Add(24 * time.Hour * 365)
	w.step(ahead, newResult(checkID(1), "local", ahead, letters['H']))
	w.step(base.Add(time.Minute), newResult(checkID(1), "local", base.Add(time.Minute), letters['C']))
	w.s.Touch()
	restored, err := Restore(testEpoch, w.seq, w.s.Changed())
	if err != nil {
		t.Fatal(err)
	}
	w.s = restored
	if got := describe(w.step(base.Add(90*time.Second), newResult(checkID(1), "local", base.Add(90*time.Second), letters['C']))); got != "opened critical" {
		t.Errorf("second bad result after the step back: %q", got)
	}
	// A little ahead is within the contract, and stays what it was: late.
	if out := w.step(base.Add(60*time.Second), newResult(checkID(1), "local", base.Add(60*time.Second), letters['H'])); out.Skip != SkipLate {
		t.Errorf("skip %q, want %q", out.Skip, SkipLate)
	}
}
