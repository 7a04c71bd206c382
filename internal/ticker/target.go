package ticker

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// lifecycleInactive is the lifecycle of a server that is not looked at.
	lifecycleInactive = "inactive"
	// leastTimeoutMS stands in for a timeout that the catalog would never write.
	leastTimeoutMS = 1
)

// target is the definition of a check at one revision. It is immutable, so that
// a run in flight keeps the one with which it began.
type target struct {
	org, server, serverID, name, kind, id, location string

	key       tick.Key
	serial    int64
	revision  int64
	schedules tick.Schedules
	timeoutMS int64
	priority  int32
	inactive  bool
	hostName  string
	runner    Runner
}

// newTarget reads what the catalog says. A check that cannot be run is still
// a check that is due: its Runner says at every tick why not.
func newTarget(in *picketv1.ScheduledCheck, build func(*picketv1.ScheduledCheck) (Runner, error)) (*target, error) {
	c := in.GetCheck()
	switch {
	case c.GetId() == "" || in.GetOrg() == "" || in.GetServer() == "" || in.GetLocation() == "" || c.GetName() == "":
		return nil, fmt.Errorf("scheduled check %q of server %q has no id, organization, server, location or name", c.GetId(), in.GetServer())
	case len(c.GetSchedules()) == 0:
		return nil, fmt.Errorf("scheduled check %s has no schedule", c.GetId())
	}
	t := &target{
		org: in.GetOrg(), server: in.GetServer(), serverID: in.GetServerId(), location: in.GetLocation(),
		name: c.GetName(), kind: c.GetKind(), id: c.GetId(),
		key:       tick.KeyOf(c.GetId()),
		serial:    c.GetSerial(),
		revision:  c.GetRevision(),
		timeoutMS: max(c.GetTimeoutMs(), leastTimeoutMS),
		priority:  c.GetPriority(),
		inactive:  in.GetLifecycle() == lifecycleInactive,
		hostName:  hostOf(c),
		schedules: make(tick.Schedules, 0, len(c.GetSchedules())),
	}
	for _, v := range c.GetSchedules() {
		t.schedules = append(t.schedules, tick.Schedule{
			Revision: v.GetRevision(), IntervalMS: v.GetIntervalMs(), EffectiveAtMS: v.GetEffectiveAt().AsTime().UnixMilli(),
		})
	}
	runner, err := build(in)
	if err != nil {
		runner = Unable("invalid_check", err.Error())
	}
	t.runner = runner
	return t, nil
}

// hostOf returns the host that a check puts load on, without its port.
func hostOf(c *picketv1.Check) string {
	switch {
	case c.GetHttp() != nil:
		if u, err := url.Parse(c.GetHttp().GetUrl()); err == nil {
			return strings.ToLower(u.Hostname())
		}
	case c.GetMetrics() != nil:
		if u, err := url.Parse(c.GetMetrics().GetUrl()); err == nil {
			return strings.ToLower(u.Hostname())
		}
	case c.GetTcp() != nil:
		if host, _, err := net.SplitHostPort(c.GetTcp().GetAddress()); err == nil {
			return strings.ToLower(host)
		}
	}
	return ""
}

// rate returns the ticks per second of the version in force, or of the first to
// come when none is.
func (t *target) rate(nowMS int64) float64 {
	v, ok := t.schedules.At(nowMS)
	if !ok || v.IntervalMS <= 0 {
		if at, _, due := t.schedules.Next(t.serial, t.location, nowMS); due {
			v, _ = t.schedules.At(at)
		}
	}
	if v.IntervalMS <= 0 {
		return 0
	}
	return 1000 / float64(v.IntervalMS)
}

// next, split and missed are the schedule's functions for this check.
func (t *target) next(afterMS int64) (int64, bool) {
	at, _, ok := t.schedules.Next(t.serial, t.location, afterMS)
	return at, ok
}

func (t *target) split(afterMS, nowMS int64) tick.Overdue {
	return t.schedules.Split(t.serial, t.location, afterMS, nowMS)
}

func (t *target) missed(afterMS, untilMS int64) tick.Span {
	return t.schedules.Missed(t.serial, t.location, afterMS, untilMS)
}
