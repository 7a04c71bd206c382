package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// readWait is how long a request that reads waits for its turn. It is many times what a read takes: who waits longer stands
// in a queue that grows, where more waiting helps nobody.
const readWait = time.Second

// readers bound how many requests read the database at a time, so that a crowd of them leaves connections to edits, to those
// who ask who somebody is, and to what the service does by itself. It is safe for concurrent use.
type readers struct{ free chan struct{} }

// newReaders leaves a quarter of the connections to others.
func newReaders(connections int) *readers {
	return &readers{free: make(chan struct{}, max(1, connections*3/4))}
}

// turn waits for a turn, which the caller ends by done. The error is the problem that people are told.
func (r *readers) turn(ctx context.Context) (done func(), err error) {
	select {
	case r.free <- struct{}{}:
		return r.end, nil
	default:
	}
	timer := time.NewTimer(readWait)
	defer timer.Stop()
	select {
	case r.free <- struct{}{}:
		return r.end, nil
	case <-timer.C:
		return nil, huma.ErrorWithHeaders(problem(http.StatusServiceUnavailable, "too many requests read at this moment"),
			http.Header{"Retry-After": {"1"}})
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *readers) end() { <-r.free }
