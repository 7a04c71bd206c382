package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// maxKept bounds how many values are remembered: a list has as many filters as people can think of.
const maxKept = 1000

// kept holds what takes long to count, a value for each key. Nobody waits for a value that is there and not too old: from a
// certain age on the first who asks has it counted anew, while everybody is shown the old one. Those who find none wait
// together for one count. It is safe for concurrent use.
type kept[T any] struct {
	// bound ends a count, which is nobody's request, when it may not go on; nil: nothing does.
	bound func(ctx context.Context) (context.Context, context.CancelFunc, error)
	// log is told of a count that panics.
	log *slog.Logger

	mu sync.Mutex
	of map[string]*keptValue[T]
}

type keptValue[T any] struct {
	value T
	span  span
	// counting is the count that is under way; nil: none.
	counting *counting[T]
}

// span says how long a value is good: shown until one instant, and counted anew from an earlier one on.
type span struct{ renew, until time.Time }

type counting[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// get returns the value under a key, from count when there is none or it is too old. Errors are not kept: the next one asks
// again. count outlives the request that it is for, since others wait for it too.
func (k *kept[T]) get(ctx context.Context, key string, count func(context.Context) (T, span, error)) (T, error) {
	k.mu.Lock()
	now := time.Now()
	v := k.at(key, now)
	if v.counting == nil && (!now.Before(v.span.renew) || !now.Before(v.span.until)) {
		v.counting = &counting[T]{done: make(chan struct{})}
		go k.count(context.WithoutCancel(ctx), v, v.counting, count)
	}
	if now.Before(v.span.until) {
		defer k.mu.Unlock()
		return v.value, nil
	}
	c := v.counting
	k.mu.Unlock()
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (k *kept[T]) count(ctx context.Context, v *keptValue[T], c *counting[T], count func(context.Context) (T, span, error)) {
	value, good, err := k.bounded(ctx, count)
	k.mu.Lock()
	defer k.mu.Unlock()
	v.counting = nil
	if err == nil {
		v.value, v.span = value, good
	}
	c.value, c.err = value, err
	close(c.done)
}

// bounded counts within the bound. A count that panics is logged here, for perhaps nobody waits for it: there is no request
// whose panic that would be, and it ended the process.
func (k *kept[T]) bounded(ctx context.Context, count func(context.Context) (T, span, error)) (value T, good span, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			k.log.ErrorContext(ctx, "count panicked", "err", fmt.Sprint(fault), "stack", string(debug.Stack()))
			err = problem(http.StatusInternalServerError, faultOfOurs)
		}
	}()
	if k.bound != nil {
		bounded, stop, err := k.bound(ctx)
		if err != nil {
			return value, good, err
		}
		defer stop()
		ctx = bounded
	}
	return count(ctx)
}

// at is the place of a key. When there is no room it forgets what has run out, and anything when nothing has: who waits for
// a count has it all the same.
func (k *kept[T]) at(key string, now time.Time) *keptValue[T] {
	if v := k.of[key]; v != nil {
		return v
	}
	if k.of == nil {
		k.of = map[string]*keptValue[T]{}
	}
	if len(k.of) >= maxKept {
		for other, v := range k.of {
			if !now.Before(v.span.until) {
				delete(k.of, other)
			}
		}
		for other := range k.of {
			if len(k.of) < maxKept {
				break
			}
			delete(k.of, other)
		}
	}
	v := &keptValue[T]{}
	k.of[key] = v
	return v
}

const (
	// keepCounts is how long a count is good at least, and showCounts how long it is shown at most.
	keepCounts = time.Second
	showCounts = 5 * time.Second
	// countShare is how many times as long as it took a count is good: counting takes a tenth of a connection, where it takes less
	// than half a second.
	countShare = 9
)

// counted is how long something is good that was counted since an instant.
func counted(since time.Time) span {
	now := time.Now()
	renew := min(max(keepCounts, countShare*now.Sub(since)), showCounts-keepCounts)
	return span{renew: now.Add(renew), until: now.Add(showCounts)}
}
