package api

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// TestReadersTakeTurns: no more read at a time than may, who waits comes when one leaves, and who would wait for long is told
// to come back.
func TestReadersTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReaders(8)
		var crowd sync.WaitGroup
		began := time.Now()
		come := func(d time.Duration) (waited time.Duration) {
			done, err := r.turn(t.Context())
			if err != nil {
				t.Error(err)
				return 0
			}
			defer done()
			waited = time.Since(began)
			time.Sleep(d) // the bubble's clock
			return waited
		}
		for range 6 {
			crowd.Go(func() { come(300 * time.Millisecond) })
		}
		synctest.Wait()
		for range 6 {
			crowd.Go(func() {
				if waited := come(time.Minute); waited != 300*time.Millisecond {
					t.Errorf("waited %s", waited)
				}
			})
		}
		time.Sleep(400 * time.Millisecond)
		asked := time.Now()
		_, err := r.turn(t.Context())
		status, _ := errors.AsType[huma.StatusError](err)
		if status == nil || status.GetStatus() != http.StatusServiceUnavailable || time.Since(asked) != readWait {
			t.Errorf("a queue that does not move: %v after %s", err, time.Since(asked))
		}
		if headed, ok := errors.AsType[huma.HeadersError](err); !ok || headed.GetHeaders().Get("Retry-After") == "" {
			t.Error("nobody is told when to come back")
		}
		gone, leave := context.WithCancelCause(t.Context())
		leave(errDatabaseAway)
		if _, err := r.turn(gone); !errors.Is(err, errDatabaseAway) {
			t.Errorf("who waits when the database goes away: %v", err)
		}
		crowd.Wait()
		if len(r.free) > 0 {
			t.Errorf("%d turns were not given back", len(r.free))
		}
	})
}
