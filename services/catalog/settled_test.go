package catalog

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestWhatHasNotChangedIsNotCompared: once everything was found in order, it is only asked whether anything differs; what
// does differ is found that way, though nobody says so, and also what somebody says is compared.
func TestWhatHasNotChangedIsNotCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(yaml("a", "b"))
	r := w.start("one", func(_ *Config, _ *Deps, t *timings) {
		t.compareEvery, t.republishAfter = 20*time.Millisecond, time.Minute
	})
	w.expect(map[string]int64{"a": 1, "b": 1})
	compared := func() uint64 { return samples(t, r) }
	spared := func() float64 { return testutil.ToFloat64(r.metrics.spared) }
	// settle waits until nothing is compared any more, for ten times in a row.
	settle := func() {
		t.Helper()
		before, from := compared(), spared()
		eventually(t, func() error {
			if now := compared(); now != before {
				before, from = now, spared()
			}
			if n := spared() - from; n < 10 {
				return fmt.Errorf("%v comparisons spared since one was made", n)
			}
			return nil
		})
	}
	settle()

	bucket, err := w.conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stranger := bus.CatalogKey("default", "local", "stranger")
	if err := bucket.Put(t.Context(), stranger, &picketv1.ScheduledCheck{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		list, err := bucket.List(t.Context(), ">")
		if err == nil && !list[stranger].Deleted {
			err = fmt.Errorf("the stranger's entry is there: %v", list)
		}
		return err
	})
	settle()

	w.write(yaml("a", "b", "c"))
	w.expect(map[string]int64{"a": 1, "b": 1, "c": 1})
	settle()
}
