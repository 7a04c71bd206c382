package alerter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

const (
	// statusReconcile is how often the whole bucket is compared with the memory: what a former lead may have written after
	// it lost its right, and what somebody changed by hand, lasts no longer.
	statusReconcile = time.Minute
	statusTimeout   = 10 * time.Second
)

// serverState is what a server reads like.
type serverState struct {
	status picketv1.Status
	seen   time.Time // its newest tick
}

// statuses is what the bucket picket_status should say, handed from the fold to whoever writes it. It holds each server
// once, so that a bucket that cannot be written costs no more memory than one that can.
type statuses struct {
	mu      sync.Mutex
	wanted  map[string]*picketv1.ServerStatus // by key
	changed map[string]struct{}               // keys that the bucket may not have yet
	whole   bool                              // the memory is complete
	signal  chan struct{}
}

func newStatuses() *statuses {
	return &statuses{wanted: map[string]*picketv1.ServerStatus{}, changed: map[string]struct{}{}, signal: make(chan struct{}, 1)}
}

// update takes what the named servers read like; those without a state are gone. all says that no other server is there.
func (s *statuses) update(names []fold.ServerName, states map[fold.ServerName]serverState, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		there := make(map[string]struct{}, len(names))
		for _, name := range names {
			there[bus.StatusKey(name.Org, name.Server)] = struct{}{}
		}
		for key := range s.wanted {
			if _, ok := there[key]; !ok {
				delete(s.wanted, key)
				s.changed[key] = struct{}{}
			}
		}
		s.whole = true
	}
	for _, name := range names {
		key := bus.StatusKey(name.Org, name.Server)
		state, there := states[name]
		have := s.wanted[key]
		switch {
		case !there && have == nil, there && have != nil && have.GetStatus() == state.status:
			continue
		case !there:
			delete(s.wanted, key)
		default:
			status := &picketv1.ServerStatus{Status: state.status, Server: name.Server, Org: name.Org}
			if !state.seen.IsZero() {
				status.Since = timestamppb.New(state.seen)
			}
			s.wanted[key] = status
		}
		s.changed[key] = struct{}{}
	}
	if len(s.changed) == 0 && !all {
		return
	}
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// take returns what changed since the last take; nil: gone.
func (s *statuses) take() map[string]*picketv1.ServerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := make(map[string]*picketv1.ServerStatus, len(s.changed))
	for key := range s.changed {
		taken[key] = s.wanted[key]
	}
	clear(s.changed)
	return taken
}

// compare returns what to write so that a bucket that holds these becomes what it should be, and forgets what changed. A
// status that lasts keeps the instant with which it began.
func (s *statuses) compare(held map[string]*picketv1.ServerStatus) map[string]*picketv1.ServerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	differ := map[string]*picketv1.ServerStatus{}
	for key, want := range s.wanted {
		have := held[key]
		if have != nil && have.GetStatus() == want.GetStatus() && have.GetOrg() == want.GetOrg() && have.GetServer() == want.GetServer() {
			s.wanted[key] = have
			continue
		}
		differ[key] = want
	}
	for key := range held {
		if s.wanted[key] == nil {
			differ[key] = nil
		}
	}
	clear(s.changed)
	return differ
}

func (s *statuses) isWhole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole
}

// keepStatuses brings the bucket in line with what the fold says until ctx ends: changes at once, everything at the
// beginning, after a reconnect, after a failure and once a minute. It returns no error: that the bucket cannot be written
// is no reason to stop alerting.
func (s *Service) keepStatuses(ctx context.Context, want *statuses) {
	reconnected := make(chan struct{}, 1)
	remove := s.bus.OnState(func(connected bool) {
		if connected {
			select {
			case reconnected <- struct{}{}:
			default:
			}
		}
	})
	defer remove()
	minute, alive := time.NewTicker(statusReconcile), time.NewTicker(bus.StatusAliveEvery)
	defer minute.Stop()
	defer alive.Stop()
	said := time.Time{} // when it was said last that the bucket is kept
	whole, failing, wait := true, false, retryWaitMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-want.signal:
		case <-reconnected:
			whole = true
		case <-minute.C:
			whole = true
		case <-alive.C:
		}
		for ctx.Err() == nil && want.isWhole() {
			err := s.writeStatuses(ctx, want, whole)
			// Not with every change, and not before what it vouches for.
			if now := time.Now(); err == nil && (whole || now.Sub(said) >= bus.StatusAliveEvery/2) {
				if err = s.sayStatusesKept(ctx, now); err == nil {
					said = now
				}
			}
			if err == nil {
				if failing {
					s.log.Info("server states written again")
				}
				whole, failing, wait = false, false, retryWaitMin
				break
			}
			if ctx.Err() != nil {
				return
			}
			s.metrics.statusFails.Inc()
			if !failing {
				failing = true
				s.log.Warn("server states not written, trying again", "err", err)
			}
			whole = true // nobody knows what arrived
			if !sleep(ctx, wait) || s.bus.WaitConnected(ctx) != nil {
				return
			}
			wait = min(2*wait, retryWaitMax)
		}
	}
}

// sayStatusesKept says that the bucket is as the fold knows it, now.
func (s *Service) sayStatusesKept(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	bucket, err := s.bus.StatusBucket(ctx)
	if err != nil {
		return fmt.Errorf("say that server states are kept: %w", err)
	}
	if err := bucket.Put(ctx, bus.StatusAliveKey, &picketv1.ServerStatus{Since: timestamppb.New(now)}); err != nil {
		return fmt.Errorf("say that server states are kept: %w", err)
	}
	return nil
}

// writeStatuses writes what changed, or whatever differs when whole is set.
func (s *Service) writeStatuses(ctx context.Context, want *statuses, whole bool) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	bucket, err := s.bus.StatusBucket(ctx)
	if err != nil {
		return fmt.Errorf("write server states: %w", err)
	}
	var differ map[string]*picketv1.ServerStatus
	if whole {
		held, err := listStatuses(ctx, bucket)
		if err != nil {
			return fmt.Errorf("write server states: %w", err)
		}
		differ = want.compare(held)
	} else {
		differ = want.take()
	}
	put := make(map[string]proto.Message, len(differ))
	for key, status := range differ {
		if status != nil {
			put[key] = status
			continue
		}
		if err := bucket.Delete(ctx, key); err != nil {
			return fmt.Errorf("write server states: %w", err)
		}
		s.metrics.statuses.Inc()
	}
	if err := bucket.PutAll(ctx, put); err != nil {
		return fmt.Errorf("write server states: %w", err)
	}
	s.metrics.statuses.Add(float64(len(put)))
	return nil
}

// listStatuses returns what the bucket holds; what does not read is there as a status that nothing is like.
func listStatuses(ctx context.Context, bucket *bus.Bucket) (map[string]*picketv1.ServerStatus, error) {
	entries, err := bucket.List(ctx, ">")
	if err != nil {
		return nil, err
	}
	held := make(map[string]*picketv1.ServerStatus, len(entries))
	for key, entry := range entries {
		if entry.Deleted || key == bus.StatusAliveKey {
			continue
		}
		status := &picketv1.ServerStatus{}
		if entry.Decode(status) != nil {
			status = &picketv1.ServerStatus{}
		}
		held[key] = status
	}
	return held, nil
}
