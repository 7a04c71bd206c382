package collector

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// When no alerter runs any more nobody says that a server is back. What the bucket said last is then not believed for
// longer than a minute, however often it is listed.
func TestStatesGrowOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newKit("x").Log
		s := states{down: map[string]*picketv1.ServerStatus{"default.a": {Status: picketv1.Status_STATUS_UNREACHABLE}}}
		alive := func(revision uint64) bus.Entry { return bus.Entry{Key: bus.StatusAliveKey, Revision: revision} }
		skips := func() bool { _, skip := s.skip("default", "a"); return skip }

		s.apply([]bus.Entry{alive(2)}, false, log)
		for revision := uint64(3); revision < 20; revision++ {
			time.Sleep(bus.StatusAliveEvery)
			s.apply([]bus.Entry{alive(revision)}, false, log)
			if !skips() || s.skipped() != 1 {
				t.Fatalf("not believed after %d words", revision)
			}
		}
		time.Sleep(30 * time.Second)
		s.apply([]bus.Entry{alive(19)}, false, log) // listed anew, as it was
		time.Sleep(31 * time.Second)
		if skips() || s.skipped() != 0 {
			t.Fatal("still believed a minute after the last word")
		}
		if back := s.apply([]bus.Entry{alive(21)}, false, log); !skips() || back != nil {
			t.Fatalf("not believed when somebody keeps them again, or back: %v", back)
		}
	})
}
