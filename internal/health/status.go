package health

import (
	"iter"
	"strings"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Word returns the lower-case word of a status, as it stands in subjects, JSON
// and the database. A value without a word is unknown: what we cannot name is
// never shown as down.
func Word(s picketv1.Status) string {
	switch s {
	case picketv1.Status_STATUS_HEALTHY:
		return "healthy"
	case picketv1.Status_STATUS_DEGRADED:
		return "degraded"
	case picketv1.Status_STATUS_CRITICAL:
		return "critical"
	case picketv1.Status_STATUS_UNREACHABLE:
		return "unreachable"
	default:
		return "unknown"
	}
}

// ParseStatus is the inverse of Word, in any case; false when the word is none
// of the five.
func ParseStatus(word string) (picketv1.Status, bool) {
	for s := picketv1.Status_STATUS_HEALTHY; s <= picketv1.Status_STATUS_UNKNOWN; s++ {
		if strings.EqualFold(word, Word(s)) {
			return s, true
		}
	}
	return picketv1.Status_STATUS_UNSPECIFIED, false
}

// Rank orders statuses for a roll-up: critical 4, unreachable 3, degraded 2,
// healthy 1, unknown 0.
func Rank(s picketv1.Status) int {
	switch s {
	case picketv1.Status_STATUS_CRITICAL:
		return 4
	case picketv1.Status_STATUS_UNREACHABLE:
		return 3
	case picketv1.Status_STATUS_DEGRADED:
		return 2
	case picketv1.Status_STATUS_HEALTHY:
		return 1
	default:
		return 0
	}
}

// Worse reports whether a ranks above b.
func Worse(a, b picketv1.Status) bool { return Rank(a) > Rank(b) }

// Worst returns the highest-ranked status: unknown only if all are, or if there
// are none.
func Worst(statuses iter.Seq[picketv1.Status]) picketv1.Status {
	worst := picketv1.Status_STATUS_UNKNOWN
	for s := range statuses {
		if Worse(s, worst) {
			worst = s
		}
	}
	return worst
}
