package writer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Picket's check on its own history table. Whoever registers Picket's own parts in the catalog registers it, as a
// reported check, under this name of a server; the writers find it there.
const (
	SelfServer     = "picket-database"
	PartitionCheck = "partition"

	// ReasonPartitionMissing is the reason of its critical result.
	ReasonPartitionMissing = "partition_missing"
)

const (
	selfOrg      = "default"
	upkeepEvery  = time.Hour
	upkeepRetry  = 30 * time.Second
	checkRefresh = 30 * time.Second
)

// keepPartitions makes the months ahead: at the start, each hour, and soon again after a failure. All writers do; the
// store lets one at a time.
func (s *Service) keepPartitions(ctx context.Context) {
	for {
		wait := upkeepEvery
		if err := s.store.EnsurePartitions(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Error("partitions not made", "err", err)
			wait = upkeepRetry
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// watchPartitions looks at each tick of the check `partition`, when the catalog has it for this location, whether the
// months are there. Every writer does: the identity of a result makes doubles harmless.
func (s *Service) watchPartitions(ctx context.Context) {
	w := partitionWatch{service: s}
	for {
		wait := w.step(ctx)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// partitionWatch is the schedule of one check.
type partitionWatch struct {
	service   *Service
	check     store.CheckInfo
	schedules tick.Schedules // at this location
	known     bool
	asked     time.Time
	// last is the last tick that was published, Unix milliseconds.
	last int64
}

// step does what is due and returns how long to wait for the next step.
func (w *partitionWatch) step(ctx context.Context) time.Duration {
	s := w.service
	if time.Since(w.asked) >= checkRefresh {
		if err := w.refresh(ctx); err != nil {
			s.log.Debug("check of partitions not read", "err", err)
		}
	}
	if !w.known {
		return checkRefresh
	}
	now := time.Now().UnixMilli()
	due, revision, ok := w.schedules.Last(w.check.Serial, s.kit.Location, w.last, now)
	if ok {
		if err := w.publish(ctx, due, revision); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("state of partitions not published, trying again", "err", err)
			}
			return time.Second
		}
		w.last = due
	}
	next, _, ok := w.schedules.Next(w.check.Serial, s.kit.Location, max(w.last, now))
	if !ok {
		return checkRefresh
	}
	return min(time.Duration(next-now)*time.Millisecond, checkRefresh)
}

// refresh reads the check from the catalog; where none is, nothing is due.
func (w *partitionWatch) refresh(ctx context.Context) error {
	check, err := w.service.store.FindCheck(ctx, selfOrg, SelfServer, PartitionCheck)
	switch {
	case errors.Is(err, store.ErrNotFound):
		w.known = false
	case err != nil:
		return err // what is known stays known while the database is away
	default:
		if !w.known || w.check.ID != check.ID {
			// Ticks since the last result, of this process or another, were nobody's.
			last, err := w.service.store.LastResult(ctx, check.ID, w.service.kit.Location)
			if err != nil {
				return err
			}
			w.last = max(w.last, last.UnixMilli(), check.Versions[0].EffectiveAtMS-1)
		}
		w.check, w.schedules, w.known = check, check.At(w.service.kit.Location), true
	}
	w.asked = time.Now()
	return nil
}

// publish sends what is known about the ticks after the last one: those passed over as missed, and the newest as seen.
func (w *partitionWatch) publish(ctx context.Context, due, revision int64) error {
	s := w.service
	first, firstRevision, _ := w.schedules.Next(w.check.Serial, s.kit.Location, w.last)
	if first < due {
		until, _, _ := w.schedules.Last(w.check.Serial, s.kit.Location, w.last, due-1)
		gap := w.result(first, firstRevision)
		gap.Status, gap.Reason = picketv1.Status_STATUS_UNKNOWN, "missed"
		gap.Message = "no writer was there to look"
		gap.MissedUntil = timestamppb.New(time.UnixMilli(until))
		if oldest := time.Now().Add(-bus.MostLate + time.Minute); time.UnixMilli(first).Before(oldest) {
			// Beyond what a message may say; the tick after it can still be explained.
			first, firstRevision, _ = w.schedules.Next(w.check.Serial, s.kit.Location, oldest.UnixMilli())
			gap.ScheduledAt, gap.Revision = timestamppb.New(time.UnixMilli(first)), firstRevision
		}
		if first <= until {
			if err := w.send(ctx, gap); err != nil {
				return err
			}
		}
	}
	return w.send(ctx, w.look(ctx, due, revision))
}

func (w *partitionWatch) result(at, revision int64) *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Server: SelfServer, Check: PartitionCheck, Kind: w.check.Kind, Org: selfOrg,
		Location: w.service.kit.Location, CheckId: w.check.ID.String(), Revision: revision,
		Instance: w.service.kit.Instance, ScheduledAt: timestamppb.New(time.UnixMilli(at)),
	}
}

// look asks for the state of the months now.
func (w *partitionWatch) look(ctx context.Context, at, revision int64) *picketv1.ProbeResult {
	started := time.Now()
	result := w.result(at, revision)
	result.StartedAt = timestamppb.New(started)
	partitions, err := w.service.store.Partitions(ctx, started)
	result.LatencyUs = time.Since(started).Microseconds()
	if err != nil {
		result.Status, result.Reason = picketv1.Status_STATUS_UNKNOWN, "database_unavailable"
		result.Message = "the database could not be asked"
		return result
	}
	var missing []string
	for _, partition := range partitions {
		if !partition.Present {
			missing = append(missing, partition.Name)
		}
	}
	result.Status = picketv1.Status_STATUS_HEALTHY
	if len(missing) > 0 {
		result.Status, result.Reason = picketv1.Status_STATUS_CRITICAL, ReasonPartitionMissing
		result.Message = "missing " + strings.Join(missing, ", ")
	}
	return result
}

// send waits for the stream. A tick that nobody looked at has an identity of its own there, so that it can not hide
// the outcome that another writer has.
func (w *partitionWatch) send(ctx context.Context, result *picketv1.ProbeResult) error {
	at, suffix := result.GetScheduledAt().AsTime(), ""
	if result.GetStatus() == picketv1.Status_STATUS_UNKNOWN {
		suffix = "/missed"
	}
	_, err := w.service.bus.Publish(ctx, bus.Message{
		Subject: bus.ProbeSubject(result.GetOrg(), result.GetStatus(), result.GetLocation(), result.GetServer(), result.GetCheck()),
		ID:      fmt.Sprintf("%s/%s/%d%s", result.GetCheckId(), result.GetLocation(), at.UnixMilli(), suffix),
		Time:    time.Now(),
		Payload: result,
	})
	return err
}
