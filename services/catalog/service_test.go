package catalog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestSourcesKeepToTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine := catalog.Server{
		Name: "by-api", Source: catalog.SourceAPI,
		Checks: []catalog.Check{{Name: "health", TCP: &picketv1.TCPSpec{Address: "10.0.0.9:22"}}},
	}
	mine.Complete(catalog.Defaults{})
	if _, err := w.store.ApplyCatalog(t.Context(), catalog.Plan{Add: []catalog.Server{mine}}, nil); err != nil {
		t.Fatal(err)
	}
	w.write(yaml("by-file"))
	builtin := func(_ *Config, d *Deps, _ *timings) {
		d.Builtin = []catalog.Server{{
			Name: "picket", Checks: []catalog.Check{{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://127.0.0.1:1/health"}}},
		}}
	}
	r := w.start("one", environ("INGEST_HEALTH_URL=http://10.0.0.1:8080"), builtin)
	w.expect(map[string]int64{"by-api": 1, "by-file": 1, "ingest": 1, "picket": 1})
	for name, source := range map[string]catalog.Source{
		"by-api": catalog.SourceAPI, "by-file": catalog.SourceFile, "ingest": catalog.SourceEnv, "picket": catalog.SourceSelf,
	} {
		if got := w.load()[name].Source; got != source {
			t.Errorf("%s is of the source %s", name, got)
		}
	}
	// A name that another source holds: the whole edit is refused, and says where.
	w.write(yaml("by-file", "new", "by-api", "ingest"))
	eventually(t, func() error {
		log := r.log.String()
		for _, part := range []string{
			"picket.yaml:6:5: servers[2]: server by-api is held by the source api",
			"picket.yaml:8:5: servers[3]: server ingest is held by the source env",
		} {
			if !strings.Contains(log, part) {
				return fmt.Errorf("not logged: %s", part)
			}
		}
		return nil
	})
	w.write(yaml())
	w.expect(map[string]int64{"by-api": 1, "ingest": 1, "picket": 1})
	r.stop()

	// A name moves from one source to another within one start, and keeps its identity.
	ingest := w.load()["ingest"].ID
	w.write(yaml("ingest"))
	w.start("two", builtin)
	w.expect(map[string]int64{"by-api": 1, "ingest": 3, "picket": 1})
	if got := w.load()["ingest"]; got.ID != ingest || got.Source != catalog.SourceFile {
		t.Errorf("%s is of the source %s", got.ID, got.Source)
	}
}

func TestALargeRemovalIsHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var names []string
	want := map[string]int64{}
	for i := range 8 {
		names = append(names, fmt.Sprintf("s%d", i))
		want[names[i]] = 1
	}
	w.write(yaml(names...))
	r := w.start("one")
	w.expect(want)
	w.write(yaml("s0", "new"))
	eventually(t, func() error {
		if r.log.count("write `confirm_removal: 7` into the file, or start with PICKET_CATALOG_CONFIRM_REMOVAL=7") != 1 {
			return fmt.Errorf("not held:\n%s", r.log)
		}
		return nil
	})
	w.expect(want)
	if err := r.kit.Health.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	w.write("confirm_removal: 7\n" + yaml("s0", "new"))
	w.expect(map[string]int64{"s0": 1, "new": 1})
	if err := r.sources.problem(); err != nil {
		t.Error(err)
	}
}

func TestTheEnvironmentIsRefusedByName(t *testing.T) {
	t.Parallel()
	config := DefaultConfig()
	config.EnvInterval, config.ConfirmRemoval = time.Second, -1
	_, err := New(config, Deps{
		Kit: &service.Kit{Location: "local"}, Environ: []string{"A_HEALTH_URL=ftp://x", "B_HEALTH_URL=http://u@x"},
	})
	for _, name := range []string{"HEALTH_CHECK_INTERVAL", "PICKET_CATALOG_CONFIRM_REMOVAL", "A_HEALTH_URL", "B_HEALTH_URL"} {
		if err == nil || strings.Count(err.Error(), name) != 1 {
			t.Errorf("%s is not refused once: %v", name, err)
		}
	}
}

func TestEntriesGoWhenTheirScheduleHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a", "b"))
	w.start("one", func(_ *Config, _ *Deps, t *timings) { t.compareEvery = time.Hour })
	w.expect(map[string]int64{"a": 1, "b": 1})
	w.write(yaml("a"))
	w.expectEvents(event{"added", "a", 1}, event{"added", "b", 1}, event{"removed", "b", 2})
	removed := time.Now()
	eventually(t, func() error {
		entries, err := w.entries()
		if err != nil {
			return err
		}
		if revision := entries["b/health"]; revision != 2 {
			return fmt.Errorf("probers are not told when b ends: %v", entries)
		}
		return nil
	})
	eventually(t, func() error {
		entries, err := w.entries()
		if err != nil {
			return err
		}
		if len(entries) != 1 {
			return fmt.Errorf("left are %v", entries)
		}
		return nil
	})
	if after := time.Since(removed); after < 8*time.Second {
		t.Errorf("the entry went after %s, before the schedule ended", after)
	}
}

func TestABucketThatIsWipedIsFilledAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a", "b"))
	w.start("one")
	w.expect(map[string]int64{"a": 1, "b": 1})
	bucket, err := w.conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := bucket.List(t.Context(), ">")
	if err != nil {
		t.Fatal(err)
	}
	for key, entry := range list {
		if err := bucket.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		// A stranger's entry, and an old version of one of ours.
		var value picketv1.ScheduledCheck
		if err := entry.Decode(&value); err != nil {
			t.Fatal(err)
		}
		value.Check.Revision = 0
		if value.Server == "a" {
			if err := bucket.Put(t.Context(), key, &value); err != nil {
				t.Fatal(err)
			}
		}
		value.Server = "stranger"
		if err := bucket.Put(t.Context(), bus.CatalogKey("default", "local", "stranger-"+value.Check.Id), &value); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		entries, err := w.entries()
		if err != nil {
			return err
		}
		if len(entries) != 2 || entries["a/health"] != 1 || entries["b/health"] != 1 {
			return fmt.Errorf("entries are %v", entries)
		}
		return nil
	})
	w.expectEvents(event{"added", "a", 1}, event{"added", "b", 1})
}

func TestEverythingIsPublishedAgainToAnotherServer(t *testing.T) {
	t.Parallel()
	first := embeddedtest.NATSServer(t, embedded.NATSOptions{})
	w := newWorldOn(t, migrated.Postgres(t), first.ClientURL())
	w.write(yaml("a", "b"))
	r := w.start("one")
	w.expect(map[string]int64{"a": 1, "b": 1})
	first.Stop()
	eventually(t, func() error {
		if r.kit.Health.Ready() == nil {
			return fmt.Errorf("ready without NATS")
		}
		return nil
	})
	// The database goes on meanwhile.
	w.write(yaml("b", "c"))
	eventually(t, func() error {
		if got := w.servers(); got["c"] != 1 || len(got) != 2 {
			return fmt.Errorf("servers are %v", got)
		}
		return nil
	})
	embeddedtest.NATSServer(t, embedded.NATSOptions{Listen: strings.TrimPrefix(first.ClientURL(), "nats://")})
	if err := w.conn.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.EnsureStreams(t.Context(), bus.StreamLimits{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	w.expect(map[string]int64{"b": 1, "c": 1})
	w.expectEvents(event{"removed", "a", 2}, event{"added", "b", 1}, event{"added", "c", 1})
	eventually(t, r.kit.Health.Ready)
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy := embeddedtest.FaultProxy(t, w.database.Server)
	w.write(yaml("a"))
	hanging := w.start("hanging", func(_ *Config, d *Deps, _ *timings) {
		d.Store = w.openStore(w.database.Via(proxy.Addr()))
	})
	w.expect(map[string]int64{"a": 1})
	next := w.start("next")
	leads := func(r *replica, want float64) func() error {
		return func() error {
			if got := testutil.ToFloat64(r.metrics.leader); got != want {
				return fmt.Errorf("%s leads: %v", r.owner, got)
			}
			return nil
		}
	}
	eventually(t, next.kit.Health.Ready)
	if err := leads(next, 0)(); err != nil {
		t.Fatal(err)
	}

	// The holder hangs with its connections open: it must lose the lease all the same.
	proxy.Freeze()
	w.write(yaml("a", "b"))
	w.expect(map[string]int64{"a": 1, "b": 1})
	eventually(t, leads(next, 1))
	eventually(t, leads(hanging, 0))
	proxy.Thaw()
	eventually(t, hanging.kit.Health.Ready)
	if err := leads(next, 1)(); err != nil {
		t.Error(err)
	}
	// One that stops gives the lease away at once.
	next.stop()
	eventually(t, leads(hanging, 1))
	w.write(yaml("a", "b", "c"))
	w.expect(map[string]int64{"a": 1, "b": 1, "c": 1})
	w.expectEvents(event{"added", "a", 1}, event{"added", "b", 1}, event{"added", "c", 1})
}

func TestTheDatabaseMayBeAwayAtTheStart(t *testing.T) {
	t.Parallel()
	// Not migrated either.
	w := newWorldOn(t, embeddedtest.Postgres(t), embeddedtest.NATS(t))
	proxy := embeddedtest.FaultProxy(t, w.database.Server)
	proxy.Freeze()
	w.write(yaml("a"))
	r := w.start("one", func(_ *Config, d *Deps, _ *timings) {
		d.Store = w.openStore(w.database.Via(proxy.Addr()))
	})
	eventually(t, func() error {
		err := r.kit.Health.Ready()
		if err == nil {
			return errors.New("ready without a database")
		}
		if !strings.Contains(err.Error(), "database") {
			return fmt.Errorf("the database is not missed: %w", err)
		}
		return nil
	})
	proxy.Thaw()
	eventually(t, func() error { return w.store.CheckSchema(t.Context()) })
	w.expect(map[string]int64{"a": 1})
	eventually(t, r.kit.Health.Ready)
}

func TestFiveThousandServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var names []string
	for i := range 5000 {
		names = append(names, fmt.Sprintf("server-%d", i))
	}
	w.write(yaml(names...))
	start := time.Now()
	r := w.start("one", func(_ *Config, _ *Deps, t *timings) { *t = defaultTimings() })
	// By its own count first: listing the bucket again and again would take the time that is measured.
	eventually(t, func() error {
		if n := testutil.ToFloat64(r.metrics.published.WithLabelValues("put")); n < float64(len(names)) {
			return fmt.Errorf("%v entries put", n)
		}
		return nil
	})
	t.Logf("from the start to the last of %d entries: %s", len(names), time.Since(start))
	if entries, err := w.entries(); err != nil || len(entries) != len(names) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	effective := w.load()["server-4999"].Checks[0].Schedules[0].EffectiveAt
	t.Logf("the first ticks are due %s after the start", effective.Sub(start))
}

// TestWokenInMidWork: one that was stopped between reading the catalog and writing the bucket, and wakes when another has
// led on, writes nothing: it would take away what has come since.
func TestWokenInMidWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a"))
	first := w.start("first")
	w.expect(map[string]int64{"a": 1})
	loaded, err := w.store.LoadCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first.stop()
	w.write(yaml("a", "b"))
	w.start("next", func(_ *Config, _ *Deps, v *timings) { v.compareEvery = time.Hour })
	w.expect(map[string]int64{"a": 1, "b": 1})

	// As it was before it was stopped: with the first lease that there was.
	lease := store.Lease{Name: leaseName, Owner: first.owner, Epoch: 1}
	first.mirror.forget()
	if _, err := first.publish(t.Context(), lease, loaded, time.Now()); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("published what was of the past: %v", err)
	}
	w.expect(map[string]int64{"a": 1, "b": 1})
}
