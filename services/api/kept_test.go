package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// TestKept: a crowd costs one count, each key has its own, nobody waits for a value that is there, and neither errors nor old
// values stay.
func TestKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			k      kept[int]
			mu     sync.Mutex
			counts int
			crowd  sync.WaitGroup
		)
		count := func(context.Context) (int, span, error) {
			mu.Lock()
			counts++
			n := counts
			mu.Unlock()
			time.Sleep(100 * time.Millisecond) // the bubble's clock
			now := time.Now()
			return n, span{renew: now.Add(time.Second), until: now.Add(3 * time.Second)}, nil
		}
		get := func(key string, want int, within time.Duration) {
			t.Helper()
			asked := time.Now()
			got, err := k.get(t.Context(), key, count)
			if took := time.Since(asked); got != want || err != nil || took != within {
				t.Errorf("%s: %d, %v after %s, want %d after %s", key, got, err, took, want, within)
			}
		}
		for range 50 {
			crowd.Go(func() { get("default", 1, 100*time.Millisecond) })
		}
		crowd.Wait()
		get("other", 2, 100*time.Millisecond)
		get("default", 1, 0)

		time.Sleep(time.Second)
		get("default", 1, 0) // old enough to be counted anew, by somebody else
		get("default", 1, 0)
		time.Sleep(200 * time.Millisecond)
		get("default", 3, 0)
		time.Sleep(3 * time.Second)
		get("default", 4, 100*time.Millisecond) // too old to be shown

		time.Sleep(3 * time.Second)
		broken := errors.New("away")
		fail := func(context.Context) (int, span, error) { return 0, span{}, broken }
		if _, err := k.get(t.Context(), "default", fail); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		get("default", 5, 100*time.Millisecond)
	})
}

// TestKeptWaiting: who asks first may leave without taking the count from the others, and nobody waits longer than their
// own request may take.
func TestKeptWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var k kept[int]
		slow := make(chan struct{})
		count := func(ctx context.Context) (int, span, error) {
			select {
			case <-slow:
				return 7, counted(time.Now()), nil
			case <-ctx.Done():
				return 0, span{}, ctx.Err()
			}
		}
		first, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := k.get(first, "default", count); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("behind a count that hangs: %v", err)
			}
		})
		synctest.Wait()
		group.Go(func() {
			if got, err := k.get(t.Context(), "default", count); got != 7 || err != nil {
				t.Errorf("%d, %v", got, err)
			}
		})
		<-first.Done()
		synctest.Wait()
		close(slow)
		group.Wait()

		stopping := errors.New("stopping")
		bounded := kept[int]{bound: func(context.Context) (context.Context, context.CancelFunc, error) { return nil, nil, stopping }}
		if _, err := bounded.get(t.Context(), "default", count); !errors.Is(err, stopping) {
			t.Errorf("counting when nothing may: %v", err)
		}
	})
}

// TestKeptPanic: a count that panics is an error to those who wait and a line in the log, and takes nothing from who is shown
// the value before.
func TestKeptPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		k := kept[int]{log: slog.New(slog.NewTextHandler(&log, nil))}
		fail := func(context.Context) (int, span, error) { panic("a fault") }
		_, err := k.get(t.Context(), "default", fail)
		if told, ok := errors.AsType[huma.StatusError](err); !ok || told.GetStatus() != http.StatusInternalServerError {
			t.Errorf("told %v", err)
		}
		if _, err := k.get(t.Context(), "default", func(context.Context) (int, span, error) { return 7, counted(time.Now()), nil }); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second) // the bubble's clock: old enough to be counted anew
		for range 2 {
			if got, err := k.get(t.Context(), "default", fail); got != 7 || err != nil {
				t.Errorf("the value before: %d, %v", got, err)
			}
			synctest.Wait()
		}
		if lines := strings.Count(log.String(), "count panicked"); lines != 3 {
			t.Errorf("%d lines for 3 counts:\n%s", lines, log.String())
		}
	})
}

// TestCountsTakeTurns: as many filters as people can think of take no more connections than counts may have.
func TestCountsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Service{config: Config{RequestTimeout: time.Second}, gate: newGate(), counting: make(chan struct{}, 2)}
		s.gate.set(nil)
		defer s.gate.stop()
		var (
			k         = kept[int]{bound: s.bounded}
			now, most atomic.Int32
			crowd     sync.WaitGroup
		)
		count := func(ctx context.Context) (int, span, error) {
			defer now.Add(-1)
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(300 * time.Millisecond) // the bubble's clock
			return 7, counted(time.Now()), ctx.Err()
		}
		for i := range 6 {
			crowd.Go(func() {
				if got, err := k.get(t.Context(), fmt.Sprint(i), count); got != 7 || err != nil {
					t.Errorf("%d, %v", got, err)
				}
			})
		}
		crowd.Wait()
		if most.Load() != 2 {
			t.Errorf("%d counts at a time", most.Load())
		}
		s.counting <- struct{}{}
		s.counting <- struct{}{} // two that hang
		asked := time.Now()
		if _, err := k.get(t.Context(), "one more", count); err == nil || time.Since(asked) != time.Second {
			t.Errorf("behind counts that hang: %v after %s", err, time.Since(asked))
		}
	})
}

// TestKeptIsBounded: as many filters as people can think of take no more memory than some, and what is good stays before what
// is not.
func TestKeptIsBounded(t *testing.T) {
	t.Parallel()
	var k kept[int]
	last := time.Now().Add(time.Hour)
	good := func(context.Context) (int, span, error) { return 1, span{renew: last, until: last}, nil }
	old := func(context.Context) (int, span, error) { return 2, span{}, nil }
	get := func(key string, count func(context.Context) (int, span, error)) {
		if _, err := k.get(t.Context(), key, count); err != nil {
			t.Error(err)
		}
	}
	get("good", good)
	for i := range 3 * maxKept {
		get(fmt.Sprint("old ", i), old)
	}
	if _, there := k.of["good"]; !there || len(k.of) > maxKept {
		t.Errorf("%d values, the good one among them: %v", len(k.of), there)
	}
	for i := range 2 * maxKept {
		get(fmt.Sprint("good ", i), good)
	}
	if len(k.of) > maxKept {
		t.Errorf("%d values that are all good", len(k.of))
	}
}

// TestCounted: counting takes a tenth of the time, and what it says is shown for a few seconds.
func TestCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for took, renew := range map[time.Duration]time.Duration{
			10 * time.Millisecond: time.Second, 300 * time.Millisecond: 2700 * time.Millisecond, 2 * time.Second: 4 * time.Second,
		} {
			from := time.Now()
			time.Sleep(took) // the bubble's clock
			now, got := time.Now(), counted(from)
			if got.renew.Sub(now) != renew || got.until.Sub(now) != 5*time.Second {
				t.Errorf("took %s: counted anew after %s, shown for %s", took, got.renew.Sub(now), got.until.Sub(now))
			}
		}
	})
}
