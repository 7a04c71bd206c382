package api

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

var (
	errDatabaseAway = errors.New("the database does not answer")
	errStopping     = errors.New("the service is stopping")
)

// gate lets requests through while the database answers, and ends those in flight when it stops to: a database that
// accepts and never answers must not hold anybody. It is safe for concurrent use.
type gate struct {
	// migrated: the schema was seen; it never goes back.
	migrated atomic.Bool

	mu sync.Mutex
	// open ends, with a cause, when the database goes away; it is ended already while it is.
	open     context.Context
	close    context.CancelCauseFunc
	isOpen   bool
	stopped  context.Context
	closeAll context.CancelCauseFunc
}

func newGate() *gate {
	g := &gate{}
	g.stopped, g.closeAll = context.WithCancelCause(context.Background())
	g.open, g.close = context.WithCancelCause(g.stopped)
	g.close(errDatabaseAway)
	return g
}

// set opens the gate when err is nil, and closes it otherwise.
func (g *gate) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil && !g.isOpen:
		g.open, g.close = context.WithCancelCause(g.stopped)
		g.isOpen = true
	case err != nil && g.isOpen:
		g.close(errDatabaseAway)
		g.isOpen = false
	}
}

// stop ends everything that goes through, for good.
func (g *gate) stop() { g.closeAll(errStopping) }

// through returns a context of a request that ends, with its cause, when the gate closes; a stream ends only when the
// service does. The error says that the gate is closed.
func (g *gate) through(ctx context.Context, stream bool) (context.Context, context.CancelFunc, error) {
	g.mu.Lock()
	bound := g.open
	g.mu.Unlock()
	if bound.Err() != nil {
		return nil, nil, context.Cause(bound)
	}
	if stream {
		bound = g.stopped
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(bound, func() { cancel(context.Cause(bound)) })
	return ctx, func() { stop(); cancel(nil) }, nil
}
