package fold

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const benchChecks = 100_000

func benchFleet(b *testing.B) (*State, []*picketv1.ProbeResult) {
	s := New()
	results := make([]*picketv1.ProbeResult, benchChecks)
	for n := range benchChecks {
		s.Step(Event{
			Epoch: 1, Sequence: uint64(n + 1), Time: base,
			Payload: &picketv1.CatalogChange{Change: "added", Server: newServer(n, "file", newCheck(n, "health", "local"))},
		})
		results[n] = newResult(checkID(n), "local", base, letters['H'])
		results[n].ScheduledAt = &timestamppb.Timestamp{Seconds: base.Unix()}
	}
	b.ResetTimer()
	return s, results
}

// BenchmarkStep folds results of 100,000 checks in turn: healthy, and one in a hundred failing.
func BenchmarkStep(b *testing.B) {
	for _, test := range []struct {
		name string
		bad  int
	}{{"healthy", 0}, {"1%_failing", 100}} {
		b.Run(test.name, func(b *testing.B) {
			s, results := benchFleet(b)
			seq := uint64(benchChecks)
			for b.Loop() {
				i := int(seq % benchChecks)
				round := int64(seq / benchChecks)
				r := results[i]
				r.ScheduledAt.Seconds = base.Unix() + 30*round
				if r.Status = letters['H']; test.bad > 0 && i%test.bad == 0 {
					r.Status = letters['U']
				}
				seq++
				s.Step(Event{Epoch: 1, Sequence: seq, Time: time.Unix(r.ScheduledAt.Seconds, 0), Payload: r})
			}
		})
	}
}

// BenchmarkSnapshot encodes what 10 seconds of 100,000 checks at 30 s change: about everything but the catalog.
func BenchmarkSnapshot(b *testing.B) {
	s, results := benchFleet(b)
	seq := uint64(benchChecks)
	s.Changed() // the catalog, once
	size := 0
	for b.Loop() {
		b.StopTimer()
		for i, r := range results {
			if i%3 != 0 {
				continue
			}
			r.ScheduledAt.Seconds++
			seq++
			s.Step(Event{Epoch: 1, Sequence: seq, Time: base.Add(time.Minute), Payload: r})
		}
		b.StartTimer()
		size = 0
		for _, c := range s.Changed() {
			size += len(c.Data)
		}
	}
	b.ReportMetric(float64(size)/benchChecks, "B/check")
}
