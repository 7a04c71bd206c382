package fold

import (
	"slices"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// ServerName names a server.
type ServerName struct{ Org, Server string }

// touch notes that a server may read otherwise than before.
func (s *State) touch(srv *server) {
	if !s.touchedAll {
		s.touched[ServerName{srv.org, srv.name}] = struct{}{}
	}
}

// touchAll notes it of every server.
func (s *State) touchAll() {
	s.touchedAll = true
	clear(s.touched)
}

// Touched returns the servers whose status may have changed since it was called last, or all set when it may be any. It
// holds no more names than there are servers.
func (s *State) Touched() (names []ServerName, all bool) {
	if s.touchedAll {
		s.touchedAll = false
		return nil, true
	}
	if len(s.touched) == 0 {
		return nil, false
	}
	names = make([]ServerName, 0, len(s.touched))
	for name := range s.touched {
		names = append(names, name)
	}
	clear(s.touched)
	slices.SortFunc(names, func(a, b ServerName) int { return orgName{a.Org, a.Server}.compare(orgName{b.Org, b.Server}) })
	return names, false
}

// Servers returns the names of all servers known, in no order.
func (s *State) Servers() []ServerName {
	names := make([]ServerName, 0, len(s.names))
	for name := range s.names {
		names = append(names, ServerName{name.org, name.name})
	}
	return names
}

// Known reports whether the catalog as the fold knows it has the server.
func (s *State) Known(name ServerName) bool { return s.names[orgName{name.Org, name.Server}] != nil }

// Seen is the newest tick that any location which is not gone saw of a server; zero when there is none.
func (s *State) Seen(name ServerName) time.Time {
	srv := s.names[orgName{name.Org, name.Server}]
	if srv == nil {
		return time.Time{}
	}
	newest := int64(0)
	for _, c := range srv.checks {
		for i := range c.series {
			if !c.series[i].location.silent {
				newest = max(newest, c.series[i].last)
			}
		}
	}
	if newest == 0 {
		return time.Time{}
	}
	return fromMS(newest)
}

// Status is how a server reads now: the worst status that quorum of a check's locations saw last, over its checks. Locations
// that are gone say nothing; unknown is the answer when none is left that saw anything.
func (s *State) Status(org, name string) picketv1.Status {
	srv := s.names[orgName{org, name}]
	if srv == nil {
		return picketv1.Status_STATUS_UNKNOWN
	}
	worst, known := good, false
	for _, c := range srv.checks {
		var v ballot
		voters := 0
		for i := range c.series {
			se := &c.series[i]
			if se.last == 0 || se.location.silent {
				continue
			}
			voters++
			for l := degraded; l <= se.status; l++ {
				v.held[l]++
			}
		}
		if voters > 0 {
			known = true
			worst = max(worst, v.top(&v.held, min(c.rules.quorum, voters)))
		}
	}
	if !known {
		return picketv1.Status_STATUS_UNKNOWN
	}
	return worst.status()
}
