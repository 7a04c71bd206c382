package fold

import (
	"bytes"
	"slices"
	"time"

	"github.com/google/uuid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// tombstoneFor is how long the revision of a removed server is remembered, so that a change published before its removal and
// stored again after it does not bring it back. It outlives the stream's messages.
const tombstoneFor = 25 * time.Hour

type tombstone struct {
	id       uuid.UUID
	revision int64
	at       int64 // stream time, ms
}

// server is what the fold has to know of one.
type server struct {
	id        uuid.UUID
	org, name string
	source    string
	lifecycle string
	revision  int64
	checks    []*check // in the order of the catalog
}

// check is what the fold has to know of one, and its state.
type check struct {
	id         uuid.UUID
	server     *server
	name, kind string
	timeout    int64 // ms
	spec       alertSpec
	rules      rules // of spec, source, name, kind and number of locations
	schedules  []schedule
	counted    int64 // interval at which its locations expect it, ms; 0: not due
	series     []series
	evidence   []evidence // oldest first
	alert      *Alert
}

// schedule is one version, times in ms.
type schedule struct{ interval, effective int64 }

// interval in force at stream time now, ms; 0 when the check is not due. Before its first version it has that one's.
func (c *check) interval(now int64) int64 {
	for i := len(c.schedules) - 1; i > 0; i-- {
		if c.schedules[i].effective <= now {
			return c.schedules[i].interval
		}
	}
	if len(c.schedules) == 0 {
		return 0
	}
	return c.schedules[0].interval
}

// at is the series of a location; nil when the check is not probed from there.
func (c *check) at(location string) *series {
	for i := range c.series {
		if c.series[i].location.name == location {
			return &c.series[i]
		}
	}
	return nil
}

// change folds one change of the catalog.
func (s *State) change(p *picketv1.CatalogChange, out *Output) Skip {
	def := p.GetServer()
	id, err := uuid.Parse(def.GetId())
	if err != nil || !isName(def.GetName()) || !isName(def.GetOrg()) {
		return SkipContract
	}
	gone := p.GetChange() == "removed"
	old := s.servers[id]
	if old != nil && (def.GetRevision() < old.revision || (def.GetRevision() == old.revision && !gone)) {
		return SkipRevision
	}
	if last, ok := s.buried[id]; ok && def.GetRevision() <= last {
		return SkipRevision
	}
	if gone {
		s.bury(tombstone{id: id, revision: def.GetRevision(), at: s.now})
		if old != nil {
			s.removeServer(old, out)
		}
		s.abandon(def.GetOrg(), def.GetName(), out)
		return ""
	}
	checks, ok := s.parse(id, def)
	if !ok {
		return SkipContract
	}
	if same := s.names[orgName{def.GetOrg(), def.GetName()}]; same != nil && same.id != id {
		s.removeServer(same, out) // its removal was lost, and a name belongs to one
	}
	if old != nil && (old.org != def.GetOrg() || old.name != def.GetName()) {
		s.removeServer(old, out) // against the contract, but the new name is what is shown from now on
		old = nil
	}
	s.apply(old, id, def, checks, out)
	return ""
}

func (s *State) bury(t tombstone) {
	s.tombs = append(s.tombs, t)
	s.buried[t.id] = t.revision
}

// parse reads the identities of a server's checks; false when one is unreadable, doubled or another server's.
func (s *State) parse(server uuid.UUID, def *picketv1.Server) ([]uuid.UUID, bool) {
	ids := make([]uuid.UUID, len(def.GetChecks()))
	names := make(map[string]bool, len(ids))
	for i, c := range def.GetChecks() {
		id, err := uuid.Parse(c.GetId())
		if err != nil || slices.Contains(ids[:i], id) || names[c.GetName()] || !isName(c.GetName()) ||
			slices.ContainsFunc(c.GetLocations(), func(l string) bool { return !isName(l) }) {
			return nil, false
		}
		if known := s.checks[id]; known != nil && known.server.id != server {
			same := s.names[orgName{def.GetOrg(), def.GetName()}]
			if same == nil || known.server != same {
				return nil, false
			}
		}
		ids[i], names[c.GetName()] = id, true
	}
	return ids, true
}

// isName keeps out what no catalog of ours publishes: fingerprints are made of names, and only names without a colon make
// different ones for different checks.
func isName(name string) bool {
	if name == "" || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// apply makes the server what def says.
func (s *State) apply(srv *server, id uuid.UUID, def *picketv1.Server, ids []uuid.UUID, out *Output) {
	if srv == nil {
		srv = &server{id: id, org: def.GetOrg(), name: def.GetName()}
		s.add(srv)
	}
	s.touch(srv)
	srv.revision, srv.source, srv.lifecycle = def.GetRevision(), def.GetSource(), def.GetLifecycle()
	s.dirtyChunk[srv.catalogChunk()], s.dirtyChunk[srv.stateChunk()] = true, true

	for _, c := range srv.checks {
		if !slices.Contains(ids, c.id) {
			s.removeCheck(c, out)
		}
	}
	checks := make([]*check, len(ids))
	for i, id := range ids {
		checks[i] = s.applyCheck(srv, id, def.GetChecks()[i], out)
	}
	srv.checks = checks
}

func (s *State) applyCheck(srv *server, id uuid.UUID, def *picketv1.Check, out *Output) *check {
	c := s.checks[id]
	if c != nil {
		before := c.fingerprint()
		c.name, c.kind = def.GetName(), def.GetKind()
		if c.alert != nil && (before != c.fingerprint() || srv.lifecycle == lifecycleInactive) {
			s.closeOrOrphan(c, out)
		}
	} else {
		c = &check{id: id, server: srv, name: def.GetName(), kind: def.GetKind()}
		s.checks[id] = c
	}
	c.timeout, c.spec = def.GetTimeoutMs(), specOf(def.GetAlerts())
	c.schedules = c.schedules[:0]
	for _, v := range def.GetSchedules() {
		c.schedules = append(c.schedules, schedule{v.GetIntervalMs(), v.GetEffectiveAt().AsTime().UnixMilli()})
	}
	slices.SortStableFunc(c.schedules, func(a, b schedule) int { return int(min(1, max(-1, a.effective-b.effective))) })
	s.relocate(c, def.GetLocations(), out)
	if srv.lifecycle == lifecycleInactive { // not probed: what comes after is a new story
		c.evidence = nil
		for i := range c.series {
			c.series[i] = series{location: c.series[i].location}
		}
	}
	c.rules = c.spec.rules(srv.source, c.name, c.kind, len(c.series))
	s.recount(c, out)
	s.plan(c)
	s.claim(c, out)
	return c
}

// relocate gives the check one series per location, keeping those it has.
func (s *State) relocate(c *check, names []string, out *Output) {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if slices.EqualFunc(c.series, names, func(se series, name string) bool { return se.location.name == name }) {
		return
	}
	kept := make([]series, 0, len(names))
	for _, name := range names {
		if se := c.at(name); se != nil {
			kept = append(kept, *se)
			continue
		}
		l := s.use(c.server.org, name)
		s.expect(l, c.counted, +1, out)
		kept = append(kept, series{location: l})
	}
	for i := range c.series {
		if l := c.series[i].location; !slices.Contains(names, l.name) {
			s.expect(l, c.counted, -1, out)
			s.drop(l, out)
		}
	}
	c.series = kept
}

// add makes a server known that was not.
func (s *State) add(srv *server) {
	s.servers[srv.id], s.names[orgName{srv.org, srv.name}] = srv, srv
	shard := &s.shards[srv.shard()]
	i, _ := slices.BinarySearchFunc(*shard, srv.id, compareServer)
	*shard = slices.Insert(*shard, i, srv)
}

func compareServer(srv *server, id uuid.UUID) int { return bytes.Compare(srv.id[:], id[:]) }

func (s *State) removeServer(srv *server, out *Output) {
	s.touch(srv)
	for _, c := range srv.checks {
		s.removeCheck(c, out)
	}
	delete(s.servers, srv.id)
	shard := &s.shards[srv.shard()]
	i, _ := slices.BinarySearchFunc(*shard, srv.id, compareServer)
	*shard = slices.Delete(*shard, i, i+1)
	delete(s.names, orgName{srv.org, srv.name})
	s.dirtyChunk[srv.catalogChunk()], s.dirtyChunk[srv.stateChunk()] = true, true
}

func (s *State) removeCheck(c *check, out *Output) {
	if c.alert != nil {
		s.closeOrOrphan(c, out)
	}
	s.relocate(c, nil, out)
	delete(s.checks, c.id)
	s.dirtyChunk[c.server.catalogChunk()], s.dirtyChunk[c.server.stateChunk()] = true, true
}

// closeOrOrphan ends the alert of a check that is watched no more under this name.
func (s *State) closeOrOrphan(c *check, out *Output) {
	s.closeOrOrphanAlert(&owned{alert: c.alert, check: c}, out)
}

func (s *State) closeOrOrphanAlert(o *owned, out *Output) {
	if s.disabled {
		s.orphan(o)
		return
	}
	s.close(o, Removed, nil, out)
}
