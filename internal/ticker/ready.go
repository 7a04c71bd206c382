package ticker

import (
	"container/heap"

	"github.com/picketd/picket/internal/tick"
)

// queue holds checks that are due and wait: the highest priority first, then
// those never looked at, then the one not looked at for longest.
type queue []*check

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if a.target.priority != b.target.priority {
		return a.target.priority > b.target.priority
	}
	return a.startedMS < b.startedMS // 0 when it was never looked at
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for package heap; others use add.
func (q *queue) Push(x any) {
	c := x.(*check) //nolint:forcetypeassert // only add calls it
	c.index = len(*q)
	*q = append(*q, c)
}

// Pop is for package heap; others use take.
func (q *queue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	c.queue = nil
	return c
}

func (q *queue) add(c *check) {
	c.queue = q
	heap.Push(q, c)
}

func (q *queue) take() *check { return heap.Pop(q).(*check) } //nolint:forcetypeassert // only checks go in

func (q *queue) remove(c *check) { heap.Remove(q, c.index) }

// host bounds what is in flight to one target host. When the bound is reached a
// batch is full; the next one begins a pause after the first of it has ended, so
// that a target that hangs does not hold up the others on its host for longer
// than it must.
type host struct {
	name   string
	checks int // that point here
	taken  int // places: probes in flight, and checks in the ready queue
	full   bool
	// closing says that reopen runs.
	closing bool
	reopen  tick.Timer
	waiting queue
}

// admit takes a place; false when there is none.
func (h *host) admit(size int) bool {
	if h.full {
		return false
	}
	h.taken++
	h.full = h.taken >= size
	return true
}

// hostFor returns the host of a target, nil when it is not bounded.
func (s *scheduler) hostFor(t *target) *host {
	if s.opts.HostBatchSize <= 0 || t.hostName == "" {
		return nil
	}
	h := s.hosts[t.hostName]
	if h == nil {
		h = &host{name: t.hostName}
		s.hosts[t.hostName] = h
	}
	h.checks++
	return h
}

// leaveHost takes a check off its host.
func (s *scheduler) leaveHost(h *host) {
	if h != nil {
		h.checks--
		s.forgetHost(h)
	}
}

// forgetHost forgets a host that nothing points at and nothing is in flight to.
func (s *scheduler) forgetHost(h *host) {
	if h.checks == 0 && h.taken == 0 {
		s.wheel.Remove(h.reopen)
		delete(s.hosts, h.name)
	}
}

// enqueue makes a check wait for its turn, on its host first.
func (s *scheduler) enqueue(c *check) {
	if c.host != nil && !c.host.admit(s.opts.HostBatchSize) {
		c.host.waiting.add(c)
		s.held++
		return
	}
	s.ready.add(c)
}

// dequeue takes a check out that waits, and gives its place back.
func (s *scheduler) dequeue(c *check, nowMS int64) {
	if c.queue == nil {
		return
	}
	admitted := c.queue == &s.ready
	c.queue.remove(c)
	if !admitted {
		s.held--
		return
	}
	s.releaseHost(c.host, nowMS)
}

// releaseHost gives back a place on a host.
func (s *scheduler) releaseHost(h *host, nowMS int64) {
	if h == nil {
		return
	}
	h.taken--
	switch {
	case h.full && !h.closing && s.opts.HostBatchDelay <= 0:
		s.reopenHost(h)
	case h.full && !h.closing:
		h.closing = true
		h.reopen = s.wheel.Add(nowMS+s.opts.HostBatchDelay.Milliseconds(), event{host: h})
		s.opts.Wake()
	}
	s.forgetHost(h)
}

// reopenHost begins the next batch.
func (s *scheduler) reopenHost(h *host) {
	h.closing = false
	h.full = h.taken >= s.opts.HostBatchSize
	for len(h.waiting) > 0 && h.admit(s.opts.HostBatchSize) {
		s.ready.add(h.waiting.take())
		s.held--
	}
}
