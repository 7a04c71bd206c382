package exporter

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
)

// unfinished counts the uploads that were begun and are not over.
func (w *world) unfinished() int {
	w.t.Helper()
	n := 0
	if err := w.blob.Uploads(w.t.Context(), "", func(blob.Unfinished) error { n++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// A database that freezes in the middle of an export: the service says so at once, the attempt ends with its lease and takes
// its upload with it, and when the database goes on so does the export.
func TestDatabaseFrozen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	w.fill(crashChecks, results)
	wire := embeddedtest.FaultProxy(t, w.database.Server)
	far := *w
	var err error
	if far.store, err = store.Open(t.Context(), store.Options{URL: w.database.Via(wire.Addr()), Log: w.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.store.Close)
	step := make(chan struct{})
	objects := newSlowStore(w.blob, step)
	svc, _ := far.start(quick(), objects)
	e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
	<-objects.begun
	wire.Freeze()
	w.until("the service to be not ready", func() bool { return svc.kit.Health.Ready() != nil })
	w.until("the upload to be ended", func() bool { return w.unfinished() == 0 })
	close(step)
	wire.Thaw()
	e = w.await(e)
	w.checkWhole(e, crashRows)
	if e.Attempt < 2 {
		t.Errorf("made by attempt %d", e.Attempt)
	}
	w.checkNothingElse(e)
	w.until("the service to be ready", func() bool { return svc.kit.Health.Ready() == nil })
}

// impatient is an object store behind a wire, which a request waits for no longer than a test can.
func (w *world) impatient(wire *embeddedtest.Proxy) blob.Store {
	w.t.Helper()
	config := w.objects
	config.Endpoint = "http://" + wire.Addr()
	objects, err := blob.Open(blob.Options{Config: config, PartSize: partSize, Timeout: time.Second, TransferTimeout: 2 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = objects.Close() })
	return objects
}

// An object store that stalls, or goes away, in the middle of an upload: the attempt ends, the row says why, and when the
// store is there again another attempt makes one object and leaves nothing of the first.
func TestObjectStoreBreaks(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(wire *embeddedtest.Proxy) (mend func()){
		"stalls": func(wire *embeddedtest.Proxy) func() { wire.Freeze(); return wire.Thaw },
		"goes away": func(wire *embeddedtest.Proxy) func() {
			wire.Inspect(func(embeddedtest.Side, []byte) int { return 0 })
			return func() { wire.Inspect(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, stores["s3"](t))
			w.fill(crashChecks, results)
			wire := embeddedtest.FaultProxy(t, strings.TrimPrefix(w.objects.Endpoint, "http://"))
			step := make(chan struct{})
			objects := newSlowStore(w.impatient(wire), step)
			w.start(quick(), objects)
			e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
			<-objects.begun
			mend := breakIt(wire)
			close(step) // what it writes from here on goes nowhere
			w.until("the attempt to end", func() bool { return w.look(e).Error != "" })
			if now := w.look(e); !strings.Contains(now.Error, blob.ErrUnavailable.Error()) {
				t.Errorf("the row says %q", now.Error)
			}
			mend()
			e = w.await(e)
			w.checkWhole(e, crashRows)
			if e.Attempt < 2 || e.Error != "" {
				t.Errorf("attempt %d, %q", e.Attempt, e.Error)
			}
			w.checkNothingElse(e)
		})
	}
}

// A disk that fills up below a directory of objects: the attempt ends, gives the room back, and the row says why; with more
// room the export is made.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	config := blob.DefaultConfig()
	config.Dir = t.TempDir()
	grow := smallDisk(t, config.Dir, 2<<20)
	w := newWorld(t, config)
	w.fill(crashChecks, results)
	w.start(quick(), w.blob)
	e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
	w.until("the attempt to end", func() bool { return w.look(e).Error != "" })
	if now := w.look(e); !strings.Contains(now.Error, "no space left") || now.Status == store.ExportFailed {
		t.Errorf("the row says %s, %q", now.Status, now.Error)
	}
	// What is small goes on being made meanwhile.
	small := w.await(w.ask(store.NewExport{Type: "servers", Format: "ndjson"}))
	w.checkWhole(small, crashChecks)
	grow(64 << 20)
	e = w.await(e)
	w.checkWhole(e, crashRows)
	w.checkNothingElse(e, small)
}

// NATS that goes away while an export is made is in no attempt's way; its events are told when it is back, and the item of
// work that comes again makes nothing anew.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	w.fill(10, 100)
	events := w.events()
	step := make(chan struct{})
	objects := newSlowStore(w.blob, step)
	w.start(quick(), objects)
	e := w.ask(store.NewExport{Type: "health_checks", Format: "ndjson"})
	<-objects.begun
	address := strings.TrimPrefix(w.nats.ClientURL(), "nats://")
	w.nats.Stop()
	close(step)
	e = w.await(e)
	w.checkWhole(e, 1000)
	w.nats = embeddedtest.NATSServer(t, embedded.NATSOptions{Listen: address, StoreDir: w.natsDir})
	w.until("its events", func() bool {
		return slices.Equal(events(e), []string{"requested", "started", "completed"})
	})
	w.until("the queue to be empty", func() bool {
		left, err := w.bus.WorkLeft(t.Context(), bus.WorkExport)
		return err == nil && left == 0
	})
	if now := w.look(e); now.Attempt != 1 || now.SHA256 != e.SHA256 {
		t.Errorf("made again: %+v", now)
	}
	next := w.await(w.ask(store.NewExport{Type: "servers", Format: "ndjson"}))
	w.checkWhole(next, 10)
	w.checkNothingElse(e, next)
}

// smallDisk puts a disk of so many bytes below a directory, until the end of the test; grow makes it larger.
func smallDisk(t *testing.T, dir string, size int) (grow func(size int)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT ROOT: only root mounts a disk of its own, so a full one is not tested")
	}
	mount := func(flags uintptr, size int) error {
		return syscall.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=0700", size))
	}
	if err := mount(0, size); errors.Is(err, syscall.EPERM) {
		t.Skip("MOUNTS ARE FORBIDDEN HERE, so a full disk is not tested")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return func(size int) {
		t.Helper()
		if err := mount(syscall.MS_REMOUNT, size); err != nil {
			t.Fatal(err)
		}
	}
}
