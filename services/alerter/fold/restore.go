package fold

import (
	"container/heap"
	"fmt"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Restore makes the state from a snapshot taken after the event seq of the stream made at epoch. It returns an error for
// chunks that are damaged, incomplete or of another version, and never panics on any bytes.
func Restore(epoch int64, seq uint64, snapshot []Chunk) (*State, error) {
	s := New()
	s.epoch, s.seq = epoch, seq
	data := make([][]byte, chunks)
	for _, c := range snapshot {
		if len(c.Data) == 0 {
			continue
		}
		if c.ID < 0 || c.ID >= chunks || c.Data[0] != chunkVersion {
			return nil, fmt.Errorf("restore chunk %d: %w", c.ID, errChunk)
		}
		data[c.ID] = c.Data[1:]
	}
	for id, b := range data {
		d := &decoder{b: b}
		switch {
		case id == headChunk:
			s.decodeHead(d)
		case b == nil:
			continue
		case id <= shards:
			for n := d.size(); n > 0 && d.err == nil; n-- {
				s.decodeServer(d, id-1)
			}
		default:
			for len(d.b) > 0 {
				s.decodeState(d, id-1-shards)
			}
		}
		if err := d.done(); err != nil {
			return nil, fmt.Errorf("restore chunk %d: %w", id, err)
		}
	}
	for _, l := range s.order {
		if l.uses == 0 {
			return nil, fmt.Errorf("restore location %q: %w", l.name, errChunk)
		}
	}
	heap.Init(&s.switches)
	return s, nil
}

// adopt attaches a decoded alert to its owner.
func (s *State) adopt(d *decoder, o *owned, a *Alert) {
	if a == nil || d.err != nil {
		return
	}
	if s.alerts[orgName{a.Org, a.Fingerprint}] != nil {
		d.fail()
		return
	}
	s.attach(o, a)
}

func (s *State) decodeHead(d *decoder) {
	s.disabled = d.bool()
	s.now, s.seen, s.switched, s.holeUntil = d.int(), d.int(), d.int(), d.int()
	if a := d.alert(); a != nil {
		if a.Kind != KindStreamHole {
			d.fail()
		}
		s.adopt(d, &owned{}, a)
	}
	for n := d.size(); n > 0 && d.err == nil; n-- {
		a := d.alert()
		if a == nil || a.Kind == KindStreamHole {
			d.fail()
			return
		}
		s.adopt(d, &owned{}, a)
		s.orphans = append(s.orphans, a)
	}
	for n := d.size(); n > 0 && d.err == nil; n-- {
		s.bury(tombstone{id: d.id(), revision: d.int(), at: d.int()})
	}
	for n := d.size(); n > 0 && d.err == nil; n-- {
		l := &location{orgName: orgName{d.text(), d.text()}, due: map[int64]int{}}
		l.heard, l.at, l.silent = d.int(), d.int(), d.bool()
		if len(s.order) > 0 && s.order[len(s.order)-1].compare(l.orgName) >= 0 {
			d.fail()
			return
		}
		s.locations[l.orgName] = l
		s.order = append(s.order, l)
		s.adopt(d, &owned{location: l}, d.alert())
	}
}

func (s *State) decodeServer(d *decoder, shard int) {
	srv := &server{id: d.id(), org: d.text(), name: d.text(), source: d.text(), lifecycle: d.text(), revision: d.int()}
	if d.err != nil || srv.shard() != shard || s.servers[srv.id] != nil || s.names[orgName{srv.org, srv.name}] != nil {
		d.fail()
		return
	}
	s.add(srv)
	for n := d.size(); n > 0 && d.err == nil; n-- {
		c := &check{id: d.id(), server: srv, name: d.text(), kind: d.text(), timeout: d.int()}
		c.spec = alertSpec{
			critical: d.int32(), unreachable: d.int32(), degraded: d.int32(), closeAfter: d.int32(), quorum: d.int32(),
			unreachableFor: d.int(),
		}
		for n := d.size(); n > 0 && d.err == nil; n-- {
			c.schedules = append(c.schedules, schedule{d.int(), d.int()})
		}
		c.counted = d.int()
		for n := d.size(); n > 0 && d.err == nil; n-- {
			l := s.locations[orgName{srv.org, d.text()}]
			if l == nil || c.at(l.name) != nil {
				d.fail()
				return
			}
			l.uses++
			if c.counted != 0 {
				l.due[c.counted]++
			}
			c.series = append(c.series, series{location: l})
		}
		if d.err != nil || s.checks[c.id] != nil {
			d.fail()
			return
		}
		c.rules = c.spec.rules(srv.source, c.name, c.kind, len(c.series))
		s.checks[c.id] = c
		srv.checks = append(srv.checks, c)
		for _, v := range c.schedules {
			if v.effective > s.switched {
				s.switches = append(s.switches, switchAt{v.effective, c.id})
			}
		}
	}
}

func (s *State) decodeState(d *decoder, shard int) {
	c := s.checks[d.id()]
	if c == nil || c.server.shard() != shard || c.alert != nil {
		d.fail()
		return
	}
	for i := range c.series {
		se := &c.series[i]
		if se.last = d.int(); se.last == 0 {
			continue
		}
		se.status, se.level = d.level(), d.level()
		for l := degraded; l < levels; l++ {
			if se.streaks[l].n = d.int32(); se.streaks[l].n > 0 {
				se.streaks[l].begin = se.last - d.int()
			}
		}
	}
	n := d.size()
	if n > proofSize {
		d.fail()
		return
	}
	for ; n > 0 && d.err == nil; n-- {
		c.evidence = append(c.evidence, evidence{
			status: picketv1.Status(d.int32u()), scheduled: d.int(), location: d.text(), reason: d.text(), message: d.text(),
			latency: d.int(), httpStatus: d.int32(),
		})
	}
	s.adopt(d, &owned{check: c}, d.alert())
}

// int32u reads what was written as unsigned and fits an enum.
func (d *decoder) int32u() int32 {
	v := d.uint()
	if v > 1<<30 {
		d.fail()
		return 0
	}
	return int32(v)
}
