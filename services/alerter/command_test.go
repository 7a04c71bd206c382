package alerter

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

// command publishes what alice wants done about an alert.
func (f *fixture) command(verb, org, alert string) uint64 {
	f.t.Helper()
	id := uuid.NewString()
	seq, err := f.conn.Publish(f.t.Context(), bus.Message{
		Subject: bus.CommandSubject(org, verb, id), ID: id, Time: time.Now(),
		Payload: &picketv1.Command{
			Verb: verb, AlertId: alert, Actor: "alice", Note: "on it", Org: org, Id: id, At: timestamppb.Now(),
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return seq
}

func (f *fixture) openAlert(n int) string {
	f.t.Helper()
	ids := f.strings(`SELECT id::text FROM system_alerts WHERE server = $1 AND state <> 'closed'`, serverName(n))
	if len(ids) != 1 {
		f.t.Fatalf("%d alerts of %s are not closed", len(ids), serverName(n))
	}
	return ids[0]
}

// TestCommands: what people do about alerts goes through the stream and the fold like everything else.
func TestCommands(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.alerter("one", "")
	f.start(s)
	f.add(1)
	f.probe(1, "CC")
	f.waitHistory(1, 2)
	alert := f.openAlert(1)
	f.command("acknowledge", "other", alert) // another organization's word
	f.command("acknowledge", "default", uuid.NewString())
	f.command("acknowledge", "default", alert)
	f.command("acknowledge", "default", alert) // as it is already
	f.waitHistory(1, 3)
	if got := f.strings(`SELECT concat_ws('|', state, acknowledged_by, acknowledged_at IS NOT NULL) FROM system_alerts`); !cmp.Equal(got,
		[]string{"acknowledged|alice|t"}) {
		t.Errorf("row %q", got)
	}
	if got := f.strings(`SELECT concat_ws('|', transition, actor, summary) FROM alert_events WHERE actor <> ''`); !cmp.Equal(got,
		[]string{"acknowledged|alice|alice acknowledged it: on it"}) {
		t.Errorf("events %q", got)
	}
	f.command("close", "default", alert)
	f.waitHistory(1, 4)
	if got := f.strings(`SELECT concat_ws('|', state, reason) FROM system_alerts`); !cmp.Equal(got, []string{"closed|manual"}) {
		t.Errorf("row %q", got)
	}
	// It is still bad: a new alert by the rules.
	f.probe(1, "C")
	f.waitHistory(1, 5)
	want := []string{"pending critical", "opened critical", "acknowledged critical", "closed critical", "opened critical"}
	if diff := cmp.Diff(want, f.history(1)); diff != "" {
		t.Error(diff)
	}
	wait(t, "the events", func() bool { return len(f.published()) == 5 })
	skips := map[fold.Skip]float64{fold.SkipUnknownAlert: 2, fold.SkipState: 1}
	for reason, n := range skips {
		if got := counter(s.metrics.skipped.WithLabelValues(string(reason))); got != n {
			t.Errorf("%v events skipped as %s, want %v", got, reason, n)
		}
	}
	for from, to := range map[string]string{"none": "pending", "pending": "open", "open": "acknowledged", "acknowledged": "closed"} {
		if got := counter(s.metrics.transitions.WithLabelValues(from, to)); got < 1 {
			t.Errorf("%v transitions from %s to %s", got, from, to)
		}
	}
}

// TestHostileCommands: none of these does anything, and all of them are counted.
func TestHostileCommands(t *testing.T) {
	t.Parallel()
	const id, alert = "7d0f6c1e-6a41-4c0e-9d0a-111111111111", "7d0f6c1e-6a41-4c0e-9d0a-222222222222"
	subject := bus.CommandSubject("default", "close", id)
	good := func() *picketv1.Command {
		return &picketv1.Command{Verb: "close", AlertId: alert, Org: "default", Id: id, Actor: "alice"}
	}
	for name, test := range map[string]struct {
		change  func(*picketv1.Command)
		subject string
		want    fold.Skip
	}{
		"good":          {func(*picketv1.Command) {}, subject, ""},
		"other org":     {func(c *picketv1.Command) { c.Org = "other" }, subject, fold.SkipContract},
		"other verb":    {func(c *picketv1.Command) { c.Verb = "acknowledge" }, subject, fold.SkipContract},
		"unknown verb":  {func(c *picketv1.Command) { c.Verb = "dance" }, bus.CommandSubject("default", "dance", id), fold.SkipContract},
		"other id":      {func(c *picketv1.Command) { c.Id = alert }, subject, fold.SkipContract},
		"no alert":      {func(c *picketv1.Command) { c.AlertId = "" }, subject, fold.SkipContract},
		"alert no uuid": {func(c *picketv1.Command) { c.AlertId = strings.Repeat("f", 1<<20) }, subject, fold.SkipContract},
		"long actor":    {func(c *picketv1.Command) { c.Actor = strings.Repeat("a", 256) }, subject, fold.SkipContract},
		"long note":     {func(c *picketv1.Command) { c.Note = strings.Repeat("a", 5000) }, subject, fold.SkipContract},
		"no subject":    {func(*picketv1.Command) {}, "picket.default.command.close", skipUnreadable},
	} {
		command := good()
		test.change(command)
		data, err := wire.Protobuf.Append(nil, command)
		if err != nil {
			t.Fatal(err)
		}
		payload, skip := decode(&bus.Msg{Subject: test.subject, ContentType: wire.ContentTypeProtobuf, Data: data, Time: time.Now()})
		if skip != test.want || (payload == nil) != (test.want != "") {
			t.Errorf("%s: %v, skip %q, want %q", name, payload, skip, test.want)
		}
	}
	if payload, skip := decode(&bus.Msg{Subject: subject, Data: []byte("{nonsense"), Time: time.Now()}); payload != nil || skip != skipUnreadable {
		t.Errorf("nonsense: %v, skip %q", payload, skip)
	}
}

// held reads the bucket with the client itself.
func (f *fixture) held() map[string]string {
	f.t.Helper()
	js, _ := f.stream(bus.StreamEvents)
	kv, err := js.KeyValue(f.t.Context(), bus.BucketStatus)
	if err != nil {
		return nil
	}
	keys, err := kv.ListKeys(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	held := map[string]string{}
	for key := range keys.Keys() {
		if key == bus.StatusAliveKey {
			continue
		}
		entry, err := kv.Get(f.t.Context(), key)
		if err != nil {
			continue // it has just gone
		}
		status := &picketv1.ServerStatus{}
		if err := wire.Decode(wire.ContentTypeJSON, entry.Value(), status); err != nil {
			f.t.Fatalf("%s holds %q: %v", key, entry.Value(), err)
		}
		held[key] = strings.ToLower(strings.TrimPrefix(status.GetStatus().String(), "STATUS_"))
	}
	return held
}

func (f *fixture) waitHeld(want map[string]string) {
	f.t.Helper()
	var got map[string]string
	defer func() {
		if f.t.Failed() {
			f.t.Logf("the bucket holds %v, want %v", got, want)
		}
	}()
	wait(f.t, "the bucket of states", func() bool { got = f.held(); return cmp.Equal(got, want) })
}

// TestStatusBucket: the bucket says what the fold knows, at once, and again after a takeover and after somebody meddled.
func TestStatusBucket(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.start(f.alerter("one", ""))
	f.add(1)
	f.add(2)
	f.waitHeld(map[string]string{"default.srv1": "unknown", "default.srv2": "unknown"})
	f.probe(1, "H")
	f.probe(2, "C")
	f.waitHeld(map[string]string{"default.srv1": "healthy", "default.srv2": "critical"})
	stop()

	// While nobody leads, somebody meddles and a server goes.
	bucket, err := f.conn.StatusBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key, status := range map[string]*picketv1.ServerStatus{
		"default.srv1":  {Status: picketv1.Status_STATUS_UNREACHABLE, Org: "default", Server: "srv1"},
		"default.ghost": {Status: picketv1.Status_STATUS_HEALTHY, Org: "default", Server: "ghost"},
	} {
		if err := bucket.Put(t.Context(), key, status); err != nil {
			t.Fatal(err)
		}
	}
	f.send(&picketv1.CatalogChange{Change: "removed", Server: &picketv1.Server{
		Name: serverName(2), Org: "default", Id: "00000000-0000-4000-8000-000000000002", Revision: 2,
	}})
	f.start(f.alerter("two", ""))
	f.waitHeld(map[string]string{"default.srv1": "healthy"})
	f.probe(1, "C")
	f.waitHeld(map[string]string{"default.srv1": "critical"})
}

// TestStatusBucketIsVouchedFor: as long as somebody leads it says so in the bucket, and nobody else does.
func TestStatusBucketIsVouchedFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bucket, err := f.conn.StatusBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	revision := func() uint64 {
		entries, err := bucket.List(t.Context(), bus.StatusAliveKey)
		if err != nil {
			t.Fatal(err)
		}
		return entries[bus.StatusAliveKey].Revision
	}
	stop := f.start(f.alerter("one", ""))
	wait(t, "the word of who leads", func() bool { return revision() > 0 })
	before := revision()
	wait(t, "the word said again", func() bool { return revision() > before })
	stop()
	before = revision()
	f.start(f.alerter("two", ""))
	wait(t, "the word of who leads next", func() bool { return revision() > before })
}

// TestStatusBucketBroken: a bucket that refuses everything stops no alert, and is brought in line when it is back.
func TestStatusBucketBroken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	js, _ := f.stream(bus.StreamEvents)
	kv, err := js.Stream(t.Context(), "KV_"+bus.BucketStatus)
	if err != nil {
		t.Fatal(err)
	}
	sealed := kv.CachedInfo().Config
	sealed.MaxMsgSize = 1 // the smallest entry is too large
	if _, err := js.UpdateStream(t.Context(), sealed); err != nil {
		t.Fatal(err)
	}
	s := f.alerter("one", "")
	f.start(s)
	f.add(1)
	f.probe(1, "CC")
	f.waitHistory(1, 2)
	wait(t, "a failure", func() bool { return counter(s.metrics.statusFails) > 0 })
	f.probe(1, "HH")
	f.waitHistory(1, 3)
	if err := s.kit.Health.Ready(); err != nil {
		t.Errorf("not ready because of the bucket: %v", err)
	}
	sealed.MaxMsgSize = -1
	if _, err := js.UpdateStream(t.Context(), sealed); err != nil {
		t.Fatal(err)
	}
	f.waitHeld(map[string]string{"default.srv1": "healthy"})
}

// TestStatusesAreBounded: whatever happens while nobody writes costs one entry for each server.
func TestStatusesAreBounded(t *testing.T) {
	t.Parallel()
	s := newStatuses()
	for round := range 1000 {
		name := fold.ServerName{Org: "default", Server: fmt.Sprintf("srv%d", round%10)}
		s.update([]fold.ServerName{name}, map[fold.ServerName]serverState{name: {status: picketv1.Status(1 + round%4)}}, false)
	}
	if len(s.wanted) != 10 || len(s.changed) != 10 {
		t.Errorf("%d states and %d changes of 10 servers", len(s.wanted), len(s.changed))
	}
	if len(s.take()) != 10 || len(s.take()) != 0 {
		t.Error("what is taken is not taken once")
	}
}
