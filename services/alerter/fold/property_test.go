package fold

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// window is what arrives between two ticks: changes of the catalog first, then results of several checks. Its events share
// one stream time, so that their order is the only thing that an interleaving changes.
type window struct {
	at      time.Time
	changes []*picketv1.CatalogChange
	results [][]*picketv1.ProbeResult // by check, in their order
}

// history draws a fleet and what happens to it.
func history(t *rapid.T) []window {
	fleet := make([]*picketv1.Server, rapid.IntRange(1, 4).Draw(t, "servers"))
	var windows []window
	first := window{at: base}
	for i := range fleet {
		places := []string{"a", "b"}[:rapid.IntRange(1, 2).Draw(t, "locations")]
		c := newCheck(i, rapid.SampledFrom([]string{"health", "health", "metrics", "web"}).Draw(t, "check"), places...)
		c.Schedules[0].IntervalMs = 5000
		c.Alerts = &picketv1.AlertRules{UnreachableForMs: 20_000, DegradedAfter: 3, Quorum: int32(rapid.IntRange(0, 2).Draw(t, "quorum"))}
		fleet[i] = newServer(i, rapid.SampledFrom([]string{"env", "file"}).Draw(t, "source"), c)
		first.changes = append(first.changes, &picketv1.CatalogChange{Change: "added", Server: proto.CloneOf(fleet[i])})
	}
	windows = append(windows, first)
	at := base
	for range rapid.IntRange(1, 40).Draw(t, "windows") {
		at = at.Add(time.Duration(rapid.SampledFrom([]int{1, 4, 5, 5, 5, 30}).Draw(t, "passed")) * time.Second)
		w := window{at: at}
		if rapid.IntRange(0, 10).Draw(t, "change") == 0 {
			server := rapid.SampledFrom(fleet).Draw(t, "changed")
			server.Lifecycle = rapid.SampledFrom([]string{"active", "maintenance", "inactive"}).Draw(t, "lifecycle")
			server.Revision++
			w.changes = append(w.changes, &picketv1.CatalogChange{Change: "changed", Server: proto.CloneOf(server)})
		}
		for _, server := range fleet {
			c := server.GetChecks()[0]
			var results []*picketv1.ProbeResult
			for _, place := range c.GetLocations() {
				for back := rapid.IntRange(-1, 2).Draw(t, "results"); back >= 0; back-- {
					status := rapid.SampledFrom([]picketv1.Status{1, 1, 2, 3, 4, 5}).Draw(t, "status")
					results = append(results, newResult(c.GetId(), place, at.Add(-time.Duration(back)*time.Second), status))
				}
			}
			w.results = append(w.results, results)
		}
		windows = append(windows, w)
	}
	return windows
}

// events puts a history in one order. pick chooses among n checks whose results come next.
func events(windows []window, pick func(n int) int) []Event {
	var all []Event
	add := func(at time.Time, payload any) {
		all = append(all, Event{Epoch: testEpoch, Sequence: uint64(len(all) + 1), Time: at, Payload: payload})
	}
	last := base
	for _, w := range windows {
		if w.at.Sub(last) <= BlindAfter {
			for last.Before(w.at) { // else nobody was there
				last = last.Add(time.Second)
				add(last, &picketv1.ClockTick{At: timestamppb.New(last)})
			}
		}
		last = w.at
		for _, change := range w.changes {
			add(w.at, change)
		}
		queues := slices.Clone(w.results)
		for {
			queues = slices.DeleteFunc(queues, func(q []*picketv1.ProbeResult) bool { return len(q) == 0 })
			if len(queues) == 0 {
				break
			}
			i := pick(len(queues))
			add(w.at, queues[i][0])
			queues[i] = queues[i][1:]
		}
	}
	return all
}

// foldAll folds events and returns the transitions.
func foldAll(s *State, events []Event) []Transition {
	var all []Transition
	for _, ev := range events {
		all = append(all, s.Step(ev).Transitions...)
	}
	return all
}

// story is what transitions say about each alert, without what an order of events may change: identities, sequences.
func story(transitions []Transition) map[string][]string {
	told := map[string][]string{}
	for _, tr := range transitions {
		a := tr.Alert
		var evidence bytes.Buffer
		for _, e := range tr.Evidence {
			fmt.Fprintf(&evidence, " %v@%v/%s", e.GetStatus(), e.GetScheduledAt().AsTime().Unix(), e.GetLocation())
		}
		told[a.Fingerprint] = append(told[a.Fingerprint], fmt.Sprint(tr.Name, tr.At.Unix(), a.Kind, a.Severity, a.State, a.Reason,
			a.Since.Unix(), a.PendingAt.Unix(), a.OpenedAt.Unix(), a.Triggers, tr.Summary, evidence.String()))
	}
	return told
}

func TestInterleaving(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		windows := history(t)
		inOrder := foldAll(New(), events(windows, func(int) int { return 0 }))
		mixed := foldAll(New(), events(windows, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "next") }))
		if diff := cmp.Diff(story(inOrder), story(mixed)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDuplication(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		once := events(history(t), func(int) int { return 0 })
		var twice []Event
		var sent []Event // of this window: what may come again
		for _, ev := range once {
			if len(sent) > 0 && !sent[0].Time.Equal(ev.Time) {
				sent = nil
			}
			sent = append(sent, ev)
			twice = append(twice, ev)
			for range rapid.IntRange(0, 2).Draw(t, "again") {
				twice = append(twice, rapid.SampledFrom(sent).Draw(t, "double"))
			}
		}
		want := foldAll(New(), once)
		// Delivered twice: the sequence is old, nothing may happen, and the identities are the same.
		if diff := cmp.Diff(want, foldAll(New(), twice), protocmp.Transform()); diff != "" {
			t.Fatal("redelivered:", diff)
		}
		// Published twice: another sequence, the same fact.
		for i := range twice {
			twice[i].Sequence = uint64(i + 1)
		}
		if diff := cmp.Diff(story(want), story(foldAll(New(), twice))); diff != "" {
			t.Fatal("published again:", diff)
		}
	})
}

// TestCrash folds with crashes: the state is thrown away, restored from a snapshot that is older than the cursor, refolded up
// to the cursor without a word, and goes on. Transitions are the same to the last bit.
func TestCrash(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := events(history(t), func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "next") })
		want := foldAll(New(), all)
		s := New()
		stored := map[int][]byte{} // chunks in the database
		snapshot := 0              // events in it
		var got []Transition
		for i := range all {
			got = append(got, s.Step(all[i]).Transitions...)
			switch rapid.SampledFrom([]string{"", "", "", "snapshot", "lost", "crash"}).Draw(t, "then") {
			case "snapshot":
				for _, c := range s.Changed() {
					stored[c.ID] = c.Data
				}
				snapshot = i + 1
			case "lost": // the transaction failed
				s.Touch(s.Changed()...)
			case "crash":
				s = restore(t, stored, all, snapshot)
				before := s.Alerts()
				foldAll(s, all[snapshot:i+1])
				if differ := s.Reconcile(alive(got)); differ != 0 {
					t.Fatalf("%d alerts differ from the database after refolding; in the snapshot %v", differ, before)
				}
			}
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func restore(t *rapid.T, stored map[int][]byte, all []Event, snapshot int) *State {
	if snapshot == 0 {
		return New()
	}
	var chunks []Chunk
	for id, data := range stored {
		chunks = append(chunks, Chunk{id, data})
	}
	s, err := Restore(testEpoch, all[snapshot-1].Sequence, chunks)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// alive is what the table of alerts holds after these transitions.
func alive(transitions []Transition) []Alert {
	rows := map[string]Alert{}
	for _, tr := range transitions {
		if tr.Alert.State == Closed {
			delete(rows, tr.Alert.Fingerprint)
		} else {
			rows[tr.Alert.Fingerprint] = tr.Alert
		}
	}
	var all []Alert
	for _, a := range rows {
		all = append(all, a)
	}
	return all
}

// TestSnapshotEquality: a state restored is the state, byte for byte.
func TestSnapshotEquality(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := New()
		all := events(history(t), func(int) int { return 0 })
		for _, ev := range all {
			if rapid.IntRange(0, 20).Draw(t, "switch") == 0 {
				s.SetEnabled(!s.Enabled())
			}
			s.Step(ev)
		}
		s.Touch()
		chunks := s.Changed()
		restored, err := Restore(s.epoch, s.seq, chunks)
		if err != nil {
			t.Fatal(err)
		}
		restored.Touch()
		if diff := cmp.Diff(chunks, restored.Changed()); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(s.Counts(), restored.Counts()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestLostHistory: when the events between snapshot and cursor are gone, the alerts are the database's.
func TestLostHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := events(history(t), func(int) int { return 0 })
		cut := rapid.IntRange(1, len(all)).Draw(t, "snapshot")
		cursor := rapid.IntRange(cut, len(all)).Draw(t, "cursor")
		behind, ahead := New(), New()
		foldAll(behind, all[:cut])
		written := alive(foldAll(ahead, all[:cursor]))
		behind.Reconcile(written)
		behind.Resume(testEpoch, all[cursor-1].Sequence)
		// Triggers since the last transition are not in the database.
		uncounted := cmpopts.IgnoreFields(Alert{}, "Triggers")
		if diff := cmp.Diff(ahead.Alerts(), behind.Alerts(), uncounted); diff != "" {
			t.Fatal(diff)
		}
		// It is a sound state: it goes on, and can be stored.
		foldAll(behind, all[cursor:])
		behind.Touch()
		if _, err := Restore(testEpoch, behind.seq, behind.Changed()); err != nil {
			t.Fatal(err)
		}
	})
}
