package catalog

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Source says who declares a server. A source changes and removes only its own.
type Source string

// The sources.
const (
	// SourceEnv is the environment: every variable <NAME>_HEALTH_URL.
	SourceEnv Source = "env"
	// SourceFile is picket.yaml.
	SourceFile Source = "file"
	// SourceAPI is people, through the API.
	SourceAPI Source = "api"
	// SourceSelf is Picket: its own parts and the demo fleet.
	SourceSelf Source = "self"
)

// Lifecycle says what is done with a server.
type Lifecycle string

// The lifecycles.
const (
	// Active: probed.
	Active Lifecycle = "active"
	// Maintenance: probed, opens no alert.
	Maintenance Lifecycle = "maintenance"
	// Inactive: not probed.
	Inactive Lifecycle = "inactive"
)

// The kinds of checks.
const (
	KindHTTP = "http"
	KindTCP  = "tcp"
	// KindMetrics fetches a server's figures; the collector runs it.
	KindMetrics = "metrics"
	// KindReported is a check that no prober runs: a part of Picket publishes its results at each tick.
	KindReported = "reported"
)

// HealthCheck is the name of the check that every server has.
const HealthCheck = "health"

// MetricsCheck is the name of the check that fetches a server's figures, where the server has one that nobody named.
const MetricsCheck = "metrics"

// What is taken where nothing is said.
const (
	DefaultOrg      = "default"
	DefaultLocation = "local"
)

// Server is a managed thing with its checks, as a source declares it or as the database holds it.
type Server struct {
	// Org is the organization's slug.
	Org string
	// Name is a slug, unique in the organization and immutable.
	Name        string
	DisplayName string
	Source      Source
	Lifecycle   Lifecycle
	Region      string
	Environment string
	// Description is text for people, of several lines when it has to be.
	Description string
	Hostname    string
	// Version is what runs there, as whoever declares the server says.
	Version string
	// APIURL is the base of the addresses of a server that was registered with one.
	APIURL string
	// Metadata is anything that JSON can hold.
	Metadata map[string]any
	// Tags and Groups are sorted and without doubles once completed.
	Tags   []string
	Groups []string
	// Checks are sorted by name once completed; one of them is named health.
	Checks []Check
	// Credential is the token that the server wants presented; nil: none.
	Credential *Credential

	// What follows is set by the store alone.

	// ID is a UUID, kept when a removed server returns under its name.
	ID string
	// Revision grows with every change of the server or of one of its checks.
	Revision int64
	// Change is how the server came to this revision, as CatalogChange says it.
	Change    Change
	ChangedAt time.Time
}

// Change is the word that a CatalogChange carries.
type Change string

// The changes.
const (
	Added              Change = "added"
	Changed            Change = "changed"
	EnteredMaintenance Change = "maintenance"
	TokenRotated       Change = "token_rotated"
	Removed            Change = "removed"
)

// Check is how a server is probed. Exactly one of Reported, HTTP, TCP and Metrics is set, and says the kind.
type Check struct {
	// Name is a slug, unique in the server.
	Name string
	// Interval from tick to tick, in whole milliseconds.
	Interval time.Duration
	// Timeout of one probe, in whole milliseconds, shorter than Interval.
	Timeout time.Duration
	// Locations are slugs, sorted and without doubles once completed.
	Locations []string
	// Priority: higher goes first when more is due than can run.
	Priority int32
	// Disabled checks are kept and never due.
	Disabled bool
	// Alerts may be nil: the defaults for the server's source.
	Alerts *picketv1.AlertRules
	HTTP   *picketv1.HTTPSpec
	TCP    *picketv1.TCPSpec
	// Metrics says where figures are fetched and what they are made of.
	Metrics *picketv1.MetricsSpec
	// Reported checks are Picket's own; only the source self has them.
	Reported bool

	// What follows is set by the store alone.

	// ID is a UUID that never changes.
	ID string
	// Serial is the number in the catalog that the phase of the schedule is made from.
	Serial int64
	// Revision is that of the server when the check, or what its prober must know of the server, last changed.
	Revision int64
	// Removed checks are still here until their last schedule has ended everywhere.
	Removed bool
	// Schedules are the versions that may still matter, oldest first.
	Schedules []Schedule
}

// Schedule is one version of when and where a check is due.
type Schedule struct {
	Revision int64
	// Interval is 0 when the check is not due at all from EffectiveAt on.
	Interval    time.Duration
	EffectiveAt time.Time
	Locations   []string
}

// Kind is the check's kind, empty when it has no specification.
func (c *Check) Kind() string {
	switch {
	case c.HTTP != nil:
		return KindHTTP
	case c.TCP != nil:
		return KindTCP
	case c.Metrics != nil:
		return KindMetrics
	case c.Reported:
		return KindReported
	default:
		return ""
	}
}

// kinds counts the specifications; one that is valid has one.
func (c *Check) kinds() int {
	n := 0
	for _, set := range []bool{c.HTTP != nil, c.TCP != nil, c.Metrics != nil, c.Reported} {
		if set {
			n++
		}
	}
	return n
}

// DueInterval is the interval at which the check is due on server s: 0 when it is not due at all.
func (s *Server) DueInterval(c *Check) time.Duration {
	if c.Disabled || c.Removed || s.Change == Removed || s.Lifecycle == Inactive {
		return 0
	}
	return c.Interval
}

// sameCheck says whether two forms of one check ask for the same probes.
func sameCheck(a, b *Check) bool {
	return a.Name == b.Name && a.Removed == b.Removed && a.Disabled == b.Disabled &&
		a.Interval == b.Interval && a.Timeout == b.Timeout && a.Priority == b.Priority &&
		slices.Equal(a.Locations, b.Locations) &&
		proto.Equal(alertRules(a), alertRules(b)) &&
		a.Reported == b.Reported && proto.Equal(a.HTTP, b.HTTP) && proto.Equal(a.TCP, b.TCP) &&
		proto.Equal(a.Metrics, b.Metrics)
}

func alertRules(c *Check) *picketv1.AlertRules {
	if c.Alerts == nil {
		return &picketv1.AlertRules{}
	}
	return c.Alerts
}

// sameMetadata compares as JSON does: a number is a number, whatever it was read into.
func sameMetadata(a, b map[string]any) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	left, err := json.Marshal(a)
	if err != nil {
		return false
	}
	right, err := json.Marshal(b)
	return err == nil && bytes.Equal(left, right)
}

// sameServer says whether two forms of one server are the same but for their checks.
func sameServer(a, b *Server) bool {
	return a.Org == b.Org && a.Name == b.Name && a.Source == b.Source && a.DisplayName == b.DisplayName &&
		a.Lifecycle == b.Lifecycle && a.Region == b.Region && a.Environment == b.Environment &&
		a.Description == b.Description && a.Hostname == b.Hostname && a.Version == b.Version && a.APIURL == b.APIURL &&
		sameMetadata(a.Metadata, b.Metadata) &&
		slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Groups, b.Groups)
}
