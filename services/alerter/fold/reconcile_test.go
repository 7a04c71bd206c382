package fold

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// TestIncidentOutlastsTheStream: when the stream is lost with everything that was not in a snapshot, what the database has is
// the same incident as before: it is closed by what is seen, once, and opened by nothing.
func TestIncidentOutlastsTheStream(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"it lasts": `
			0..30/30 CC -> pending critical, opened critical
			lose
			31 tick
			republish
			60..120/30 CCC
			150 H
			180 H -> closed critical recovered
			210..240/30 CC -> pending critical, opened critical`,
		"it ends while nobody looks": `
			0..30/30 CC -> pending critical, opened critical
			lose
			31 tick
			republish
			60 H
			90 H -> closed critical recovered`,
		"it turns better": `
			0..30/30 CC -> pending critical, opened critical
			lose
			republish
			60 D
			90 D -> updated degraded
			120 H
			150 H -> closed degraded recovered`,
		"it turns worse": `
			0..120/30 DDDDD -> pending degraded, opened degraded
			lose
			republish
			150 C
			180 C -> updated critical`,
		"results before the catalog": `
			0..30/30 CC -> pending critical, opened critical
			lose
			60 C
			republish
			90 C
			120..150/30 HH -> closed critical recovered`,
		"snapshots of what waits": `
			0..30/30 CC -> pending critical, opened critical
			lose
			republish
			reload
			60..90/30 CC
			120..150/30 HH -> closed critical recovered`,
		"it is acknowledged while it waits": `
			0..30/30 CC -> pending critical, opened critical
			lose
			ack system-health:srv1 -> acknowledged critical
			republish
			60..90/30 CC
			120..150/30 HH -> closed critical recovered`,
		"its server is removed meanwhile": `
			0..30/30 CC -> pending critical, opened critical
			lose
			remove -> closed critical removed`,
		"its server is inactive by now": `
			0..30/30 CC -> pending critical, opened critical
			lose
			inactive -> closed critical removed`,
		"its check has another identity by now": `
			0..30/30 CC -> pending critical, opened critical
			lose
			identity
			republish -> closed critical removed
			60..90/30 CC -> pending critical, opened critical`,
		"its server never comes again": `
			0..30/30 CC -> pending critical, opened critical
			lose
			31..631/1 tick -> closed critical removed`,
		"a location that was gone is still": `
			0 H
			1..61/1 tick -> opened prober_gone
			lose
			62 tick
			republish
			reload
			63..200/1 tick
			201 H -> closed prober_gone recovered`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, newServer(1, "api", newCheck(1, "health", "local")))
			w.def.Checks[0].Schedules[0].EffectiveAt = timestamppb.New(base.Add(-1))
			w.run(script)
		})
	}
}
