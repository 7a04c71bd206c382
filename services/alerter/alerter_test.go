package alerter

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
)

func gauge(m prometheus.Metric) float64 {
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		return -1
	}
	return out.GetGauge().GetValue()
}

func counter(m prometheus.Metric) float64 {
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		return -1
	}
	return out.GetCounter().GetValue()
}

func TestIncident(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.alerter("one", "")
	stop := f.start(s)
	f.add(1)
	f.probe(1, "HCC")
	f.waitHistory(1, 2)
	if got := f.strings(`SELECT concat_ws('|', org, fingerprint, kind, severity, state, server, check_name, summary, trigger_count,
		opened_at IS NOT NULL, closed_at IS NULL, jsonb_array_length(details -> 'evidence')) FROM system_alerts`); !cmp.Equal(got,
		[]string{"default|system-health:srv1|critical|critical|open|srv1|health|srv1 is critical: said the test|2|t|t|2"}) {
		t.Errorf("row %q", got)
	}
	wait(t, "the gauge", func() bool { return gauge(s.metrics.active.WithLabelValues("critical", "open")) == 1 })

	// What cannot be read or breaks the contract stops nothing.
	js, _ := f.stream(bus.StreamEvents)
	for _, subject := range []string{
		"picket.default.probe.critical.local.srv1.health", "picket.default.catalog.changed.srv1", "picket.default.command.dance.x",
		"picket.default.probe.nonsense",
	} {
		if _, err := js.Publish(t.Context(), subject, []byte("{nonsense")); err != nil {
			t.Fatal(err)
		}
	}
	f.probe(1, "HH")
	f.waitHistory(1, 3)
	want := []string{"pending critical", "opened critical", "closed critical"}
	if diff := cmp.Diff(want, f.history(1)); diff != "" {
		t.Error(diff)
	}
	wait(t, "the outbox to be empty", func() bool { return len(f.strings(`SELECT event_id::text FROM alert_outbox`)) == 0 })
	want = []string{
		"picket.default.alert.pending.critical.srv1", "picket.default.alert.opened.critical.srv1",
		"picket.default.alert.closed.critical.srv1",
	}
	if diff := cmp.Diff(want, f.published()); diff != "" {
		t.Error(diff)
	}
	if s.skipped.Load() == 0 {
		t.Error("nothing was counted as unreadable")
	}
	// A stop leaves nothing to fold again, and the right to whoever comes.
	stop()
	if got := f.strings(`SELECT (seq = snapshot_seq AND lease_until < now())::text FROM alerter_state`); !cmp.Equal(got, []string{"true"}) {
		t.Errorf("after a stop: %v", got)
	}
}

func TestClockTicksAreOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.alerter("one", ""))
	f.start(f.alerter("two", ""))
	_, stream := f.stream(bus.StreamEvents)
	wait(t, "three ticks", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.LastSeq >= 3
	})
	seen := map[string]bool{}
	for seq := uint64(1); seq <= 3; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if id := msg.Header.Get("Nats-Msg-Id"); msg.Subject != bus.ClockSubject || seen[id] {
			t.Errorf("message %d on %s with id %s, seen before: %v", seq, msg.Subject, id, seen[id])
		} else {
			seen[id] = true
		}
	}
}

// TestTakeover: the alerter that folds loses the database without a word; the other takes over and decides; the first one
// wakes up and can commit nothing.
func TestTakeover(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	proxy := embeddedtest.FaultProxy(t, f.database.Server)
	first := f.alerter("first", f.database.Via(proxy.Addr()))
	f.start(first)
	waitLeader(t, first)
	second := f.alerter("second", "")
	f.start(second)
	f.add(1)
	f.add(2)
	f.probe(1, "C")
	f.waitHistory(1, 1)
	if gauge(second.metrics.leader) != 0 {
		t.Fatal("two alerters fold at once")
	}
	proxy.Freeze()
	f.probe(1, "C") // decided by both, committed by whoever has the right
	waitLeader(t, second)
	f.waitHistory(1, 2)
	f.probe(2, "CC")
	f.waitHistory(2, 2)
	proxy.Thaw()
	f.probe(1, "HHCC")
	f.waitHistory(1, 5)
	wait(t, "the first alerter to notice", func() bool { return gauge(first.metrics.leader) == 0 })
	want := []string{"pending critical", "opened critical", "closed critical", "pending critical", "opened critical"}
	if diff := cmp.Diff(want, f.history(1)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"pending critical", "opened critical"}, f.history(2)); diff != "" {
		t.Error(diff)
	}
	wait(t, "seven events published", func() bool { return len(f.published()) == 7 })
}

// abandon folds without anything else (no renewal, no outbox, no goodbye) until is says so, and drops it all: what remains
// is what remains after kill -9.
func (f *fixture) abandon(s *Service, is func(seq uint64) bool) store.Lease {
	f.t.Helper()
	lease, err := s.store.AcquireAlerter(f.t.Context(), bus.StreamEvents, s.owner, s.config.Lease)
	if err != nil {
		f.t.Fatal(err)
	}
	memory, err := s.load(f.t.Context(), lease)
	if err != nil {
		f.t.Fatal(err)
	}
	folder := newFolder(s, lease, memory)
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	_, seq := folder.state.Position()
	err = s.bus.Follow(ctx, bus.FollowOptions{
		Stream: bus.StreamEvents, From: seq + 1, MaxBatch: 7, MaxWait: time.Millisecond,
		Handle: func(ctx context.Context, batch []*bus.Msg) error {
			if err := folder.handle(ctx, batch); err != nil {
				return err
			}
			if is(batch[len(batch)-1].Sequence) {
				cancel()
			}
			return nil
		},
	})
	if err := errors.Join(err, folder.settle()); err != nil {
		f.t.Fatal(err)
	}
	return lease
}

// TestKilledBeforePublishing: what was committed is published by the next one, and what the dead one had published already
// is not there twice.
func TestKilledBeforePublishing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.add(1)
	f.probe(1, "CC")
	dead := f.alerter("dead", "")
	f.abandon(dead, func(uint64) bool { return len(f.history(1)) == 2 })
	if got := f.published(); len(got) != 0 {
		t.Fatalf("published before the outbox ran: %v", got)
	}
	// It dies after publishing the first two and before it could say so.
	lost := store.Lease{Name: bus.StreamEvents, Epoch: -1}
	if _, err := dead.publishSome(t.Context(), lost, &traces{}); !errors.Is(err, store.ErrLeaseLost) {
		t.Fatalf("clearing the outbox without the lease: %v", err)
	}
	if got := f.published(); len(got) != 2 {
		t.Fatalf("published: %v", got)
	}
	f.start(f.alerter("next", ""))
	f.probe(1, "HH")
	f.waitHistory(1, 3)
	wait(t, "the outbox to be empty", func() bool { return len(f.strings(`SELECT event_id::text FROM alert_outbox`)) == 0 })
	want := []string{
		"picket.default.alert.pending.critical.srv1", "picket.default.alert.opened.critical.srv1",
		"picket.default.alert.closed.critical.srv1",
	}
	if diff := cmp.Diff(want, f.published()); diff != "" {
		t.Error(diff)
	}
}

// TestOutboxThatStays: events that are told and cannot be taken out of a full outbox wait for the next turn.
func TestOutboxThatStays(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.add(1)
	f.probe(1, "CC")
	s := f.alerter("one", "")
	lease := f.abandon(s, func(uint64) bool { return len(f.history(1)) == 2 })
	for _, sql := range []string{
		`INSERT INTO alert_outbox (event_id, event) SELECT event_id, event FROM alert_outbox, generate_series(1, 500)`,
		`CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it stays'; END $$`,
		`CREATE TRIGGER stay BEFORE DELETE ON alert_outbox EXECUTE FUNCTION stay()`,
	} {
		if _, err := f.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if more, err := s.publishSome(t.Context(), lease, &traces{}); more || err == nil {
		t.Errorf("at once again: %v, error %v", more, err)
	}
}

func TestStreamRecreated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.alerter("one", "")
	f.start(s)
	f.add(1)
	f.probe(1, "CC")
	f.waitHistory(1, 2)
	js, _ := f.stream(bus.StreamEvents)
	if err := js.DeleteStream(t.Context(), bus.StreamEvents); err != nil {
		t.Fatal(err)
	}
	f.ensureStreams()
	// The catalog says again what there is, and the alert goes on, in a stream whose sequences begin anew.
	f.add(1)
	f.probe(1, "CHH")
	f.waitHistory(1, 3)
	if diff := cmp.Diff([]string{"pending critical", "opened critical", "closed critical"}, f.history(1)); diff != "" {
		t.Error(diff)
	}
	if got := f.strings(`SELECT reason FROM system_alerts`); !cmp.Equal(got, []string{"recovered"}) {
		t.Errorf("it was closed as %v, want recovered", got)
	}
	if got := f.strings(`SELECT reason FROM stream_gaps WHERE consumer = 'alerter' AND reason NOT IN ('blind')`); !cmp.Equal(got, []string{"recreated"}) {
		t.Errorf("gaps %v, want one: recreated", got)
	}
}

// TestStreamRolledBack: the server came back from an older copy of its files.
func TestStreamRolledBack(t *testing.T) {
	t.Parallel()
	dir, copied := t.TempDir(), t.TempDir()
	server := embeddedtest.NATSServer(t, embedded.NATSOptions{StoreDir: dir})
	f := newFixtureOn(t, server.ClientURL())
	f.add(1)
	f.probe(1, "C")
	listen := server.Server().Addr().String()
	server.Stop()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	server = embeddedtest.NATSServer(t, embedded.NATSOptions{StoreDir: dir, Listen: listen})
	f.ensureStreams()
	one := f.alerter("one", "")
	stop := f.start(one)
	// Many are lost: what an alerter publishes itself before it looks, the time, must not make up for them.
	f.probe(1, "CCCCCCCCCC")
	wait(t, "them to be folded", func() bool { return one.at.Load() >= 12 })
	stop()
	server.Stop()
	embeddedtest.NATSServer(t, embedded.NATSOptions{StoreDir: copied, Listen: listen})
	f.ensureStreams()
	f.start(f.alerter("two", ""))
	wait(t, "the gap", func() bool {
		return len(f.strings(`SELECT reason FROM stream_gaps WHERE reason = 'rolled_back' AND from_seq <= to_seq`)) == 1
	})
	f.probe(1, "HH")
	f.waitHistory(1, 3)
	if diff := cmp.Diff([]string{"pending critical", "opened critical", "closed critical"}, f.history(1)); diff != "" {
		t.Error(diff)
	}
}

// TestHole: events that the stream dropped before they were folded are a gap and an alert about ourselves, also when they
// were needed to fold again.
func TestHole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.start(f.alerter("one", ""))
	f.add(1)
	f.probe(1, "C")
	f.waitHistory(1, 1)
	stop()
	f.probe(1, "CCC")
	_, stream := f.stream(bus.StreamEvents)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.start(f.alerter("two", ""))
	f.probe(1, "C")
	f.waitHistory(1, 2)
	wait(t, "the alert about it", func() bool {
		return len(f.strings(`SELECT id::text FROM system_alerts WHERE kind = 'stream_hole' AND server = '_platform' AND state = 'open'`)) == 1
	})
	if got := f.strings(`SELECT reason FROM stream_gaps WHERE reason = 'hole' AND to_seq - from_seq >= 2`); len(got) != 1 {
		t.Errorf("gaps %v", got)
	}
}

func TestDisabled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	off := f.alerter("off", "", func(c *Config) { c.Enabled = false })
	stop := f.start(off)
	f.add(1)
	f.probe(1, "CC")
	last := f.send(&picketv1CatalogNoop)
	wait(t, "it to fold", func() bool { return off.at.Load() >= last })
	stop()
	if got := f.history(1); len(got) != 0 {
		t.Errorf("disabled: %v", got)
	}
	f.start(f.alerter("on", ""))
	f.probe(1, "C")
	f.waitHistory(1, 1)
	if diff := cmp.Diff([]string{"opened critical"}, f.history(1)); diff != "" {
		t.Error(diff)
	}
}

// TestFrozenDatabase: folding stops and goes on by itself, with nothing lost and nothing twice.
func TestFrozenDatabase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	proxy := embeddedtest.FaultProxy(t, f.database.Server)
	s := f.alerter("one", f.database.Via(proxy.Addr()))
	f.start(s)
	f.add(1)
	f.probe(1, "C")
	f.waitHistory(1, 1)
	proxy.Freeze()
	f.probe(1, "CHHC")
	wait(t, "readiness to say so", func() bool { return s.kit.Health.Ready() != nil })
	proxy.Cut()
	proxy.Thaw()
	f.probe(1, "C")
	f.waitHistory(1, 5)
	want := []string{"pending critical", "opened critical", "closed critical", "pending critical", "opened critical"}
	if diff := cmp.Diff(want, f.history(1)); diff != "" {
		t.Error(diff)
	}
}
