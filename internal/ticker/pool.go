package ticker

import (
	"context"
	"sync"
)

// job is one tick to be run.
type job struct {
	check  *check
	target *target
	host   *host // where it holds a place; nil when hosts are not bounded
	// atMS is the tick, revision what made it due, startMS when it was started.
	atMS, revision, startMS int64
	again                   bool // it has a marker already
}

// pool keeps the goroutines that probe. They are used again, the one that rested
// least first, because a goroutine that has probed before has a stack of the
// right size and warm caches. Its methods are called under the scheduler's lock;
// how many probes may run is the scheduler's business.
type pool struct {
	ctx  context.Context
	run  func(context.Context, *worker, job)
	idle []*worker
	// least is the smallest number of idle workers since the last trim.
	least   int
	stopped bool
	done    sync.WaitGroup
}

type worker struct {
	jobs chan job
}

func newPool(ctx context.Context, run func(context.Context, *worker, job)) *pool {
	return &pool{ctx: ctx, run: run}
}

// start hands a job to a worker that is idle, or to a new one. It never blocks.
func (p *pool) start(j job) {
	n := len(p.idle)
	if n == 0 {
		w := &worker{jobs: make(chan job, 1)}
		w.jobs <- j
		p.least = 0
		p.done.Go(func() {
			for j := range w.jobs {
				p.run(p.ctx, w, j)
			}
		})
		return
	}
	w := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.least = min(p.least, n-1)
	w.jobs <- j
}

// rest takes a worker back that has run its job. It may be given the next one
// before it has returned from the last.
func (p *pool) rest(w *worker) {
	if p.stopped {
		close(w.jobs)
		return
	}
	p.idle = append(p.idle, w)
}

// trim lets the workers go that were idle all the time since the last trim.
func (p *pool) trim() {
	surplus := min(p.least, len(p.idle))
	for _, w := range p.idle[:surplus] {
		close(w.jobs)
	}
	kept := copy(p.idle, p.idle[surplus:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
	p.least = kept
}

// stop lets all workers go, each as soon as it rests.
func (p *pool) stop() {
	p.stopped = true
	for _, w := range p.idle {
		close(w.jobs)
	}
	p.idle = nil
}
