package exporter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// events collects the phases of one export, in order.
func (w *world) events() func(e store.Export) []string {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	var mu sync.Mutex
	seen := map[string][]string{}
	var done sync.WaitGroup
	done.Go(func() {
		err := w.bus.Subscribe(ctx, []string{"picket.*.export.>"}, func(msg *bus.Msg) {
			var event picketv1.ExportEvent
			if err := msg.Decode(&event); err != nil {
				w.t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[event.GetExportId()] = append(seen[event.GetExportId()], event.GetPhase())
		})
		if err != nil && ctx.Err() == nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() { cancel(); done.Wait() })
	return func(e store.Export) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen[e.ID.String()])
	}
}

// Every type in every format, into both kinds of stores.
func TestExports(t *testing.T) {
	t.Parallel()
	for name, objects := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, objects(t))
			w.fill(20, 50)
			events := w.events()
			config := quick()
			config.Concurrency = 2
			w.start(config, w.blob)
			want := map[string]int64{"servers": 20, "health_checks": 1000, "metrics": 0, "system_metrics": 0, "alerts": 0, "audit": 0}
			var asked []store.Export
			for kind := range want {
				for _, format := range []string{"csv", "ndjson", "json", "parquet"} {
					for _, compression := range []string{"none", "gzip", "zstd"} {
						if name == "s3" && kind != "health_checks" && compression != "gzip" {
							continue // to it all are bytes, and a name
						}
						asked = append(asked, w.ask(store.NewExport{Type: kind, Format: format, Compression: compression}))
					}
				}
			}
			for i, e := range asked {
				asked[i] = w.await(e)
				w.checkWhole(asked[i], want[e.Type])
			}
			w.checkNothingElse(asked...)
			first := asked[0]
			w.until("its events", func() bool {
				return slices.Equal(events(first), []string{"requested", "started", "completed"})
			})
			if left, err := w.bus.WorkLeft(t.Context(), bus.WorkExport); err != nil || left != 0 {
				t.Errorf("%d work items left, %v", left, err)
			}
		})
	}
}

// slowStore lets each write wait for a step.
type slowStore struct {
	blob.Store
	step  <-chan struct{}
	begun chan struct{} // closed by the first write
	once  sync.Once
}

func newSlowStore(objects blob.Store, step <-chan struct{}) *slowStore {
	return &slowStore{Store: objects, step: step, begun: make(chan struct{})}
}

func (s *slowStore) Create(ctx context.Context, key string, opts blob.CreateOptions) (blob.Upload, error) {
	upload, err := s.Store.Create(ctx, key, opts)
	return slowUpload{upload, ctx, s}, err
}

type slowUpload struct {
	blob.Upload
	ctx   context.Context
	store *slowStore
}

func (u slowUpload) Write(p []byte) (int, error) {
	u.store.once.Do(func() { close(u.store.begun) })
	select {
	case <-u.store.step:
		return u.Upload.Write(p)
	case <-u.ctx.Done():
		return 0, context.Cause(u.ctx)
	}
}

// One that is being made is canceled within seconds, leaves nothing, and can be made again.
func TestCancelAndRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	w.fill(10, 100)
	events := w.events()
	step := make(chan struct{})
	w.start(quick(), newSlowStore(w.blob, step))
	e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
	w.until("the start", func() bool { return w.look(e).Status == store.ExportProcessing })
	if _, err := w.store.CancelExport(t.Context(), "default", e.ID, nil); err != nil {
		t.Fatal(err)
	}
	canceled := time.Now()
	w.until("the upload to end", func() bool {
		n := 0
		if err := w.blob.Uploads(t.Context(), "", func(blob.Unfinished) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	if took := time.Since(canceled); took > 5*time.Second {
		t.Errorf("canceled after %v", took)
	}
	close(step)
	if _, err := w.store.RetryExport(t.Context(), "default", e.ID, nil); err != nil {
		t.Fatal(err)
	}
	e = w.await(e)
	w.checkWhole(e, 1000)
	w.checkNothingElse(e)
	w.until("its events", func() bool {
		return slices.Equal(events(e), []string{"requested", "started", "canceled", "requested", "started", "completed"})
	})
}

// A service that is stopped gives back what it has in hand, which costs no try, and another goes on at once.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	w.fill(10, 100)
	config := quick()
	config.Lease, config.MaxTries = time.Hour, 1 // neither the end of a lease nor another try can help
	_, stop := w.start(config, newSlowStore(w.blob, nil))
	e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
	w.until("the start", func() bool { return w.look(e).Status == store.ExportProcessing })
	stop()
	if now := w.look(e); now.Status != store.ExportPending {
		t.Fatalf("%+v", now)
	}
	w.checkNothingElse()
	w.start(config, w.blob)
	w.checkWhole(w.await(e), 1000)
}

// brokenStore breaks what is written.
type brokenStore struct{ blob.Store }

func (s brokenStore) Create(ctx context.Context, key string, opts blob.CreateOptions) (blob.Upload, error) {
	upload, err := s.Store.Create(ctx, key, opts)
	return brokenUpload{upload}, err
}

type brokenUpload struct{ blob.Upload }

func (u brokenUpload) Write(p []byte) (int, error) {
	broken := slices.Clone(p)
	broken[len(broken)/2] ^= 1
	return u.Upload.Write(broken)
}

// An object that does not read back as it was written completes nothing, and does not stay.
func TestVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	w.fill(1, 10)
	config := quick()
	config.MaxTries = 2
	w.start(config, brokenStore{w.blob})
	e := w.await(w.ask(store.NewExport{Type: "health_checks"}))
	if e.Status != store.ExportFailed || e.Attempt != 2 {
		t.Errorf("%+v", e)
	}
	w.checkNothingElse()
}

// refusingStore is a store that is away for some calls.
type refusingStore struct {
	blob.Store
	mu   sync.Mutex
	left int
}

func (s *refusingStore) Create(ctx context.Context, key string, opts blob.CreateOptions) (blob.Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left > 0 {
		s.left--
		return nil, blob.ErrUnavailable
	}
	return s.Store.Create(ctx, key, opts)
}

func TestStoreAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	w.fill(1, 10)
	w.start(quick(), &refusingStore{Store: w.blob, left: 1})
	e := w.await(w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"}))
	w.checkWhole(e, 10)
	if e.Attempt != 2 || e.Error != "" {
		t.Errorf("%+v", e)
	}
}

// Expiry deletes the object, then marks the row; when the object can not be deleted the row stays as it is.
func TestExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	config := quick()
	config.Keep = time.Second
	_, stop := w.start(config, w.blob)
	e := w.await(w.ask(store.NewExport{Type: "servers"}))
	w.until("the object to go", func() bool {
		_, err := w.blob.Stat(t.Context(), e.Key)
		return errors.Is(err, blob.ErrNotFound)
	})
	stop()
	if now := w.look(e); now.Status != store.ExportExpired {
		t.Errorf("%+v", now)
	}
}

// What is no work becomes a dead letter, is counted, and is in nobody's way.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	config := quick()
	config.Concurrency = 1
	svc, _ := w.start(config, w.blob)
	for _, id := range []string{"", "../../etc/passwd"} {
		_, err := w.bus.Publish(t.Context(), bus.Message{
			Subject: bus.WorkSubject(bus.WorkExport), Time: time.Now(), Payload: &picketv1.ExportWork{ExportId: id},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if e := w.await(w.ask(store.NewExport{Type: "servers", Format: "csv", Compression: "none"})); e.Status != store.ExportCompleted {
		t.Errorf("the export behind them is %s: %s", e.Status, e.Error)
	}
	letters, _, err := w.bus.NewestLetters(t.Context(), bus.LetterFilter{Consumer: Durable, Reason: bus.ReasonContract}, 10)
	if err != nil || len(letters) != 2 {
		t.Fatalf("%d dead letters, expected 2: %v", len(letters), err)
	}
	if n := testutil.ToFloat64(svc.metrics.dead.WithLabelValues(Durable, bus.ReasonContract)); n != 2 {
		t.Errorf("%v counted, expected 2", n)
	}
}
