package ticker

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func beatOf(name string, settledMS int64) *picketv1.WorkerStatus {
	at := timestamppb.New(time.UnixMilli(settledMS))
	return &picketv1.WorkerStatus{Instance: name, Running: true, SentAt: at, SettledUntil: at}
}

func wantRing(t *testing.T, r *replicas, at time.Duration, names ...string) {
	t.Helper()
	if diff := cmp.Diff(names, r.update(at).Members(), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("at %v (-want +got):\n%s", at, diff)
	}
}

// A server that is frozen answers nobody: a process that does not hear itself
// either does not take the others for dead.
func TestDeafnessKeepsTheSet(t *testing.T) {
	t.Parallel()
	r := newReplicas("a")
	for s := range 10 {
		at := time.Duration(s) * time.Second
		r.hear(beatOf("a", 0), at+time.Millisecond)
		r.hear(beatOf("b", 0), at+time.Millisecond)
		wantRing(t, r, at+time.Millisecond, "a", "b")
	}
	for s := 10; s < 60; s++ { // silence
		wantRing(t, r, time.Duration(s)*time.Second, "a", "b")
	}
	// It hears itself again; b has five seconds to be heard, and is not.
	r.hear(beatOf("a", 0), time.Minute)
	for s := 60; s < 65; s++ {
		r.hear(beatOf("a", 0), time.Duration(s)*time.Second)
		wantRing(t, r, time.Duration(s)*time.Second, "a", "b")
	}
	r.hear(beatOf("a", 0), 65*time.Second)
	wantRing(t, r, 65*time.Second, "a")
}

// A process that waits to join does not send, so that its silence says nothing.
func TestSilenceBeforeTheStartIsNoDeafness(t *testing.T) {
	t.Parallel()
	r := newReplicas("a")
	r.connected(true, 0)
	r.connected(false, time.Second)
	r.connected(true, 2*time.Second)
	wantRing(t, r, 4*time.Second)
	wantRing(t, r, 7*time.Second, "a")
	wantRing(t, r, 70*time.Second, "a")
}

// Only those count as former owners whose checks nobody can have taken over yet,
// unless nobody is left.
func TestFormerOwners(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(simEpochMS)
	roster := []*picketv1.WorkerStatus{
		beatOf("recent", simEpochMS-3_000), beatOf("old", simEpochMS-100_000), beatOf("b", simEpochMS-9_000),
		beatOf("older", simEpochMS-10_000_000), beatOf("ahead", simEpochMS+100_000_000_000),
	}
	alone := newReplicas("a")
	ring, settled := alone.former(roster, now, 0)
	if diff := cmp.Diff([]string{"b", "recent"}, ring.Members()); diff != "" {
		t.Errorf("alone (-want +got):\n%s", diff)
	}
	for name, at := range settled {
		if at != simEpochMS-9_000 {
			t.Errorf("%s has settled until %d, want what the last of them had", name, at)
		}
	}
	joining := newReplicas("a")
	joining.hear(beatOf("b", simEpochMS-200), 0)
	ring, settled = joining.former(roster, now, 0)
	if diff := cmp.Diff([]string{"b", "recent"}, ring.Members()); diff != "" {
		t.Errorf("joining (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int64{"b": simEpochMS - 200, "recent": simEpochMS - 3_000}, settled); diff != "" {
		t.Errorf("joining (-want +got):\n%s", diff)
	}
}

// TestForgedNamesAreBounded: somebody sends heartbeats of a hundred thousand names. Memory and the ring stay small, who was
// heard before them stays in it, and they are forgotten when they fall silent.
func TestForgedNamesAreBounded(t *testing.T) {
	t.Parallel()
	r := newReplicas("a")
	second := func(s int, names int) {
		at := time.Duration(s) * time.Second
		r.hear(beatOf("a", 0), at)
		r.hear(beatOf("b", 0), at)
		for i := range names {
			r.hear(beatOf(fmt.Sprintf("forged-%d", i), 0), at)
		}
		r.settled(r.update(at), at)
	}
	second(0, 0)
	for s := 1; s < 4; s++ {
		second(s, 100_000)
		if n := len(r.settledMS); n > mostReplicas || len(r.startedMS) > mostReplicas || len(r.heard) > mostReplicas {
			t.Fatalf("%d names are remembered", n)
		}
		if ring := r.update(time.Duration(s) * time.Second); !ring.Has("b") || len(ring.Members()) > mostReplicas+1 {
			t.Fatalf("a ring of %d, with b: %t", len(ring.Members()), ring.Has("b"))
		}
	}
	for s := 4; s < 30; s++ {
		second(s, 0)
	}
	wantRing(t, r, 29*time.Second, "a", "b")
	if len(r.settledMS) != 1 || len(r.startedMS) != 1 || len(r.heard) != 1 || len(r.left) != 0 {
		t.Errorf("%d, %d, %d and %d names are remembered", len(r.settledMS), len(r.startedMS), len(r.heard), len(r.left))
	}
}

// TestReplacedTwice: what a process left begins where that one had settled, and ends where the last of its name begins, whatever
// those between say. One that says nothing, as older ones do, begins where the one before had ended.
func TestReplacedTwice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		from []int64
		want int64
	}{
		"once": {[]int64{1_500}, 1_500}, "twice": {[]int64{1_500, 1_900}, 1_900},
		"the last knows less": {[]int64{1_500, 1_200}, 1_500}, "older ones": {[]int64{0, 0}, 0},
	} {
		r := newReplicas("a")
		r.hear(beatOf("b", 1_000), 0)
		for i, from := range test.from {
			status := beatOf("b", 2_000)
			status.StartedAt = timestamppb.New(time.UnixMilli(int64(i + 1)))
			if from != 0 {
				status.SettlesFrom = timestamppb.New(time.UnixMilli(from))
			}
			r.hear(status, time.Millisecond)
		}
		want := map[string]ended{"b": {settledMS: 1_000, nextMS: test.want}}
		if diff := cmp.Diff(want, r.replacements(time.Millisecond), cmp.AllowUnexported(ended{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if again := r.replacements(time.Millisecond); again != nil {
			t.Errorf("%s: told again: %v", name, again)
		}
	}
}
