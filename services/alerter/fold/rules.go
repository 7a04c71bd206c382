package fold

import (
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// level is how bad a status is.
type level int8

const (
	good level = iota
	degraded
	unreachable
	critical
	levels // number of levels
)

// levelOf reports the level of a status; false for those that move no streak.
func levelOf(s picketv1.Status) (level, bool) {
	switch s {
	case picketv1.Status_STATUS_HEALTHY:
		return good, true
	case picketv1.Status_STATUS_DEGRADED:
		return degraded, true
	case picketv1.Status_STATUS_UNREACHABLE:
		return unreachable, true
	case picketv1.Status_STATUS_CRITICAL:
		return critical, true
	default:
		return good, false
	}
}

func (l level) status() picketv1.Status {
	switch l {
	case degraded:
		return picketv1.Status_STATUS_DEGRADED
	case unreachable:
		return picketv1.Status_STATUS_UNREACHABLE
	case critical:
		return picketv1.Status_STATUS_CRITICAL
	default:
		return picketv1.Status_STATUS_HEALTHY
	}
}

// rules are the thresholds in force for one check, defaults filled in.
type rules struct {
	after          [levels]int32 // results in a row, by level; [good] is unused
	unreachableFor int64         // ms
	closeAfter     int32
	quorum         int // at least 1, at most the number of locations
}

// alertSpec is picketv1.AlertRules as configured: 0 stands for a default.
type alertSpec struct {
	critical, unreachable, degraded, closeAfter, quorum int32
	unreachableFor                                      int64
}

func specOf(r *picketv1.AlertRules) alertSpec {
	return alertSpec{
		critical: r.GetCriticalAfter(), unreachable: r.GetUnreachableAfter(), degraded: r.GetDegradedAfter(),
		closeAfter: r.GetCloseAfter(), quorum: r.GetQuorum(), unreachableFor: r.GetUnreachableForMs(),
	}
}

// defaultRules are what a check gets whose configuration says nothing:
//
//	partition checks    at once
//	the check metrics   after 3 results
//	environment servers 2 bad ticks of any kind
//	all others          critical after 2, unreachable for 5 minutes, degraded after 5
//
// and everything closes after 2 good ones.
func defaultRules(source, check, kind string) rules {
	r := rules{closeAfter: 2}
	switch {
	case isPartition(kind, check):
		r.after = [levels]int32{0, 1, 1, 1}
	case check == checkMetrics:
		r.after = [levels]int32{0, 3, 3, 3}
	case source == sourceEnv:
		r.after = [levels]int32{0, 2, 2, 2}
	default:
		r.after = [levels]int32{degraded: 5, unreachable: 1, critical: 2}
		r.unreachableFor = (5 * time.Minute).Milliseconds()
	}
	return r
}

// Words of the catalog that decide about defaults and fingerprints.
const (
	checkHealth       = "health"
	checkMetrics      = "metrics"
	checkPartition    = "partition"
	checkKindReported = "reported"
	sourceEnv         = "env"

	lifecycleMaintenance = "maintenance"
	lifecycleInactive    = "inactive"
)

// isPartition tells Picket's own check on the months of its history.
func isPartition(kind, check string) bool {
	return kind == checkKindReported && check == checkPartition
}

func (a alertSpec) rules(source, check, kind string, locations int) rules {
	r := defaultRules(source, check, kind)
	set := func(to *int32, v int32) {
		if v > 0 {
			*to = v
		}
	}
	set(&r.after[critical], a.critical)
	set(&r.after[unreachable], a.unreachable)
	set(&r.after[degraded], a.degraded)
	set(&r.closeAfter, a.closeAfter)
	if a.unreachableFor > 0 {
		r.unreachableFor = a.unreachableFor
	}
	r.quorum = locations/2 + 1
	if a.quorum > 0 {
		r.quorum = int(a.quorum)
	}
	r.quorum = max(1, min(r.quorum, locations))
	return r
}

// streak is a run of results on one side of a level.
type streak struct {
	n     int32 // > 0: that many in a row at least that bad; < 0: that many in a row less bad
	begin int64 // scheduled_at of the first of them, ms; 0 when n < 0
}

// streakMax bounds the counters. No threshold can be larger than an int32 says, and none that matters is near it.
const streakMax = 1 << 30

// series is what is known of one check at one location.
type series struct {
	location *location
	last     int64 // scheduled_at of the last result folded, ms; 0: none yet
	status   level // of that result
	level    level // how it fails, hysteresis included
	streaks  [levels]streak
}

// fold takes one result that is later than the last one.
func (se *series) fold(r *rules, scheduled int64, l level) {
	se.last, se.status = scheduled, l
	for i := degraded; i < levels; i++ {
		st := &se.streaks[i]
		switch bad := l >= i; {
		case bad && st.n > 0:
			st.n = min(st.n+1, streakMax)
		case !bad && st.n < 0:
			st.n = max(st.n-1, -streakMax)
		case bad:
			*st = streak{n: 1, begin: scheduled}
		default:
			*st = streak{n: -1}
		}
	}
	if up := se.raised(r); up > se.level {
		se.level = up
	}
	// Lower to the worst status among the last closeAfter results.
	for se.level > good && -se.streaks[se.level].n >= r.closeAfter {
		se.level--
	}
}

// raised is the level that the last result makes the location fail with; good when no rule is met.
func (se *series) raised(r *rules) level {
	best := good
	for l := se.status; l > good; l-- {
		if l == degraded && se.status == unreachable && r.unreachableFor > 0 {
			continue // the duration asks for patience; see the package comment
		}
		st := se.streaks[l]
		if st.n < r.after[l] || (l == unreachable && se.last-st.begin < r.unreachableFor) {
			continue
		}
		reached := l
		for reached < critical && se.streaks[reached+1].n >= r.after[l] {
			reached++
		}
		best = max(best, reached)
	}
	return best
}
