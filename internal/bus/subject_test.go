package bus_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		subject string
		want    string
		parsed  bus.Subject
	}{
		"probe": {
			bus.ProbeSubject("default", picketv1.Status_STATUS_UNREACHABLE, "eu-west", "checkout", "health"),
			"picket.default.probe.unreachable.eu-west.checkout.health",
			bus.Subject{Family: "probe", Org: "default", Status: picketv1.Status_STATUS_UNREACHABLE, Location: "eu-west", Server: "checkout", Check: "health"},
		},
		"probe without a status": {
			bus.ProbeSubject("default", 0, "local", "a", "health"),
			"picket.default.probe.unknown.local.a.health",
			bus.Subject{Family: "probe", Org: "default", Status: picketv1.Status_STATUS_UNKNOWN, Location: "local", Server: "a", Check: "health"},
		},
		"catalog": {
			bus.CatalogSubject("default", "added", "checkout"),
			"picket.default.catalog.added.checkout",
			bus.Subject{Family: "catalog", Org: "default", Verb: "added", Server: "checkout"},
		},
		"alert": {
			bus.AlertSubject("default", "opened", "critical", ""),
			"picket.default.alert.opened.critical._platform",
			bus.Subject{Family: "alert", Org: "default", Verb: "opened", Severity: "critical", Server: "_platform"},
		},
		"dead of nobody": {
			bus.DeadSubject("", "PICKET_EVENTS", "writer"),
			"picket._.dead.picket_events.writer",
			bus.Subject{Family: "dead", Org: "_", Stream: "picket_events", Consumer: "writer"},
		},
		"worker": {
			bus.WorkerSubject("prober", "local", "Host.Example-12"),
			"picket.worker.prober.local.host-example-12",
			bus.Subject{Family: "worker", Verb: "prober", Location: "local", ID: "host-example-12"},
		},
		"clock": {bus.ClockSubject, "picket.clock.tick", bus.Subject{Family: "clock"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.subject != test.want {
				t.Errorf("built %q, want %q", test.subject, test.want)
			}
			parsed, err := bus.ParseSubject(test.subject)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.parsed, parsed); diff != "" {
				t.Errorf("parsed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSubjectRefuses(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		"", "picket", "picket.default", "other.default.probe.healthy.local.a.health",
		"picket.default.probe.sleepy.local.a.health", "picket.default.probe.healthy.local.a",
		"picket.default.probe.healthy.local.a.health.more", "picket.default.probe.healthy.local..health",
		"picket.default.probe.healthy.*.a.health", "picket.Default.probe.healthy.local.a.health",
		"picket.worker.probe.healthy.local.a.health", "picket._.probe.healthy.local.a.health",
		"picket.default.unheard.a.b", "picket.default.probe.healthy.local.a." + strings.Repeat("h", 64),
	} {
		if parsed, err := bus.ParseSubject(subject); err == nil {
			t.Errorf("%q was taken for %+v", subject, parsed)
		}
	}
}

// FuzzSubject: whatever the words are, what is built is one safe subject that
// parses back to the same tokens, so no name can reach into another's subjects.
func FuzzSubject(f *testing.F) {
	f.Add("default", "local", "checkout", "health")
	f.Add("a.b", "*", ">", "")
	f.Add("Ä", "with space", "\x00", strings.Repeat("x", 300))
	f.Fuzz(func(t *testing.T, org, location, server, check string) {
		subject := bus.ProbeSubject(org, picketv1.Status_STATUS_HEALTHY, location, server, check)
		if strings.Count(subject, ".") != 6 || strings.ContainsAny(subject, "*> \t\r\n") {
			t.Fatalf("unsafe subject %q", subject)
		}
		parsed, err := bus.ParseSubject(subject)
		if reserved := bus.Token(org); err != nil && reserved != "_" && reserved != "work" && reserved != "worker" && reserved != "dead" && reserved != "clock" {
			t.Fatalf("%q does not parse: %v", subject, err)
		}
		if err == nil && (parsed.Server != bus.Token(server) || parsed.Check != bus.Token(check) || parsed.Location != bus.Token(location)) {
			t.Fatalf("%q parses to %+v", subject, parsed)
		}
		_, _ = bus.ParseSubject(org)
	})
}
