package api

import (
	"context"
	"sync"
	"time"
)

// kept holds what takes long to count, one value for each organization: whoever asks while it is young enough gets it,
// and those who ask while it is counted wait for the one who counts. It is safe for concurrent use. Organizations are
// few and stay, so that nothing is ever removed.
type kept[T any] struct {
	mu sync.Mutex
	of map[string]*keptValue[T]
}

type keptValue[T any] struct {
	// turn holds one token: who has it may look at the rest.
	turn  chan struct{}
	value T
	until time.Time
}

// get returns the value of an organization, from count when there is none or it is too old; count says until when it is
// good. Errors are not kept: the next one asks again.
func (k *kept[T]) get(ctx context.Context, org string, count func(context.Context) (T, time.Time, error)) (T, error) {
	k.mu.Lock()
	if k.of == nil {
		k.of = map[string]*keptValue[T]{}
	}
	v := k.of[org]
	if v == nil {
		v = &keptValue[T]{turn: make(chan struct{}, 1)}
		k.of[org] = v
	}
	k.mu.Unlock()
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	defer func() { <-v.turn }()
	if time.Now().Before(v.until) {
		return v.value, nil
	}
	value, until, err := count(ctx)
	if err != nil {
		return value, err
	}
	v.value, v.until = value, until
	return value, nil
}
