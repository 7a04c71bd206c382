package bus

// fifo is a growing ring: both ends in constant time, no allocation when it stays the same size.
type fifo struct {
	ring  []queued // its length is a power of two
	start int
	count int
}

func (f *fifo) len() int { return f.count }

func (f *fifo) at(i int) *queued { return &f.ring[(f.start+i)&(len(f.ring)-1)] }

func (f *fifo) front() *queued { return f.at(0) }

func (f *fifo) back() *queued { return f.at(f.count - 1) }

func (f *fifo) grow() {
	if f.count < len(f.ring) {
		return
	}
	bigger := make([]queued, max(16, 2*len(f.ring)))
	for i := range f.count {
		bigger[i] = *f.at(i)
	}
	f.ring, f.start = bigger, 0
}

func (f *fifo) pushBack(item queued) {
	f.grow()
	f.count++
	*f.back() = item
}

func (f *fifo) pushFront(item queued) {
	f.grow()
	f.start = (f.start - 1) & (len(f.ring) - 1)
	f.count++
	*f.front() = item
}

func (f *fifo) popFront() queued {
	item := *f.front()
	*f.front() = queued{} // lets go of the payload
	f.start = (f.start + 1) & (len(f.ring) - 1)
	f.count--
	return item
}

func (f *fifo) popBack() queued {
	item := *f.back()
	*f.back() = queued{}
	f.count--
	return item
}
