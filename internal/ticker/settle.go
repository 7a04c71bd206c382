package ticker

import (
	"math"
	"sync"
)

// settleMS is the width of the steps in which a ledger knows what is settled.
const settleMS = 100

// ledger knows until when every tick is settled: published, and acknowledged by
// the stream or given up with a marker in its place. The heartbeat says it, and
// whoever takes checks over begins there, so that what was in flight when a
// process died is looked at or explained. It is safe for concurrent use.
type ledger struct {
	mu sync.Mutex
	// due counts unsettled ticks by step.
	due map[int64]int
	// queued are the steps of what was handed to the publisher, in its order;
	// settlesNothing stands for a message that is not the last of its tick.
	queued []int64
	first  int   // of queued that is not settled
	done   int64 // settled since the start, all before included
	held   int64 // what is said instead until the process has joined; 0: nothing
}

// settlesNothing is a step in which no tick is.
const settlesNothing = math.MinInt64

func newLedger() *ledger { return &ledger{due: map[int64]int{}} }

// hold makes the ledger say what the last process of this name had settled. One
// that ends before it has joined has settled nothing more, and who starts next
// begins where its predecessor would have.
func (l *ledger) hold(settledMS int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = settledMS
}

// join makes the ledger speak for itself.
func (l *ledger) join() { l.hold(0) }

// add notes a tick that is going to be run or missed.
func (l *ledger) add(atMS int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due[atMS/settleMS]++
}

// queue notes that the outcome of a tick goes to the publisher behind some
// messages that go before it, and has them put there: all in the same order.
func (l *ledger) queue(atMS int64, before int, enqueue func()) {
	l.put(before, atMS/settleMS, enqueue)
}

// pass has messages put there with which no tick is settled.
func (l *ledger) pass(messages int, enqueue func()) {
	l.put(messages-1, settlesNothing, enqueue)
}

func (l *ledger) put(before int, step int64, enqueue func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range before {
		l.queued = append(l.queued, settlesNothing)
	}
	l.queued = append(l.queued, step)
	enqueue()
}

// settle notes up to which message, counted from 1 as they were put there, the
// publisher has got rid of all.
func (l *ledger) settle(upTo int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.done < upTo && l.first < len(l.queued); l.done++ {
		step := l.queued[l.first]
		l.first++
		if l.due[step]--; l.due[step] <= 0 {
			delete(l.due, step)
		}
	}
	if l.first > len(l.queued)/2 {
		l.queued = append(l.queued[:0], l.queued[l.first:]...)
		l.first = 0
	}
}

// until returns the instant up to which every tick is settled, at most nowMS.
func (l *ledger) until(nowMS int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != 0 {
		return min(l.held, nowMS)
	}
	until := nowMS
	for step := range l.due {
		until = min(until, step*settleMS-1)
	}
	return until
}
