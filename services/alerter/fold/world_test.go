package fold

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// base is a whole minute, far from any edge.
var base = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const testEpoch = 1_700_000_000_000_000_000

// world is a state with one server, and the stream it reads.
type world struct {
	t   testing.TB
	s   *State
	seq uint64
	def *picketv1.Server
	out []Output // of every event
	now time.Time
}

func serverID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }
func checkID(n int) string  { return fmt.Sprintf("00000000-0000-4000-9000-%012x", n) }

func newCheck(n int, name string, locations ...string) *picketv1.Check {
	return &picketv1.Check{
		Name: name, Kind: "http", Id: checkID(n), TimeoutMs: 5000, Locations: locations,
		Schedules: []*picketv1.Schedule{{IntervalMs: 30_000, EffectiveAt: timestamppb.New(base.Add(-time.Hour))}},
	}
}

func newServer(n int, source string, checks ...*picketv1.Check) *picketv1.Server {
	return &picketv1.Server{
		Name: fmt.Sprintf("srv%d", n), Org: "default", Id: serverID(n), Lifecycle: "active", Source: source, Revision: 1, Checks: checks,
	}
}

func newWorld(t testing.TB, def *picketv1.Server) *world {
	w := &world{t: t, s: New(), def: def}
	w.step(base, &picketv1.CatalogChange{Change: "added", Server: def})
	return w
}

func (w *world) step(at time.Time, payload any) Output {
	w.seq++
	w.now = at
	out := w.s.Step(Event{Epoch: testEpoch, Sequence: w.seq, Time: at, Payload: payload})
	w.out = append(w.out, out)
	return out
}

// change publishes the server as it is now.
func (w *world) change(change string) Output {
	w.def.Revision++
	return w.step(w.now, &picketv1.CatalogChange{Change: change, Server: w.def})
}

var letters = map[byte]picketv1.Status{
	'H': picketv1.Status_STATUS_HEALTHY, 'D': picketv1.Status_STATUS_DEGRADED, 'U': picketv1.Status_STATUS_UNREACHABLE,
	'C': picketv1.Status_STATUS_CRITICAL, '?': picketv1.Status_STATUS_UNKNOWN,
}

func newResult(check, location string, scheduled time.Time, status picketv1.Status) *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Status: status, CheckId: check, Location: location, ScheduledAt: timestamppb.New(scheduled), Org: "default",
	}
}

// describe writes transitions as scripts do: `opened critical`, `closed critical recovered`.
func describe(out Output) string {
	var words []string
	for _, tr := range out.Transitions {
		text := tr.Name + " " + tr.Alert.Kind
		if tr.Alert.Reason != "" {
			text += " " + tr.Alert.Reason
		}
		words = append(words, text)
	}
	return strings.Join(words, ", ")
}

// run plays a script, one event a line:
//
//	<seconds>[..<seconds>/<step>] <letters> [loc=b] [check=1] [lag=<seconds>] [-> transitions of the last result]
//	<seconds>[..<seconds>/<step>] tick
//	maintenance | active | inactive | remove | disable | enable | ack <fingerprint> | close <fingerprint> | reload | lose | republish | identity
//
// Letters are statuses HDUC?, O is a critical one on demand; several follow each other at the step.
func (w *world) run(script string) {
	w.t.Helper()
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		event, want, _ := strings.Cut(line, "->")
		if got := describe(w.play(strings.Fields(event))); got != strings.TrimSpace(want) {
			w.t.Fatalf("%s\n got: %s", line, got)
		}
	}
}

func (w *world) play(words []string) Output {
	w.t.Helper()
	switch words[0] {
	case "maintenance", "active", "inactive":
		w.def.Lifecycle = words[0]
		return w.change("changed")
	case "change":
		return w.change("changed")
	case "remove":
		return w.change("removed")
	case "disable", "enable":
		w.s.SetEnabled(words[0] == "enable")
		return Output{}
	case "ack":
		return w.command(VerbAcknowledge, words[1])
	case "close":
		return w.command(VerbClose, words[1])
	case "lose":
		// The stream is another one, and there is no snapshot: what is known are the alerts of the database.
		alerts := w.s.Alerts()
		w.s = New()
		w.s.Reconcile(alerts)
		w.s.Resume(testEpoch, w.seq)
		return Output{}
	case "identity":
		w.def.Checks[0].Id = checkID(98)
		return Output{}
	case "republish":
		return w.step(w.now, &picketv1.CatalogChange{Change: "changed", Server: w.def})
	case "reload":
		w.s.Touch()
		restored, err := Restore(testEpoch, w.seq, w.s.Changed())
		if err != nil {
			w.t.Fatal(err)
		}
		w.s = restored
		return Output{}
	}
	from, to, by := w.span(words[0])
	location, id, lag := "local", w.def.Checks[0].GetId(), 50*time.Millisecond
	for _, option := range words[2:] {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "loc":
			location = value
		case "check":
			id = w.def.Checks[w.number(value)].GetId()
		case "lag":
			lag = time.Duration(w.number(value)) * time.Second
		default:
			w.t.Fatalf("option %q", option)
		}
	}
	var all Output
	for i := 0; from <= to; i, from = i+1, from+by {
		at := base.Add(time.Duration(from) * time.Second)
		var out Output
		if words[1] == "tick" {
			out = w.step(at, &picketv1.ClockTick{At: timestamppb.New(at)})
		} else {
			letter := words[1][min(i, len(words[1])-1)]
			result := newResult(id, location, at, letters[letter])
			if letter == 'O' {
				result.Status, result.OnDemand = picketv1.Status_STATUS_CRITICAL, true
			}
			out = w.step(at.Add(lag), result)
		}
		all.Transitions = append(all.Transitions, out.Transitions...)
	}
	return all
}

// command says of the alert with the fingerprint what alice wants; of none when there is none.
func (w *world) command(verb, fingerprint string) Output {
	command := &picketv1.Command{Verb: verb, Org: "default", Actor: "alice", Note: "on it", AlertId: checkID(99)}
	for _, a := range w.s.Alerts() {
		if a.Fingerprint == fingerprint {
			command.AlertId = a.ID.String()
		}
	}
	return w.step(w.now, command)
}

func (w *world) span(text string) (from, to, by int) {
	w.t.Helper()
	first, rest, many := strings.Cut(text, "..")
	if !many {
		return w.number(first), w.number(first), 1
	}
	last, step, _ := strings.Cut(rest, "/")
	return w.number(first), w.number(last), w.number(step)
}

func (w *world) number(text string) int {
	w.t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func mustID(text string) uuid.UUID { return uuid.MustParse(text) }

// lines yields the lines of a script that are not empty.
func lines(script string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(script) {
			if line = strings.TrimSpace(line); line != "" && !yield(line) {
				return
			}
		}
	}
}
