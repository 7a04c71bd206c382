package catalog

import (
	"cmp"
	"slices"
	"time"
)

// The intervals and timeouts that hold where nothing is said, and their bounds.
const (
	// DefaultEnvInterval rules servers from the environment (HEALTH_CHECK_INTERVAL).
	DefaultEnvInterval = 60 * time.Second
	// MinEnvInterval is the floor of HEALTH_CHECK_INTERVAL.
	MinEnvInterval = 5 * time.Second
	// EnvTimeout is the timeout of environment servers, as long as it is shorter than 0.9 of the interval.
	EnvTimeout = 5 * time.Second
	// DefaultInterval rules all other servers (FLEET_HEALTH_INTERVAL).
	DefaultInterval = 30 * time.Second
	// DefaultMetricsInterval rules checks of the kind metrics (FLEET_METRICS_INTERVAL).
	DefaultMetricsInterval = 60 * time.Second
	// MinInterval and MaxInterval bound every check. The longest leaves a result an hour of the 25 during which the
	// contract of the stream takes it.
	MinInterval = time.Second
	MaxInterval = 24 * time.Hour
	// MaxDefaultTimeout bounds the timeout of a check that names none.
	MaxDefaultTimeout = 30 * time.Second
	// MaxTimeout bounds every timeout: a probe in flight holds a connection.
	MaxTimeout = 5 * time.Minute
)

// Defaults fill what a server leaves open. The zero value is what holds for servers that are not from the
// environment.
type Defaults struct {
	Org      string
	Interval time.Duration
	// MetricsInterval is that of checks of the kind metrics.
	MetricsInterval time.Duration
	Timeout         time.Duration
	Locations       []string
}

// TimeoutFor is the timeout of a check that names none: the smaller of limit and nine tenths of its interval.
func TimeoutFor(interval, limit time.Duration) time.Duration {
	return min(limit, interval*9/10).Truncate(time.Millisecond)
}

// Complete fills what s leaves open (a list that is empty and not nil was said to be empty) and brings lists into order, so that two servers that mean the same are the same.
func (s *Server) Complete(d Defaults) {
	s.Org = cmp.Or(s.Org, d.Org, DefaultOrg)
	s.Lifecycle = cmp.Or(s.Lifecycle, Active)
	s.Tags = normalized(s.Tags)
	s.Groups = normalized(s.Groups)
	for i := range s.Checks {
		c := &s.Checks[i]
		if c.Metrics != nil {
			c.Interval = cmp.Or(c.Interval, d.MetricsInterval, DefaultMetricsInterval)
		}
		c.Interval = cmp.Or(c.Interval, d.Interval, DefaultInterval)
		c.Timeout = cmp.Or(c.Timeout, d.Timeout, TimeoutFor(c.Interval, MaxDefaultTimeout))
		if c.Locations == nil {
			c.Locations = d.Locations
		}
		if c.Locations == nil {
			c.Locations = []string{DefaultLocation}
		}
		c.Locations = normalized(c.Locations)
	}
}

// sortChecks brings the checks into order; it comes after validation, whose faults name them by where they stand.
func (s *Server) sortChecks() {
	slices.SortFunc(s.Checks, func(a, b Check) int { return cmp.Compare(a.Name, b.Name) })
}

func normalized(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}
