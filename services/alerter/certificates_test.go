package alerter

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestCertificates(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Unix(1_800_000_000, 0).AddDate(0, 0, n) }
	result := func(server, check string, change func(*picketv1.ProbeResult)) *picketv1.ProbeResult {
		r := &picketv1.ProbeResult{Org: "default", Server: server, CheckId: check, Location: "local", Status: picketv1.Status_STATUS_HEALTHY}
		change(r)
		return r
	}
	ends := func(n int) func(*picketv1.ProbeResult) {
		return func(r *picketv1.ProbeResult) { r.CertificateNotAfter = timestamppb.New(day(n)) }
	}
	var c certificates
	holds := func(what string, soonest int64, within7, within30 int) {
		t.Helper()
		got, expiring := c.ends(day(7), day(30))
		if got != soonest || expiring[0] != within7 || expiring[1] != within30 {
			t.Errorf("%s: soonest %d, %v expiring, want %d, %d and %d", what, got, expiring, soonest, within7, within30)
		}
	}
	holds("none seen", 0, 0, 0)
	c.saw(result("a", "1", ends(90)))
	c.saw(result("a", "2", ends(20)))
	c.saw(result("b", "3", ends(-1)))
	holds("three seen", day(-1).Unix(), 1, 2)
	c.saw(result("b", "3", ends(365)))
	holds("one renewed", day(20).Unix(), 0, 1)
	c.saw(result("a", "2", func(r *picketv1.ProbeResult) { r.Status = picketv1.Status_STATUS_UNREACHABLE }))
	c.saw(result("a", "2", func(r *picketv1.ProbeResult) { r.ConnectionReused = true }))
	holds("nothing shown this time", day(20).Unix(), 0, 1)
	c.saw(result("a", "2", func(*picketv1.ProbeResult) {}))
	holds("it speaks without TLS now", day(90).Unix(), 0, 0)
	c.saw(&picketv1.CatalogChange{Change: "changed", Server: &picketv1.Server{Org: "default", Name: "a"}})
	holds("its server was changed", day(365).Unix(), 0, 0)
	c.saw(&picketv1.CatalogChange{Change: "removed", Server: &picketv1.Server{Org: "default", Name: "b"}})
	holds("the last is gone", 0, 0, 0)
	if len(c.of) != 0 {
		t.Errorf("%d servers are remembered for nothing", len(c.of))
	}
}

// The figures are the fleet's, however many targets there are, and are of known checks only.
func TestCertificateFigures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.alerter("one", "")
	stop := f.start(s)
	f.add(1)
	f.tick = f.tick.Add(time.Second)
	end := time.Now().AddDate(0, 0, 10).Truncate(time.Second)
	for n, notAfter := range map[int]time.Time{1: end, 2: end.AddDate(0, 0, -9)} {
		f.send(&picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_HEALTHY, Server: serverName(n), Check: "health", CheckId: checkID(n), Location: "local",
			Org: "default", ScheduledAt: timestamppb.New(f.tick), CertificateNotAfter: timestamppb.New(notAfter),
		})
	}
	wait(t, "the soonest end", func() bool {
		return testutil.CollectAndCount(s.metrics.notAfter) == 1 && gauge(s.metrics.notAfter.WithLabelValues()) == float64(end.Unix())
	})
	if week, month := gauge(s.metrics.expiring.WithLabelValues("7d")), gauge(s.metrics.expiring.WithLabelValues("30d")); week != 0 || month != 1 {
		t.Errorf("%v end within 7 days and %v within 30, want 0 and 1", week, month)
	}
	stop()
	if n := testutil.CollectAndCount(s.metrics.notAfter); n != 0 {
		t.Errorf("%d series after the lead is over", n)
	}
}
