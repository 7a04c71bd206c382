package main

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
	"github.com/picketd/picket/services/writer"
)

func newSelf(t *testing.T) *stack {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	st := &stack{settings: defaultSettings(), log: slog.New(slog.DiscardHandler), listener: listener}
	st.settings.NATSURL = "nats://127.0.0.1:4222"
	st.parts = st.services()
	return st
}

// TestOwnServersAreValid: what Picket watches of itself passes what it asks of others.
func TestOwnServersAreValid(t *testing.T) {
	t.Parallel()
	st := newSelf(t)
	var err error
	if st.demo, err = startDemo(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.demo.close)
	for _, server := range st.builtin() {
		server.Source = catalog.SourceSelf
		server.Complete(catalog.Defaults{})
		if err := server.Validate(server.Name).Err(); err != nil {
			t.Error(err)
		}
	}
}

// TestMissingPartitionOpensAtOnce ties three rooms together: the check that is
// declared here, the result that the writer reports for it, and the rule that
// the alerter has for it.
func TestMissingPartitionOpensAtOnce(t *testing.T) {
	t.Parallel()
	for _, server := range newSelf(t).builtin() {
		if server.Name != writer.SelfServer {
			continue
		}
		server.Source = catalog.SourceSelf
		server.ID, server.Revision = "7b0c7f0e-0000-4000-8000-000000000001", 1
		server.Complete(catalog.Defaults{})
		for i := range server.Checks {
			check := &server.Checks[i]
			check.ID, check.Serial, check.Revision = "7b0c7f0e-0000-4000-8000-00000000001"+string(rune('0'+i)), int64(i+1), 1
			check.Schedules = []catalog.Schedule{{Revision: 1, Interval: check.Interval, EffectiveAt: time.UnixMilli(1), Locations: check.Locations}}
			if check.Name != writer.PartitionCheck {
				continue
			}
			now := time.UnixMilli(1_800_000_000_000)
			state := fold.New()
			state.Step(fold.Event{Epoch: 1, Sequence: 1, Time: now, Payload: server.CatalogChange()})
			out := state.Step(fold.Event{Epoch: 1, Sequence: 2, Time: now, Payload: &picketv1.ProbeResult{
				Status: picketv1.Status_STATUS_CRITICAL, Reason: writer.ReasonPartitionMissing, Org: server.Org, Server: server.Name,
				Check: check.Name, CheckId: check.ID, Kind: check.Kind(), Location: "local", Revision: 1,
				ScheduledAt: timestamppb.New(now), StartedAt: timestamppb.New(now),
			}})
			if len(out.Transitions) != 1 {
				t.Fatalf("%d transitions", len(out.Transitions))
			}
			event := out.Transitions[0].Event()
			if event.GetTransition() != "opened" || event.GetKind() != fold.KindPartitionMissing || event.GetSeverity() != "critical" {
				t.Errorf("got %v", event)
			}
			return
		}
	}
	t.Error("nobody watches the partitions")
}
