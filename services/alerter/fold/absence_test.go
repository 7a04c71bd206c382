package fold

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestProberGone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		interval int64
		script   string
	}{
		{"30 seconds of silence at short intervals", 5_000, `
			0 H
			1..29/1 tick
			30 tick -> 
			31 tick -> opened prober_gone
			32..60/1 tick
			60 H  -> closed prober_gone recovered`},
		{"twice the interval at long ones", 30_000, `
			0 H
			1..60/1 tick
			61 tick -> opened prober_gone
			62 ?  -> closed prober_gone recovered`},
		{"a result on demand proves life", 5_000, `
			0 H
			1..29/1 tick
			29 O
			30..58/1 tick
			59 tick
			60 tick -> opened prober_gone`},
		{"it comes again, as another alert", 5_000, `
			0..31/1 tick -> opened prober_gone
			32 H  -> closed prober_gone recovered
			33..62/1 tick
			63 tick -> opened prober_gone`},
		{"silence of a server in maintenance counts", 5_000, `
			0 H
			maintenance
			1..31/1 tick -> opened prober_gone
			32 H -> closed prober_gone recovered`},
		{"nothing due, nobody gone", 5_000, `
			0 H
			inactive
			1..90/1 tick
			active
			91..119/1 tick
			120 tick -> opened prober_gone
			inactive -> closed prober_gone removed`},
		{"removed with its last check", 5_000, `
			0..31/1 tick -> opened prober_gone
			remove -> closed prober_gone removed
			32..70/1 tick`},
		{"disabled meanwhile", 5_000, `
			disable
			0..40/1 tick
			enable
			41 tick -> opened prober_gone
			disable
			42 H
			enable
			43 tick -> closed prober_gone recovered`},
		{"blind spans are not silence", 5_000, `
			0 H
			1..20/1 tick
			# an hour in which nobody published anything
			3620..3629/1 tick
			3630..3631/1 tick -> opened prober_gone`},
		{"a server clock set back is not silence either", 5_000, `
			0 H
			1..20/1 tick
			-3600..-3590/1 tick
			-3589 tick -> opened prober_gone`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, reload := range []bool{false, true} {
				c := newCheck(1, "health", "local")
				c.Schedules[0].IntervalMs = test.interval
				w := newWorld(t, newServer(1, "file", c))
				script := ""
				for line := range lines(test.script) {
					script += line + "\n"
					if reload {
						script += "reload\n"
					}
				}
				w.run(script)
			}
		})
	}
}

// TestOneAlertForOneProber holds the promise that a dead prober is one alert and not one per server, and that its servers
// read as unknown.
func TestOneAlertForOneProber(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "env", newCheck(1, "health", "local")))
	for n := 2; n <= 50; n++ {
		w.step(base, &picketv1.CatalogChange{Change: "added", Server: newServer(n, "env", newCheck(n, "health", "local"))})
	}
	for n := 1; n <= 50; n++ {
		w.step(base.Add(50*time.Millisecond), newResult(checkID(n), "local", base, letters['H']))
	}
	if got := w.s.Status("default", "srv7"); got != letters['H'] {
		t.Errorf("before: %v", got)
	}
	w.run(`1..61/1 tick -> opened prober_gone`)
	if !w.s.Silent("default", "local") {
		t.Error("location is not silent")
	}
	if got := w.s.Status("default", "srv7"); got != letters['?'] {
		t.Errorf("while the prober is gone: %v, want unknown", got)
	}
	w.run(`90 H -> closed prober_gone recovered`)
	if got := w.s.Status("default", "srv7"); got != letters['H'] {
		t.Errorf("after: %v", got)
	}
	if got := w.s.Status("default", "nobody"); got != letters['?'] {
		t.Errorf("unknown server: %v", got)
	}
}

// TestScheduleSwitch: a version to come counts from its time on, also when the state was restored in between.
func TestScheduleSwitch(t *testing.T) {
	t.Parallel()
	for _, reload := range []string{"", "reload"} {
		testScheduleSwitch(t, reload)
	}
}

func testScheduleSwitch(t *testing.T, reload string) {
	c := newCheck(1, "health", "local")
	c.Schedules = []*picketv1.Schedule{
		{IntervalMs: 3_600_000, EffectiveAt: timestamppb.New(base.Add(-time.Hour))},
		{IntervalMs: 5_000, EffectiveAt: timestamppb.New(base.Add(100 * time.Second))},
		{IntervalMs: 0, EffectiveAt: timestamppb.New(base.Add(200 * time.Second))},
	}
	w := newWorld(t, newServer(1, "file", c))
	w.run(strings.ReplaceAll(`
		0 H
		1..50/1 tick
		RELOAD
		51..99/1 tick
		100 tick -> opened prober_gone
		RELOAD
		101..199/1 tick
		RELOAD
		200 tick -> closed prober_gone removed
		201..300/1 tick`, "RELOAD", reload))
}

func TestGaps(t *testing.T) {
	t.Parallel()
	s := New()
	at := func(seconds float64) time.Time { return base.Add(time.Duration(seconds * float64(time.Second))) }
	step := func(epoch int64, seq uint64, seconds float64) Output {
		return s.Step(Event{Epoch: epoch, Sequence: seq, Time: at(seconds), Payload: &picketv1.ClockTick{}})
	}
	for _, test := range []struct {
		epoch   int64
		seq     uint64
		seconds float64
		want    []Gap
	}{
		{1, 1, 0, nil},
		{1, 2, 5, nil},
		{1, 3, 10.001, []Gap{{1, 2, 3, at(5), at(10.001), GapBlind}}},
		{1, 7, 11, []Gap{{1, 4, 6, at(10.001), at(11), GapHole}}},
		{1, 9, 60, []Gap{{1, 8, 8, at(11), at(60), GapHole}}},
		{1, 8, 61, nil}, // told again
		{2, 1, 62, []Gap{{1, 10, 10, at(60), at(62), GapRecreated}}},
	} {
		if diff := cmp.Diff(test.want, step(test.epoch, test.seq, test.seconds).Gaps); diff != "" {
			t.Errorf("event %d of epoch %d: %s", test.seq, test.epoch, diff)
		}
	}
	s.Resume(2, 0) // rolled back
	if out := step(2, 1, 63); len(out.Gaps) > 0 || out.Skip != "" {
		t.Errorf("after resuming: %+v", out)
	}
	// Nothing is missing before the first event of all but its predecessors, and that is no alert.
	s = New()
	s.Resume(1, 0)
	if out := step(1, 100, 0); len(out.Gaps) != 1 || len(out.Transitions) != 0 {
		t.Errorf("first event: %+v", out)
	}
}

func TestStreamHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "file", newCheck(1, "health", "local")))
	w.seq += 10
	out := w.step(base.Add(time.Second), &picketv1.ClockTick{})
	if got := describe(out); got != "opened stream_hole" {
		t.Fatalf("hole: %q", got)
	}
	if tr := out.Transitions[0]; tr.Alert.Server != Platform || tr.Alert.Org != PlatformOrg {
		t.Errorf("alert %+v", tr.Alert)
	}
	w.run(`0 H`)
	w.seq++
	if got := describe(w.step(base.Add(2*time.Second), &picketv1.ClockTick{})); got != "" {
		t.Errorf("second hole: %q", got)
	}
	closed := ""
	for s := 3; s <= 302; s++ {
		w.s.heard(w.s.locations[orgName{"default", "local"}], &Output{})
		if text := describe(w.step(base.Add(time.Duration(s)*time.Second), &picketv1.ClockTick{})); text != "" {
			closed += text
			if s != 302 {
				t.Errorf("closed after %d s, want 300 after the last hole", s-2)
			}
		}
	}
	if closed != "closed stream_hole recovered" {
		t.Errorf("closing: %q", closed)
	}
}

func TestTransitionContents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "file", newCheck(1, "health", "local"), newCheck(2, "web", "local")))
	for i := range 8 {
		at := base.Add(time.Duration(i) * 30 * time.Second)
		result := newResult(checkID(2), "local", at, letters['D'])
		result.Reason, result.Message, result.HttpStatus, result.LatencyUs = "http_418", "teapot", 418, int64(1000+i)
		w.step(at.Add(time.Second), result)
	}
	opened := w.out[5].Transitions[0]
	opening := w.seq - 3
	want := Alert{
		ID:  identity("default", "system-health:srv1:web", testEpoch, 2, ""),
		Org: "default", Fingerprint: "system-health:srv1:web", Kind: KindDegraded, Severity: SeverityWarning, State: Open,
		Server: "srv1", Check: "web", CheckID: mustID(checkID(2)), Summary: "srv1 (web) is degraded: teapot",
		Since: base, PendingAt: base.Add(time.Second), OpenedAt: base.Add(121 * time.Second), Triggers: 5,
	}
	if diff := cmp.Diff(want, opened.Alert); diff != "" {
		t.Error(diff)
	}
	if opened.EventID != identity("default", "system-health:srv1:web", testEpoch, opening, Opened) || opened.Sequence != opening {
		t.Errorf("event %v of sequence %d, want %d", opened.EventID, opened.Sequence, opening)
	}
	event := opened.Event()
	if len(event.GetEvidence()) != 5 || event.GetEvidence()[0].GetLatencyUs() != 1000 || event.GetEvidence()[4].GetLatencyUs() != 1004 {
		t.Errorf("evidence %v", event.GetEvidence())
	}
	if event.GetState() != Open || event.GetTransition() != Opened || !event.GetOpenedAt().AsTime().Equal(want.OpenedAt) ||
		event.GetAlertId() != want.ID.String() {
		t.Errorf("event %v", event)
	}
	if got := w.s.Counts(); !cmp.Equal(got, map[Count]int{{SeverityWarning, Open}: 1}) {
		t.Errorf("counts %v", got)
	}
	// The evidence is the last five, oldest first.
	for i := range 2 {
		at := base.Add(time.Duration(8+i) * 30 * time.Second)
		result := newResult(checkID(2), "local", at, letters['C'])
		result.LatencyUs = int64(1008 + i)
		w.step(at.Add(time.Second), result)
	}
	updated := w.out[len(w.out)-1].Transitions
	if len(updated) != 1 || updated[0].Name != Updated {
		t.Fatalf("transitions %+v, want one update", updated)
	}
	for i, e := range updated[0].Evidence {
		if e.GetLatencyUs() != int64(1005+i) {
			t.Errorf("evidence %d is result %d, want %d", i, e.GetLatencyUs()-1000, 5+i)
		}
	}
	if updated[0].Alert.ID != opened.Alert.ID || updated[0].EventID == opened.EventID {
		t.Error("an update is another event of the same alert")
	}
	// What comes from outside is bounded.
	long := newResult(checkID(2), "local", base.Add(time.Hour), letters['C'])
	for range 1000 {
		long.Message += "ä!\x00\xff"
	}
	w.step(base.Add(time.Hour), long)
	if got := w.s.checks[mustID(checkID(2))].evidence; len(got[len(got)-1].message) > 256 ||
		strings.Contains(got[len(got)-1].message, "\x00") || !utf8.ValidString(got[len(got)-1].message) {
		t.Errorf("message of %d bytes kept", len(got[len(got)-1].message))
	}
}
