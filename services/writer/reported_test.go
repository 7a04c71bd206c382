package writer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestClockWasAheadWhileReporting: a clock that was an hour ahead has this service say something of ticks to come, which the
// stream refuses. When it is right again every tick since then is seen or explained, and no other.
func TestClockWasAheadWhileReporting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	check := w.declare(10 * time.Second)
	w.exec(`UPDATE check_schedules SET effective_at = effective_at - interval '1 hour'`)
	svc, _ := w.service("one")
	watch := reportWatch{service: svc, reported: reported{SelfServer, PartitionCheck, svc.lookAtPartitions}}
	if err := watch.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	seen, _, _ := watch.schedules.Last(check.Serial, "local", 0, now.Add(-5*time.Minute).UnixMilli())
	row := store.Result{
		Org: selfOrg, Server: SelfServer, Check: PartitionCheck, CheckID: check.ID, Location: "local", Revision: 1,
		ScheduledAt: time.UnixMilli(seen), Status: picketv1.Status_STATUS_HEALTHY, Instance: "one",
	}
	if err := w.store.EnsurePartitions(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	// What was stored while the clock was right, and what a store whose own stream was ahead too has of the time to come.
	ahead := row
	ahead.ScheduledAt = time.UnixMilli(seen).Add(time.Hour)
	if _, err := w.store.NewResultWriter().Write(t.Context(), []store.Result{row, ahead}, false); err != nil {
		t.Fatal(err)
	}
	watch.last = now.Add(time.Hour).UnixMilli()
	watch.step(t.Context())

	var gap, newest *picketv1.ProbeResult
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := w.bus.Follow(ctx, bus.FollowOptions{
		Stream: bus.StreamEvents, From: 1, MaxBatch: 10, MaxWait: 50 * time.Millisecond,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			for _, msg := range batch {
				result := &picketv1.ProbeResult{}
				if err := msg.Decode(result); err != nil {
					return err
				}
				if result.GetMissedUntil() != nil {
					gap = result
				} else {
					newest = result
				}
			}
			if gap != nil && newest != nil {
				return errEnough
			}
			return nil
		},
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("ticks since then: %v", err)
	}
	const interval = 10 * time.Second
	due, _, _ := watch.schedules.Last(check.Serial, "local", 0, now.UnixMilli())
	if at := newest.GetScheduledAt().AsTime().UnixMilli(); at < due {
		t.Errorf("seen is %s, which is before %s", time.UnixMilli(at), time.UnixMilli(due))
	}
	if first, want := gap.GetScheduledAt().AsTime(), time.UnixMilli(seen).Add(interval); !first.Equal(want) {
		t.Errorf("explained from %s, want %s", first, want)
	}
	if until, want := gap.GetMissedUntil().AsTime(), newest.GetScheduledAt().AsTime().Add(-interval); !until.Equal(want) {
		t.Errorf("explained until %s, want %s", until, want)
	}
}
