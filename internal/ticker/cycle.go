package ticker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// String is the server's name as people know it.
func (n serverName) String() string {
	if n.org == "" || n.org == defaultOrg {
		return n.server
	}
	return n.org + "/" + n.server
}

// defaultOrg is the organization that there is when nobody makes one.
const defaultOrg = "default"

// logCycle says what came of a finished cycle.
func logCycle(log *slog.Logger, words Words, c cycle) {
	of := func(s picketv1.Status) int { return c.servers[s] }
	servers := 0
	for _, n := range c.servers {
		servers += n
	}
	names := slices.Sorted(slices.Values(c.alarming))
	if c.more > 0 {
		names = append(names, fmt.Sprintf("+%d more", c.more))
	}
	seconds := time.Duration(c.busyMS * int64(time.Millisecond)).Seconds()
	critical, unreachable := of(picketv1.Status_STATUS_CRITICAL), of(picketv1.Status_STATUS_UNREACHABLE)
	if words == MetricsCollection {
		failed := unreachable + of(picketv1.Status_STATUS_UNKNOWN)
		log.Info("metrics collection complete", "servers", servers, "duration_seconds", seconds,
			"successful", servers-failed, "failed", failed)
		if failed > 0 {
			log.Warn("failed to collect metrics", "servers", names)
		}
		return
	}
	attrs := []slog.Attr{
		slog.Int("servers", servers), slog.Float64("duration_seconds", seconds),
		slog.Int("healthy", of(picketv1.Status_STATUS_HEALTHY)), slog.Int("degraded", of(picketv1.Status_STATUS_DEGRADED)),
		slog.Int("critical", critical), slog.Int("unreachable", unreachable),
	}
	if unknown := of(picketv1.Status_STATUS_UNKNOWN); unknown > 0 { // rare, and ours to explain
		attrs = append(attrs, slog.Int("unknown", unknown))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "health checks complete", attrs...)
	if critical+unreachable > 0 {
		log.Warn("fleet health alert", "critical", critical, "unreachable", unreachable, "names", names)
	}
}

// begins reports that the cycle of this moment is to be announced: once, and
// after the one before has finished, but no later than in its middle. Only the
// loop calls it.
func (st *statistics) begins(nowMS int64) (fromMS, untilMS int64, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.account(nowMS)
	start := nowMS - nowMS%st.intervalMS
	switch {
	case start <= st.announcedMS:
		return 0, 0, false
	case st.announcedMS == 0:
		fromMS = nowMS // what was due before was not this process's
	case len(st.cycles) > 1 && nowMS < start+st.intervalMS/2:
		return 0, 0, false
	default:
		fromMS = start
	}
	st.announcedMS = start
	return fromMS, start + st.intervalMS, true
}

// span is a part of a cycle.
type span struct{ fromMS, untilMS int64 }

// announce says how many servers each cycle that begins is about. It has a
// goroutine of its own because it looks at all checks.
func (k *Ticker) announce(ctx context.Context) {
	var targets []*target
	due := map[serverName]struct{}{}
	for {
		var cycle span
		select {
		case cycle = <-k.cycles:
		case <-ctx.Done():
			return
		}
		targets = k.sched.ownedTargets(targets[:0])
		for _, t := range targets {
			if t.schedules.Count(t.serial, t.location, cycle.fromMS, cycle.untilMS) == 0 {
				continue
			}
			if _, skip := k.sched.skips(t); !skip {
				due[t.serverName()] = struct{}{}
			}
		}
		servers := len(due)
		clear(due)
		clear(targets)
		switch {
		case servers == 0:
		case k.opts.Words == MetricsCollection:
			k.log.Info("starting metrics collection", "servers", servers)
		default:
			k.log.Info("starting health checks", "servers", servers)
		}
	}
}

// reportCycles logs what is to be said of cycles at a heartbeat.
func (k *Ticker) reportCycles() {
	for _, c := range k.stats.take() {
		logCycle(k.log, k.opts.Words, c)
	}
	from, until, ok := k.stats.begins(k.clock.NowMS())
	if !ok {
		return
	}
	select {
	case k.cycles <- span{from, until}:
	default: // it still counts the last one
	}
}
