package alerter

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// BenchmarkDecisionToCommit publishes 3,000 results a second of 1,000 checks, of which each fails three times in every twenty,
// and reports the time from the stream's having a deciding result to the row of its transition.
func BenchmarkDecisionToCommit(b *testing.B) {
	const checks, perSlot, slot = 1000, 30, 10 * time.Millisecond
	f := newFixture(b)
	s := f.alerter("bench", "")
	f.start(s)
	for n := range checks {
		f.add(n)
	}
	waitLeader(b, s)
	ticker := time.NewTicker(slot)
	defer ticker.Stop()
	sent := 0
	for b.Loop() {
		<-ticker.C
		batch := make([]bus.Message, perSlot)
		for i := range batch {
			n, round := sent%checks, sent/checks
			status := picketv1.Status_STATUS_HEALTHY
			if (n+round)%20 < 3 {
				status = picketv1.Status_STATUS_CRITICAL
			}
			batch[i] = bus.Message{
				Subject: bus.ProbeSubject("default", status, "local", serverName(n), "health"), Time: time.Now(),
				Payload: &picketv1.ProbeResult{
					Status: status, CheckId: checkID(n), Location: "local", Org: "default", Server: serverName(n), Check: "health",
					ScheduledAt: timestamppb.New(f.tick.Add(time.Duration(round) * time.Second)),
				},
			}
			sent++
		}
		if err := f.conn.PublishAll(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	took := b.Elapsed()
	last := f.send(&picketv1CatalogNoop)
	wait(b, "the rest", func() bool { return s.at.Load() >= last })
	var transitions int
	var p50, p99 float64
	if err := f.db.QueryRow(b.Context(), `
		SELECT count(*), coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM noted_at - at)), 0),
		       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM noted_at - at)), 0) FROM alert_events`).
		Scan(&transitions, &p50, &p99); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(p50*1000, "ms/p50")
	b.ReportMetric(p99*1000, "ms/p99")
	b.ReportMetric(float64(sent)/took.Seconds(), "results/s")
	b.ReportMetric(float64(transitions)/took.Seconds(), "transitions/s")
}
