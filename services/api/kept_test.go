package api

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestKept: a crowd costs one count, each organization has its own, and neither errors nor old values stay.
func TestKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			k      kept[int]
			counts int
			crowd  sync.WaitGroup
		)
		count := func(context.Context) (int, time.Time, error) {
			counts++
			n := counts
			time.Sleep(100 * time.Millisecond) // the bubble's clock
			return n, time.Now().Add(time.Second), nil
		}
		for range 50 {
			crowd.Go(func() {
				if got, err := k.get(t.Context(), "default", count); got != 1 || err != nil {
					t.Errorf("%d, %v", got, err)
				}
			})
		}
		crowd.Wait()
		if got, _ := k.get(t.Context(), "other", count); got != 2 {
			t.Errorf("another organization got count %d", got)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		broken := errors.New("away")
		if _, err := k.get(t.Context(), "default", func(context.Context) (int, time.Time, error) {
			return 0, time.Now().Add(time.Hour), broken
		}); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		if got, err := k.get(t.Context(), "default", count); got != 3 || err != nil {
			t.Errorf("after an error: %d, %v", got, err)
		}

		slow := make(chan struct{})
		go func() {
			_, _ = k.get(context.WithoutCancel(t.Context()), "third", func(context.Context) (int, time.Time, error) {
				<-slow
				return 0, time.Time{}, nil
			})
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.get(ctx, "third", count); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("behind a count that hangs: %v", err)
		}
		close(slow)
	})
}
