package fold

// A snapshot is a set of chunks: the head, the catalog by shard, and the state of checks by shard. At 100,000 checks all of
// the state changes within an interval and none of the catalog does, so that a snapshot costs about 40 bytes a check; in a
// small fleet a handful of chunks is touched.
const (
	shards    = 256
	headChunk = 0
	chunks    = 1 + 2*shards

	// chunkVersion is the first byte of every chunk. A reader refuses others: the snapshot is thrown away then, and folded
	// anew from the stream.
	chunkVersion = 2
)

// Chunk is a part of a snapshot; the newest of every ID together are the whole.
type Chunk struct {
	ID   int
	Data []byte // nil: the chunk is empty and is to be deleted
}

// shard by the last byte of the id: the first ones of a time-ordered UUID are alike.
func (s *server) shard() int        { return int(s.id[len(s.id)-1]) }
func (s *server) catalogChunk() int { return 1 + s.shard() }
func (s *server) stateChunk() int   { return 1 + shards + s.shard() }

// Changed returns the chunks that changed since it was called last (or all, after [State.Touch]). The caller stores them
// together with the position, in one transaction; when it cannot, it gives them back to Touch.
func (s *State) Changed() []Chunk {
	s.dirtyChunk[headChunk] = true // time passes with every event
	var changed []Chunk
	for id := range s.dirtyChunk {
		if s.dirtyChunk[id] {
			changed = append(changed, Chunk{ID: id, Data: s.chunk(id)})
		}
	}
	clear(s.dirtyChunk[:])
	return changed
}

// Touch makes the chunks part of the next snapshot; all of them when none is named.
func (s *State) Touch(changed ...Chunk) {
	for _, c := range changed {
		s.dirtyChunk[c.ID] = true
	}
	if len(changed) == 0 {
		for id := range s.dirtyChunk {
			s.dirtyChunk[id] = true
		}
	}
}

func (s *State) chunk(id int) []byte {
	e := encoder{b: []byte{chunkVersion}}
	switch {
	case id == headChunk:
		s.encodeHead(&e)
	case id <= shards:
		servers := s.shards[id-1]
		if len(servers) == 0 {
			return nil
		}
		e.uint(uint64(len(servers)))
		for _, srv := range servers {
			srv.encode(&e)
		}
	default:
		for _, srv := range s.shards[id-1-shards] {
			for _, c := range srv.checks {
				c.encodeState(&e)
			}
		}
		if len(e.b) == 1 {
			return nil
		}
	}
	return e.b
}

func (s *State) encodeHead(e *encoder) {
	e.bool(s.disabled)
	e.int(s.now)
	e.int(s.seen)
	e.int(s.switched)
	e.int(s.holeUntil)
	e.alert(s.hole)
	e.uint(uint64(len(s.orphans)))
	for _, a := range s.orphans {
		e.alert(a)
	}
	e.uint(uint64(len(s.tombs)))
	for _, t := range s.tombs {
		e.id(t.id)
		e.int(t.revision)
		e.int(t.at)
	}
	e.uint(uint64(len(s.order)))
	for _, l := range s.order {
		e.text(l.org)
		e.text(l.name)
		e.int(l.heard)
		e.int(l.at)
		e.bool(l.silent)
		e.alert(l.alert)
	}
}

func (s *server) encode(e *encoder) {
	e.id(s.id)
	e.text(s.org)
	e.text(s.name)
	e.text(s.source)
	e.text(s.lifecycle)
	e.int(s.revision)
	e.uint(uint64(len(s.checks)))
	for _, c := range s.checks {
		e.id(c.id)
		e.text(c.name)
		e.text(c.kind)
		e.int(c.timeout)
		e.int(int64(c.spec.critical))
		e.int(int64(c.spec.unreachable))
		e.int(int64(c.spec.degraded))
		e.int(int64(c.spec.closeAfter))
		e.int(int64(c.spec.quorum))
		e.int(c.spec.unreachableFor)
		e.uint(uint64(len(c.schedules)))
		for _, v := range c.schedules {
			e.int(v.interval)
			e.int(v.effective)
		}
		e.int(c.counted)
		e.uint(uint64(len(c.series)))
		for i := range c.series {
			e.text(c.series[i].location.name)
		}
	}
}

// encodeState writes nothing for a check that has no state yet.
func (c *check) encodeState(e *encoder) {
	fresh := c.alert == nil && len(c.evidence) == 0
	for i := range c.series {
		fresh = fresh && c.series[i].last == 0
	}
	if fresh {
		return
	}
	e.id(c.id)
	for i := range c.series {
		se := &c.series[i]
		e.int(se.last)
		if se.last == 0 {
			continue
		}
		e.uint(uint64(se.status))
		e.uint(uint64(se.level))
		for l := degraded; l < levels; l++ {
			e.int(int64(se.streaks[l].n))
			if se.streaks[l].n > 0 {
				e.int(se.last - se.streaks[l].begin)
			}
		}
	}
	e.uint(uint64(len(c.evidence)))
	for i := range c.evidence {
		ev := &c.evidence[i]
		e.uint(uint64(ev.status))
		e.int(ev.scheduled)
		e.text(ev.location)
		e.text(ev.reason)
		e.text(ev.message)
		e.int(ev.latency)
		e.int(int64(ev.httpStatus))
	}
	e.alert(c.alert)
}
