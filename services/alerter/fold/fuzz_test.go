package fold

import (
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// FuzzRestore: any bytes are refused or make a state that goes on; nothing panics, and a state that is accepted comes
// through another snapshot.
func FuzzRestore(f *testing.F) {
	w := newWorld(f, newServer(0, "env", newCheck(0, "health", "a", "b"), newCheck(1, "web", "a")))
	w.run(`0..30/30 CC loc=a
		0 C loc=b lag=30 -> pending critical
		1..31/1 tick`)
	w.s.Touch()
	seed := map[int][]byte{}
	for _, c := range w.s.Changed() {
		if c.Data != nil {
			seed[c.ID] = c.Data
		}
	}
	f.Add(seed[0], seed[1], seed[1+shards])
	command := func(s *State, verb string) *picketv1.Command {
		command := &picketv1.Command{Verb: verb, Org: "default", AlertId: checkID(99)}
		for _, a := range s.Alerts() {
			command.Org, command.AlertId = a.Org, a.ID.String()
		}
		return command
	}
	f.Fuzz(func(t *testing.T, head, catalog, state []byte) {
		s, err := Restore(testEpoch, 100, []Chunk{{0, head}, {1, catalog}, {1 + shards, state}})
		if err != nil {
			return
		}
		for i, payload := range []any{
			&picketv1.ClockTick{}, newResult(checkID(0), "a", base.Add(time.Minute), letters['C']),
			newResult(checkID(0), "b", base.Add(time.Minute), letters['H']),
			command(s, VerbAcknowledge), command(s, VerbClose),
			&picketv1.CatalogChange{Change: "removed", Server: newServer(0, "env")}, &picketv1.ClockTick{},
		} {
			for _, tr := range s.Step(Event{Epoch: testEpoch, Sequence: uint64(101 + i), Time: base.Add(time.Minute), Payload: payload}).Transitions {
				_ = tr.Event()
			}
		}
		s.Touch()
		if _, err := Restore(testEpoch, 107, s.Changed()); err != nil {
			t.Fatal(err)
		}
	})
}
