package fold

import (
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Event is one message of the stream.
type Event struct {
	Epoch    int64     // when the stream was created, Unix nanoseconds: sequences of different epochs have nothing in common
	Sequence uint64    // place in the stream, from 1
	Time     time.Time // when the server stored it
	// Payload is one of *picketv1.ProbeResult, *picketv1.CatalogChange, *picketv1.ClockTick, *picketv1.Command; anything else,
	// nil included, only lets time pass. It is not kept and not changed.
	Payload any
}

// Output is what one event brought about.
type Output struct {
	Transitions []Transition // in a fixed order
	Gaps        []Gap
	Skip        Skip // why the payload was not folded; empty when it was
}

// Skip is a reason not to fold a payload.
type Skip string

// Reasons not to fold a payload.
const (
	SkipReplayed Skip = "replayed"      // at or before the last event of this epoch
	SkipContract Skip = "contract"      // breaks the contract of its kind; the writer dead-letters it
	SkipUnknown  Skip = "unknown_check" // check or location not in the catalog as the fold knows it
	SkipLate     Skip = "late"          // at or before the last result of its check and location
	SkipNoStreak Skip = "no_streak"     // on demand, or status unknown
	SkipRevision Skip = "old_revision"  // a server at or below the revision already known

	SkipUnknownAlert Skip = "unknown_alert" // a command about an alert that is closed, or that the organization does not have
	SkipState        Skip = "alert_state"   // a command that the state of the alert, or alerting switched off, does not allow
)

// Reasons of gaps.
const (
	GapBlind     = "blind"     // nothing was stored for more than BlindAfter; no sequence is missing
	GapHole      = "hole"      // the stream dropped events before they were read
	GapRecreated = "recreated" // the stream was made anew
)

// Gap is a span of the stream that was not seen.
type Gap struct {
	Epoch            int64  // of the sequences
	FromSeq, ToSeq   uint64 // missing, both ends included; the events around a blind span, of which none is missing
	FromTime, ToTime time.Time
	Reason           string
}

// States of an alert.
const (
	Pending      = "pending"
	Open         = "open"
	Acknowledged = "acknowledged"
	Closed       = "closed"
)

// Names of transitions besides pending, acknowledged and closed, which are named like the state they lead to.
const (
	Opened  = "opened"
	Updated = "updated"
)

// Reasons to close.
const (
	Recovered = "recovered"
	Cleared   = "cleared"
	Removed   = "removed"
	Manual    = "manual"
)

// Severities.
const (
	SeverityCritical = "critical"
	SeverityWarning  = "warning"
)

// Kinds of alerts.
const (
	KindCritical         = "critical"
	KindUnreachable      = "unreachable"
	KindDegraded         = "degraded"
	KindMetricsFailing   = "metrics_failing"
	KindPartitionMissing = "partition_missing"
	KindProberGone       = "prober_gone"
	KindStreamHole       = "stream_hole"
)

// Platform stands for the server in alerts that concern none, and PlatformOrg owns those that concern no organization.
const (
	Platform    = "_platform"
	PlatformOrg = "default"
)

// Alert is a condition from its first bad result to its end. Times are UTC in whole milliseconds.
type Alert struct {
	ID          uuid.UUID
	Org         string
	Fingerprint string // unique in the organization among alerts not closed
	Kind        string
	Severity    string
	State       string
	Server      string
	Check       string    // name; empty when the alert concerns no check
	CheckID     uuid.UUID // zero when the alert concerns no check
	Location    string    // set when the alert concerns one location
	Summary     string    // what is wrong
	Reason      string    // why it closed
	Since       time.Time // scheduled_at of the first bad result; for absence, when the location was last heard
	PendingAt   time.Time // this and what follows: stream time
	OpenedAt    time.Time // zero when it never opened
	AckedAt     time.Time
	AckedBy     string
	ClosedAt    time.Time
	Triggers    int64 // bad results folded while it was not closed
}

// Transition is one step of one alert.
type Transition struct {
	From     string    // state before the step; empty when there was no alert
	Name     string    // pending, opened, updated, acknowledged, closed
	EventID  uuid.UUID // the same whenever the same stream is folded
	Alert    Alert     // as it is after the step
	Summary  string    // the step, in one sentence for people
	At       time.Time // stream time of the deciding event
	Epoch    int64     // of the deciding event
	Sequence uint64    // of the deciding event
	Evidence []*picketv1.Evidence
	Actor    string // who did it, when a person did
}

// Event returns the message that tells the world about the transition.
func (t *Transition) Event() *picketv1.AlertEvent {
	e := &picketv1.AlertEvent{
		Transition: t.Name, Severity: t.Alert.Severity, Server: t.Alert.Server, Check: t.Alert.Check, Kind: t.Alert.Kind,
		Summary: t.Summary, State: t.Alert.State, Reason: t.Alert.Reason, At: timestamppb.New(t.At), Org: t.Alert.Org,
		Location: t.Alert.Location, Fingerprint: t.Alert.Fingerprint, AlertId: t.Alert.ID.String(),
		EventId: t.EventID.String(), Evidence: t.Evidence, Actor: t.Actor,
	}
	if !t.Alert.OpenedAt.IsZero() {
		e.OpenedAt = timestamppb.New(t.Alert.OpenedAt)
	}
	return e
}

// namespace is the name space of alert and event identities (UUID version 5, RFC 9562). It never changes: identities made
// with another would not meet those in the database.
var namespace = uuid.UUID{0x70, 0x69, 0x63, 0x6b, 0x65, 0x74, 0x4c, 0x1f, 0x9d, 0x53, 0x2a, 0x7e, 0x5b, 0xc0, 0x11, 0xa4}

// identity is the UUID of an alert (transition empty) or of one of its events.
func identity(org, fingerprint string, epoch int64, seq uint64, transition string) uuid.UUID {
	name := make([]byte, 0, 128)
	name = append(name, org...)
	name = append(name, 0)
	name = append(name, fingerprint...)
	name = append(name, 0)
	name = strconv.AppendInt(name, epoch, 10)
	name = append(name, 0)
	name = strconv.AppendUint(name, seq, 10)
	if transition != "" {
		name = append(name, 0)
		name = append(name, transition...)
	}
	return uuid.NewSHA1(namespace, name)
}
