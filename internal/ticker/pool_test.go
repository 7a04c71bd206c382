package ticker

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/picketd/picket/internal/tick"
)

// bubble is a scheduler with its real pool of goroutines, in fake time: probes
// take what they take, and the loop turns as in a Service.
func bubble(t *testing.T, targets []*target, lasts func(*target) time.Duration) (s *scheduler, p *pool, started map[string][]time.Duration) {
	t.Helper()
	begin := time.Now()
	clock := tick.NewClock(time.UnixMilli(simEpochMS), func() time.Duration { return time.Since(begin) })
	started = map[string][]time.Duration{}
	begun := make(chan string, 1024)
	p = newPool(t.Context(), func(_ context.Context, w *worker, j job) {
		begun <- j.target.id
		time.Sleep(lasts(j.target)) // fake time
		s.finish(j, w)
	})
	wake := make(chan struct{}, 1)
	s = newScheduler(schedulerOptions{
		Self: "a", MaxInFlight: 1000, NowMS: clock.NowMS, Starter: p,
		Due: func(int64) {}, Miss: func(t *target, _ tick.Span, cause string) { panic(cause + " " + t.id) },
		Busy: func(bool) {}, Lag: func(time.Duration) {},
		Wake: func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		},
	})
	members := tick.NewMembers()
	members.Heard("a", 0)
	for _, c := range targets {
		s.put(c)
	}
	s.activate(members.Update(0), tick.Ring{}, nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(0)
		for {
			select {
			case <-timer.C:
			case <-wake:
			case id := <-begun:
				started[id] = append(started[id], time.Since(begin))
				continue
			case <-ctx.Done():
				return
			}
			s.advance(false)
			if next, ok := s.next(); ok {
				timer.Reset(time.Duration(next-clock.NowMS()) * time.Millisecond)
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return s, p, started
}

// With a tenth of the targets hanging every check keeps its period, the workers
// are used again, and those that are not needed any more are let go.
func TestWorkersAreReused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		targets := simTargets(200, 5_000)
		hang := true
		s, p, started := bubble(t, targets, func(c *target) time.Duration {
			if hang && c.serial%10 == 0 {
				return 4_400 * time.Millisecond
			}
			return 3 * time.Millisecond
		})
		time.Sleep(30 * time.Second)
		synctest.Wait()
		for id, starts := range started {
			if len(starts) != 6 {
				t.Errorf("%s was looked at %d times in six intervals", id, len(starts))
			}
			for i, at := range starts[1:] {
				if period := at - starts[i]; period < 4_980*time.Millisecond || period > 5_020*time.Millisecond {
					t.Errorf("%s: %v from tick to tick", id, period)
				}
			}
		}
		s.mu.Lock()
		workers := len(p.idle) + s.running
		hang = false
		p.trim()
		s.mu.Unlock()
		if workers > 30 {
			t.Errorf("%d workers for 20 targets that hang and 40 quick probes a second", workers)
		}
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		p.trim()
		p.trim()
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		if left := len(p.idle) + s.running; left > 5 {
			t.Errorf("%d workers are kept for quick probes", left)
		}
		p.stop()
		s.stopped = true
		s.mu.Unlock()
		p.done.Wait()
		if len(started) != len(targets) || !slices.ContainsFunc(targets, func(c *target) bool { return len(started[c.id]) > 8 }) {
			t.Errorf("%d checks were looked at", len(started))
		}
	})
}

// TestUnbegun: where the processors cannot keep up, few are told to run at a time; the others wait, the more important ones
// in front.
func TestUnbegun(t *testing.T) {
	t.Parallel()
	var told []job
	s := newScheduler(schedulerOptions{
		Self: "a", MaxInFlight: 1000, MaxUnbegun: 3, NowMS: func() int64 { return simEpochMS + 60_000 },
		Starter: starterFunc(func(j job) { told = append(told, j) }),
		Due:     func(int64) {}, Miss: func(*target, tick.Span, string) {}, Busy: func(bool) {}, Lag: func(time.Duration) {}, Wake: func() {},
	})
	for i, c := range simTargets(20, 60_000) {
		if i >= 15 {
			c.priority = 5
		}
		ready := &check{target: c}
		s.mu.Lock()
		s.wait(ready, simEpochMS+60_000, 1, false)
		s.mu.Unlock()
	}
	s.advance(false)
	if len(told) != 3 {
		t.Fatalf("%d were told to run, want 3", len(told))
	}
	s.finish(told[0], nil) // it has not said that it began: nobody takes its place
	if len(told) != 3 {
		t.Fatalf("%d were told to run, want 3", len(told))
	}
	for range 17 {
		s.began()
	}
	if len(told) != 20 {
		t.Fatalf("%d were told to run, want all 20", len(told))
	}
	for i, j := range told {
		if important := j.target.priority > 0; important != (i < 5) {
			t.Errorf("number %d: priority %d", i, j.target.priority)
		}
	}
}

// starterFunc is a starter that starts nothing.
type starterFunc func(j job)

func (f starterFunc) start(j job)  { f(j) }
func (f starterFunc) rest(*worker) {}
