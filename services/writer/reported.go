package writer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	selfOrg      = "default"
	checkRefresh = 30 * time.Second
)

// verdict is the outcome of a look at something of our own.
type verdict struct {
	status          picketv1.Status
	reason, message string
}

// reported is a check that this service runs itself, at the ticks that the catalog has for it at this location. Every
// writer does: the identity of a result makes doubles harmless.
type reported struct {
	server, name string
	look         func(ctx context.Context, now time.Time) verdict
}

// report publishes a result for each tick of a reported check until ctx ends.
func (s *Service) report(ctx context.Context, r reported) {
	w := reportWatch{service: s, reported: r}
	for {
		wait := w.step(ctx)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// reportWatch is the schedule of one reported check.
type reportWatch struct {
	reported
	service   *Service
	check     store.CheckInfo
	schedules tick.Schedules // at this location
	known     bool
	asked     time.Time
	// last is the last tick that was published, Unix milliseconds.
	last int64
}

// step does what is due and returns how long to wait for the next step.
func (w *reportWatch) step(ctx context.Context) time.Duration {
	s := w.service
	now := time.Now().UnixMilli()
	if w.last > now+bus.MostEarly.Milliseconds() {
		// The clock was ahead then, and the stream has refused what was said, or it is behind now: what is stored of the
		// time up to now tells. What is said twice is one result.
		w.known, w.asked, w.last = false, time.Time{}, 0
	}
	if time.Since(w.asked) >= checkRefresh {
		if err := w.refresh(ctx); err != nil {
			s.log.Debug("reported check not read", "server", w.server, "check", w.name, "err", err)
		}
	}
	if !w.known {
		return checkRefresh
	}
	due, revision, ok := w.schedules.Last(w.check.Serial, s.kit.Location, w.last, now)
	if ok {
		if err := w.publish(ctx, due, revision); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("reported check not published, trying again", "server", w.server, "check", w.name, "err", err)
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
func (w *reportWatch) refresh(ctx context.Context) error {
	check, err := w.service.store.FindCheck(ctx, selfOrg, w.server, w.name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		w.known = false
	case err != nil:
		return err // what is known stays known while the database is away
	case check.Kind != catalog.KindReported:
		w.known = false // probers look themselves
	default:
		if !w.known || w.check.ID != check.ID {
			// Ticks since the last result, of this process or another, were nobody's.
			now := time.Now()
			last, err := w.service.store.LastResult(ctx, check.ID, w.service.kit.Location, now)
			if err != nil {
				return err
			}
			w.last = max(w.last, min(max(last.UnixMilli(), check.Versions[0].EffectiveAtMS-1), now.UnixMilli()))
		}
		w.check, w.schedules, w.known = check, check.At(w.service.kit.Location), true
	}
	w.asked = time.Now()
	return nil
}

// publish sends what is known about the ticks after the last one: those passed over as missed, and the newest as seen.
func (w *reportWatch) publish(ctx context.Context, due, revision int64) error {
	s := w.service
	oldest := time.Now().Add(-bus.MostLate + time.Minute)
	if time.UnixMilli(due).Before(oldest) {
		return nil // the check was due long ago and then no more: no message may say so now
	}
	first, firstRevision, _ := w.schedules.Next(w.check.Serial, s.kit.Location, w.last)
	if first < due {
		until, _, _ := w.schedules.Last(w.check.Serial, s.kit.Location, w.last, due-1)
		gap := w.result(first, firstRevision)
		gap.Status, gap.Reason = picketv1.Status_STATUS_UNKNOWN, "missed"
		gap.Message = "no writer was there to look"
		gap.MissedUntil = timestamppb.New(time.UnixMilli(until))
		if time.UnixMilli(first).Before(oldest) {
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
	return w.send(ctx, w.seen(ctx, due, revision))
}

func (w *reportWatch) result(at, revision int64) *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Server: w.server, Check: w.name, Kind: w.check.Kind, Org: selfOrg,
		Location: w.service.kit.Location, CheckId: w.check.ID.String(), Revision: revision,
		Instance: w.service.kit.Instance, ScheduledAt: timestamppb.New(time.UnixMilli(at)),
	}
}

// seen looks now, and makes a result of what it saw.
func (w *reportWatch) seen(ctx context.Context, at, revision int64) *picketv1.ProbeResult {
	started := time.Now()
	result := w.result(at, revision)
	result.StartedAt = timestamppb.New(started)
	v := w.look(ctx, started)
	result.LatencyUs = time.Since(started).Microseconds()
	result.Status, result.Reason, result.Message = v.status, v.reason, v.message
	return result
}

// send waits for the stream. A tick that nobody looked at has an identity of its own there, so that it can not hide
// the outcome that another writer has.
func (w *reportWatch) send(ctx context.Context, result *picketv1.ProbeResult) error {
	at, suffix := result.GetScheduledAt().AsTime(), ""
	if result.GetStatus() == picketv1.Status_STATUS_UNKNOWN {
		suffix = "/missed"
	}
	if until := result.GetMissedUntil(); until != nil {
		// Of two spans that begin at the same tick the stream must keep the longer.
		suffix += "/" + strconv.FormatInt(until.AsTime().UnixMilli(), 10)
	}
	_, err := w.service.bus.Publish(ctx, bus.Message{
		Subject: bus.ProbeSubject(result.GetOrg(), result.GetStatus(), result.GetLocation(), result.GetServer(), result.GetCheck()),
		ID:      fmt.Sprintf("%s/%s/%d%s", result.GetCheckId(), result.GetLocation(), at.UnixMilli(), suffix),
		Time:    time.Now(),
		Payload: result,
	})
	return err
}
