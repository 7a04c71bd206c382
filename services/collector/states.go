package collector

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// reopenWait is the pause before a bucket that could not be opened is tried again.
	reopenWait = time.Second
	// statesFor is how long the states are believed after the alerter has vouched for them last. When none runs, nobody
	// says that a server is back: then all are collected from, rather than some never again.
	statesFor = 4 * bus.StatusAliveEvery
)

// states knows which servers are down, as the alerter says. It is safe for concurrent use.
type states struct {
	mu   sync.RWMutex
	down map[string]*picketv1.ServerStatus // by key of the bucket: critical and unreachable ones alone

	vouched  time.Time // when the alerter was heard to vouch for them last, by the clock of here
	revision uint64    // of that entry
}

// believed reports whether the alerter still keeps the states; the caller holds the lock.
func (s *states) believed() bool { return time.Since(s.vouched) < statesFor }

// skip says whether a server is to be left alone, and in a word why. One that nobody knows anything of is not: figures of
// a server that was never seen healthy are as good as any.
func (s *states) skip(org, server string) (reason string, skip bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	status, down := s.down[bus.StatusKey(org, server)]
	if !down || !s.believed() {
		return "", false
	}
	return health.Word(status.GetStatus()), true
}

// skipped is how many servers are left alone.
func (s *states) skipped() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.believed() {
		return 0
	}
	return len(s.down)
}

// apply takes what the bucket says, and returns the servers that were down and are not any more. complete: there is
// nothing else in the bucket.
func (s *states) apply(batch []bus.Entry, complete bool, log *slog.Logger) (back []*picketv1.ServerStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vouched.IsZero() {
		s.vouched = time.Now() // how old the word is that is in the bucket already, nobody here knows
	}
	here := make(map[string]bool, len(batch))
	for _, entry := range batch {
		if entry.Key == bus.StatusAliveKey {
			if !entry.Deleted && entry.Revision != s.revision {
				s.vouched, s.revision = time.Now(), entry.Revision
			}
			continue
		}
		here[entry.Key] = !entry.Deleted
		status := &picketv1.ServerStatus{}
		if !entry.Deleted {
			if err := entry.Decode(status); err != nil {
				// The server reads as unknown, and is collected from.
				log.Warn("state of a server not read", "key", entry.Key, "err", err)
				status = &picketv1.ServerStatus{}
			}
		}
		before, wasDown := s.down[entry.Key]
		switch status.GetStatus() {
		case picketv1.Status_STATUS_CRITICAL, picketv1.Status_STATUS_UNREACHABLE:
			s.down[entry.Key] = status
		default:
			delete(s.down, entry.Key)
			if wasDown {
				back = append(back, before)
			}
		}
	}
	if !complete {
		return back
	}
	for key, status := range s.down {
		if !here[key] {
			delete(s.down, key)
			back = append(back, status)
		}
	}
	return back
}

// followStates keeps states in line with the bucket until ctx ends. A server that comes back is collected from at once.
func (s *Service) followStates(ctx context.Context) {
	for ctx.Err() == nil {
		bucket, err := s.conn.StatusBucket(ctx)
		if err == nil {
			err = bucket.Watch(ctx, ">", func(batch []bus.Entry, complete bool) {
				for _, server := range s.states.apply(batch, complete, s.log) {
					s.ticker.Nudge(server.GetOrg(), server.GetServer())
				}
			})
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("states of servers not followed, trying again", "err", err)
		}
		if !sleep(ctx, reopenWait) || s.conn.WaitConnected(ctx) != nil {
			return
		}
	}
}

// sleep reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
