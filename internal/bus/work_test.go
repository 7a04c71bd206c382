package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func putWork(t *testing.T, conn *bus.Conn, n int) {
	t.Helper()
	for i := range n {
		id := fmt.Sprintf("item-%d", i)
		_, err := conn.Publish(testContext(t), bus.Message{
			Subject: bus.WorkSubject(bus.WorkExport), ID: id, Time: time.Now(), Payload: &picketv1.ExportWork{ExportId: id},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func workLeft(t *testing.T, conn *bus.Conn) uint64 {
	t.Helper()
	left, err := conn.WorkLeft(testContext(t), bus.WorkExport)
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// work runs a consumer of the queue until stop.
func work(t *testing.T, conn *bus.Conn, opts bus.WorkOptions) (stop func()) {
	t.Helper()
	opts.Kind, opts.Durable = bus.WorkExport, "exporter"
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- conn.ConsumeWork(ctx, opts) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Each item is handled by one of the replicas; what fails comes again, and nothing else does.
func TestWorkIsShared(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	const items = 40
	putWork(t, conn, items)
	var mu sync.Mutex
	handled := map[string]int{}
	all := make(chan struct{})
	handle := func(_ context.Context, item *bus.Msg) error {
		mu.Lock()
		defer mu.Unlock()
		handled[item.ID]++
		if item.ID == "item-7" && handled[item.ID] == 1 {
			return &bus.LaterError{After: 10 * time.Millisecond, Cause: errors.New("not now")}
		}
		if len(handled) == items && handled["item-7"] == 2 {
			close(all)
		}
		return nil
	}
	stops := []func(){
		work(t, conn, bus.WorkOptions{Concurrency: 3, Handle: handle}), work(t, conn, bus.WorkOptions{Concurrency: 2, Handle: handle}),
	}
	select {
	case <-all:
	case <-testContext(t).Done():
		t.Fatal("not everything was handled")
	}
	for _, stop := range stops {
		stop()
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range handled {
		if want := 1; n != want && id != "item-7" {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
	if left := workLeft(t, conn); left != 0 {
		t.Errorf("%d items left", left)
	}
}

// An item whose handler takes longer than others would wait for it stays with that handler.
func TestWorkIsKept(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	putWork(t, conn, 1)
	var calls atomic.Int32
	began, finish := make(chan struct{}, 10), make(chan struct{})
	handle := func(context.Context, *bus.Msg) error {
		calls.Add(1)
		began <- struct{}{}
		<-finish
		return nil
	}
	const wait = 500 * time.Millisecond
	stop := work(t, conn, bus.WorkOptions{Concurrency: 2, AckWait: wait, Handle: handle})
	<-began
	select {
	case <-began:
		t.Error("somebody else got the item")
	case <-time.After(4 * wait):
	}
	close(finish)
	stop()
	if n := calls.Load(); n != 1 {
		t.Errorf("handled %d times", n)
	}
	if left := workLeft(t, conn); left != 0 {
		t.Errorf("%d items left", left)
	}
}
