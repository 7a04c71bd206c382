package fold

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestRules(t *testing.T) {
	t.Parallel()
	one := func(source, name, kind string) *picketv1.Server {
		c := newCheck(1, name, "local")
		c.Kind = kind
		return newServer(1, source, c)
	}
	with := func(rules *picketv1.AlertRules, locations ...string) *picketv1.Server {
		c := newCheck(1, "health", locations...)
		c.Alerts = rules
		return newServer(1, "file", c)
	}
	for _, test := range []struct {
		name   string
		def    *picketv1.Server
		script string
	}{
		{"environment: two bad ticks of any kind open, two good close", one("env", "health", "http"), `
			0 H
			30 D  -> pending degraded
			60 U  -> opened degraded
			90 H
			120 D
			150 H
			180 H -> closed degraded recovered`},
		{"environment: the kind is the worst that both reached", one("env", "health", "http"), `
			0 C   -> pending critical
			30 U  -> opened unreachable`},
		{"one bad result that clears is no incident", one("env", "health", "http"), `
			0 C   -> pending critical
			30 H  -> closed critical cleared
			60 C  -> pending critical
			90 C  -> opened critical`},
		{"critical after 2", one("file", "health", "http"), `
			0 C   -> pending critical
			30 C  -> opened critical
			60 H
			90 H  -> closed critical recovered`},
		{"unreachable for 5 minutes, not before", one("file", "health", "http"), `
			0 U   -> pending unreachable
			30..270/30 U
			300 U -> opened unreachable`},
		{"a good result begins the 5 minutes anew", one("api", "health", "http"), `
			0 U   -> pending unreachable
			30..270/30 U
			300 H -> closed unreachable cleared
			330 U -> pending unreachable
			360..600/30 U
			630 U -> opened unreachable`},
		{"degraded after 5", one("file", "health", "http"), `
			0 D   -> pending degraded
			30..90/30 D
			120 D -> opened degraded`},
		{"critical and unreachable in turn open, as what both are", one("file", "health", "http"), `
			0 C   -> pending critical
			30..90/30 UCU
			120 C -> opened unreachable`},
		{"unreachable does not meet the rule of degraded while it has a duration", one("file", "health", "http"), `
			0 D   -> pending degraded
			30..150/30 UUUUU
			180 D -> opened degraded`},
		{"metrics failing after 3, one kind whatever the status", one("env", "metrics", "metrics"), `
			0 C   -> pending metrics_failing
			30 U
			60 D  -> opened metrics_failing
			90 C
			120 C
			150..180/30 HH -> closed metrics_failing recovered`},
		{"a missing partition opens at once", one("self", "partition", "reported"), `
			0 D   -> opened partition_missing
			30 C
			60 H
			90 H  -> closed partition_missing recovered`},
		{"worse at once by its own rule, better after close_after", one("env", "health", "http"), `
			0 D   -> pending degraded
			30 D  -> opened degraded
			60 C
			90 C  -> updated critical
			120 U
			150 U -> updated unreachable
			180 H
			210 D -> updated degraded
			240 H
			270 H -> closed degraded recovered`},
		{"unknown and on demand move nothing", one("env", "health", "http"), `
			0 C   -> pending critical
			30 ?
			60 O
			90 H  -> closed critical cleared
			120 C -> pending critical
			150 ?
			180 C -> opened critical
			210 H
			240 ?
			270 H -> closed critical recovered`},
		{"doubles and late comers move nothing", one("env", "health", "http"), `
			0 C   -> pending critical
			0 C
			0 H lag=40
			-30 C lag=90
			30 C  -> opened critical
			30 H lag=30
			0 H lag=61
			60 H
			60 H
			90 H  -> closed critical recovered`},
		{"a real result after a missed marker of the same tick counts", one("env", "health", "http"), `
			0 ?
			0 C   -> pending critical
			30 ?
			30 C  -> opened critical`},
		{"own rules", with(&picketv1.AlertRules{
			CriticalAfter: 1, UnreachableAfter: 3, UnreachableForMs: 1, DegradedAfter: 2, CloseAfter: 3,
		}, "local"), `
			0 C   -> opened critical
			30..60/30 HH
			90 H  -> closed critical recovered
			120 U -> pending unreachable
			150 U
			180 U -> opened unreachable`},
		{"acknowledged closes and changes like open", one("env", "health", "http"), `
			ack system-health:srv1
			0 D   -> pending degraded
			ack system-health:srv1
			30 D  -> opened degraded
			ack system-health:srv1 -> acknowledged degraded
			ack system-health:srv1
			60 C
			90 C  -> updated critical
			120 H
			150 H -> closed critical recovered`},
		{"closed by hand: only the last result counts on", with(&picketv1.AlertRules{CriticalAfter: 3}, "local"), `
			close system-health:srv1
			0 C   -> pending critical
			close system-health:srv1
			30 C
			60 C  -> opened critical
			ack system-health:srv1 -> acknowledged critical
			close system-health:srv1 -> closed critical manual
			close system-health:srv1
			reload
			90 C  -> pending critical
			120 C -> opened critical
			close system-health:srv1 -> closed critical manual
			150 H
			180 C -> pending critical
			disable
			close system-health:srv1
			enable
			210 H -> closed critical cleared`},
		{"maintenance opens nothing; afterwards the ordinary rules", one("env", "health", "http"), `
			maintenance
			0..120/30 C
			active
			150 C -> opened critical
			maintenance
			180 H
			210 U
			240 U
			270 H
			300 H -> closed critical recovered
			330 C
			360 C
			390 H
			active
			420 H
			450 C -> pending critical`},
		{"a good result after maintenance opens nothing", one("env", "health", "http"), `
			maintenance
			0..60/30 C
			active
			90 H`},
		{"a pending alert waits in maintenance", one("env", "health", "http"), `
			0 C   -> pending critical
			maintenance
			30 C
			active
			60 C  -> opened critical`},
		{"a good result opens nothing, though its location still counts as failing", with(&picketv1.AlertRules{
			Quorum: 1, CriticalAfter: 2,
		}, "a", "b"), `
			0 C loc=b -> pending critical
			maintenance
			200..230/30 CC loc=a
			active
			260 H loc=a
			290 C loc=a -> opened critical`},
		{"inactive closes, and what follows is a new story", one("env", "health", "http"), `
			0..30/30 CC -> pending critical, opened critical
			inactive -> closed critical removed
			60 C
			active
			90 C  -> pending critical
			120 C -> opened critical`},
		{"removal closes", one("env", "health", "http"), `
			0 C   -> pending critical
			remove -> closed critical removed
			30 C`},
		{"disabled: streaks go on, transitions do not", one("env", "health", "http"), `
			0 C   -> pending critical
			disable
			30 C
			60 C
			reload
			enable
			90 C  -> opened critical
			disable
			120..150/30 HH
			enable
			180 H -> closed critical recovered`},
		{"disabled: what was removed meanwhile closes when enabled", one("env", "health", "http"), `
			0 C   -> pending critical
			disable
			remove
			reload
			1 tick
			enable
			2 tick -> closed critical removed`},
		{"a majority of locations", with(&picketv1.AlertRules{CriticalAfter: 2}, "a", "b", "c"), `
			0 C loc=a
			30 C loc=a
			0 H loc=c lag=31
			60 C loc=b -> pending critical
			90 C loc=b -> opened critical
			90 C loc=c
			90 H loc=a
			120 C loc=c
			120 H loc=a
			150 H loc=b
			150 H loc=c
			180 H loc=b -> closed critical recovered`},
		{"quorum 1 of 2", with(&picketv1.AlertRules{Quorum: 1}, "a", "b"), `
			0 H loc=b
			0 C loc=a -> pending critical
			30 H loc=b
			30 C loc=a -> opened critical
			60..90/30 H loc=a -> closed critical recovered`},
		{"more quorum than locations is all of them", with(&picketv1.AlertRules{Quorum: 9, CriticalAfter: 1}, "a", "b"), `
			0 C loc=a
			0 C loc=b -> opened critical`},
		{"a location that is not fresh brings nothing forth", with(&picketv1.AlertRules{CriticalAfter: 1}, "a", "b"), `
			0 C loc=a
			120 C loc=b
			150 C loc=a -> opened critical`},
		{"having stopped to look is no recovery", with(&picketv1.AlertRules{CriticalAfter: 1}, "a", "b", "c"), `
			0 C loc=a
			0 C loc=b -> opened critical
			600 H loc=a
			630 C loc=a
			660 H loc=a
			690 H loc=a -> closed critical recovered`},
		{"results that arrive late open nothing until a fresh one is bad", one("env", "health", "http"), `
			0..120/30 CCCCC lag=600
			690 C -> opened critical`},
		{"contract: scheduled_at within 25 h back and 60 s ahead", one("env", "health", "http"), `
			0 C lag=90001
			90001 C lag=-61
			90001 C lag=-60 -> pending critical`},
		{"a location taken away no longer votes", with(&picketv1.AlertRules{CriticalAfter: 1}, "a", "b"), `
			0 C loc=a
			0 C loc=b -> opened critical
			0 C loc=elsewhere`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			newWorld(t, test.def).run(test.script)
			// The same with a snapshot between any two events.
			w := newWorld(t, test.def)
			w.def.Revision, w.def.Lifecycle = 1, "active"
			w = newWorld(t, test.def)
			script := ""
			for line := range lines(test.script) {
				script += line + "\nreload\n"
			}
			w.run(script)
		})
	}
}

func TestQuorumChange(t *testing.T) {
	t.Parallel()
	c := newCheck(1, "health", "a", "b")
	w := newWorld(t, newServer(1, "env", c))
	w.run(`
		0..30/30 CC loc=a
		0 C loc=b lag=31 -> pending critical
		30 C loc=b -> opened critical
		60 H loc=b
		`)
	c.Locations = []string{"b"}
	w.run(`change
		90 H loc=a
		90 H loc=b -> closed critical recovered`)
}

func TestRenamedCheck(t *testing.T) {
	t.Parallel()
	c := newCheck(1, "health", "local")
	w := newWorld(t, newServer(1, "env", c))
	w.run(`0..30/30 CC -> pending critical, opened critical`)
	c.Name = "web"
	w.run(`
		change -> closed critical removed
		60 C -> opened critical`)
	if got := w.s.Alerts(); len(got) != 1 || got[0].Fingerprint != "system-health:srv1:web" {
		t.Errorf("alerts %+v", got)
	}
}

func TestCatalogRevisions(t *testing.T) {
	t.Parallel()
	def := newServer(1, "env", newCheck(1, "health", "local"))
	def.Revision = 5
	w := newWorld(t, def)
	change := func(kind string, revision int64) Skip {
		server := newServer(1, "env", newCheck(1, "health", "local"))
		server.Revision = revision
		return w.step(w.now.Add(time.Second), &picketv1.CatalogChange{Change: kind, Server: server}).Skip
	}
	for i, test := range []struct {
		kind     string
		revision int64
		want     Skip
	}{
		{"changed", 4, SkipRevision},
		{"changed", 5, SkipRevision},
		{"changed", 6, ""},
		{"removed", 5, SkipRevision},
		{"removed", 6, ""},
		{"changed", 6, SkipRevision}, // published before the removal
		{"added", 7, ""},
	} {
		if got := change(test.kind, test.revision); got != test.want {
			t.Errorf("%d: %s revision %d: skip %q, want %q", i, test.kind, test.revision, got, test.want)
		}
	}
	// The tombstone goes after 25 hours.
	change("removed", 8)
	w.step(w.now.Add(26*time.Hour), &picketv1.ClockTick{})
	if len(w.s.tombs) != 0 || len(w.s.buried) != 0 {
		t.Errorf("%d tombstones, %d buried after 26 hours", len(w.s.tombs), len(w.s.buried))
	}
}

func TestHostileCatalog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "env", newCheck(1, "health", "local")))
	same := newServer(2, "env", newCheck(2, "health", "local"), newCheck(2, "other", "local"))
	names := newServer(2, "env", newCheck(2, "health", "local"), newCheck(3, "health", "local"))
	foreign := newServer(2, "env", newCheck(1, "health", "local"))
	noID := newServer(2, "env", newCheck(2, "health", "local"))
	noID.Id = "x"
	nul := newServer(2, "env", newCheck(2, "health", "local"))
	nul.Name = "a\x00b"
	place := newServer(2, "env", newCheck(2, "health", "local", "\xff"))
	for i, server := range []*picketv1.Server{nil, {}, same, names, foreign, noID, nul, place} {
		if out := w.step(w.now, &picketv1.CatalogChange{Change: "added", Server: server}); out.Skip != SkipContract {
			t.Errorf("%d: skip %q, want %q", i, out.Skip, SkipContract)
		}
	}
	// The same name under another id replaces the old one and closes its alerts.
	w.run(`0..30/30 CC -> pending critical, opened critical`)
	successor := newServer(1, "env", newCheck(9, "health", "local"))
	successor.Id = serverID(9)
	out := w.step(w.now, &picketv1.CatalogChange{Change: "added", Server: successor})
	if got := describe(out); got != "closed critical removed" {
		t.Errorf("successor: %q", got)
	}
	if w.s.Checks() != 1 {
		t.Errorf("%d checks, want 1", w.s.Checks())
	}
}

func TestHostileResults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newServer(1, "env", newCheck(1, "health", "local")))
	far := &timestamppb.Timestamp{Seconds: 253402300799}
	for i, test := range []struct {
		result *picketv1.ProbeResult
		want   Skip
	}{
		{nil, SkipContract},
		{&picketv1.ProbeResult{}, SkipContract},
		{newResult("nonsense", "local", base, letters['C']), SkipContract},
		{newResult(checkID(1), "local", base, 0), SkipContract},
		{newResult(checkID(1), "local", base, 77), SkipContract},
		{newResult(checkID(2), "local", base, letters['C']), SkipUnknown},
		{newResult(checkID(1), "mars", base, letters['C']), SkipUnknown},
		{newResult(checkID(1), "local", time.Unix(0, 0), letters['C']), SkipContract},
		{&picketv1.ProbeResult{CheckId: checkID(1), Location: "local", Status: letters['C'], ScheduledAt: far}, SkipContract},
		{&picketv1.ProbeResult{
			CheckId: checkID(1), Location: "local", Status: letters['C'], ScheduledAt: &timestamppb.Timestamp{Seconds: 1 << 62},
		}, SkipContract},
	} {
		if got := w.step(base, test.result); got.Skip != test.want || len(got.Transitions) > 0 {
			t.Errorf("%d: skip %q, want %q", i, got.Skip, test.want)
		}
	}
	if out := w.step(base, struct{}{}); out.Skip != "" || len(out.Transitions) > 0 {
		t.Errorf("unknown payload: %+v", out)
	}
}
