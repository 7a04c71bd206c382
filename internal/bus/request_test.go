package bus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nats-io/nats.go"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// serveRequests runs a replica until the test or stop ends it, and returns when it takes requests.
func serveRequests(t *testing.T, conn *bus.Conn, handle func(context.Context, *picketv1.RunRequest) *picketv1.RunReply) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- conn.Serve(ctx, "prober", "local", handle) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// askUntilServed asks until somebody is there: a subscription says nothing when it stands.
func askUntilServed(t *testing.T, conn *bus.Conn, id string) *picketv1.RunReply {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		reply := &picketv1.RunReply{}
		err := conn.Request(ctx, "prober", "local", &picketv1.RunRequest{CheckId: id, Actor: "somebody"}, reply)
		if err == nil {
			return reply
		}
		if !errors.Is(err, bus.ErrNoResponders) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

func echo(_ context.Context, request *picketv1.RunRequest) *picketv1.RunReply {
	return &picketv1.RunReply{Result: &picketv1.ProbeResult{CheckId: request.GetCheckId(), Message: request.GetActor()}}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	serveRequests(t, conn, echo)
	reply := askUntilServed(t, conn, "a-check")
	if result := reply.GetResult(); result.GetCheckId() != "a-check" || result.GetMessage() != "somebody" || reply.GetRefused() != "" {
		t.Errorf("answer %v", reply)
	}
}

func TestRequestNobodyThere(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	began := time.Now()
	err := conn.Request(testContext(t), "prober", "nowhere", &picketv1.RunRequest{}, &picketv1.RunReply{})
	if !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s to learn that nobody is there", took)
	}
}

func TestRequestDisconnected(t *testing.T) {
	t.Parallel()
	conn := connect(t, "nats://127.0.0.1:1")
	err := conn.Request(testContext(t), "prober", "local", &picketv1.RunRequest{}, &picketv1.RunReply{})
	if !errors.Is(err, bus.ErrDisconnected) {
		t.Errorf("error %v", err)
	}
}

// TestRequestDeadline: whoever asks waits no longer than it said, and the handler is told of that.
func TestRequestDeadline(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	ended, gaveUp := make(chan error, 1), make(chan struct{})
	serveRequests(t, conn, func(ctx context.Context, request *picketv1.RunRequest) *picketv1.RunReply {
		if request.GetCheckId() == "ready" {
			return &picketv1.RunReply{}
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		<-gaveUp // an answer would still be in time, by a millisecond
		return &picketv1.RunReply{}
	})
	askUntilServed(t, conn, "ready")
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	err := conn.Request(ctx, "prober", "local", &picketv1.RunRequest{CheckId: "hangs"}, &picketv1.RunReply{})
	close(gaveUp)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	select {
	case cause := <-ended:
		if !errors.Is(cause, context.DeadlineExceeded) {
			t.Errorf("the handler ended by %v", cause)
		}
	case <-time.After(patience):
		t.Error("the handler was not told that nobody waits any more")
	}
}

// TestServeShares: each request reaches one replica, and both get some.
func TestServeShares(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	var first, second atomic.Int64
	count := func(n *atomic.Int64) func(context.Context, *picketv1.RunRequest) *picketv1.RunReply {
		return func(ctx context.Context, request *picketv1.RunRequest) *picketv1.RunReply {
			n.Add(1)
			return echo(ctx, request)
		}
	}
	a, b := connect(t, url), connect(t, url)
	for _, conn := range []*bus.Conn{a, b} {
		if err := conn.WaitConnected(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	serveRequests(t, a, count(&first))
	serveRequests(t, b, count(&second))
	asked := int64(0)
	for first.Load() == 0 || second.Load() == 0 {
		askUntilServed(t, a, "x")
		asked++
	}
	if got := first.Load() + second.Load(); got != asked {
		t.Errorf("%d requests were run %d times", asked, got)
	}
}

// TestServeIsBounded: a process that is full says so at once, and serves again when it is not.
func TestServeIsBounded(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	release := make(chan struct{})
	serveRequests(t, conn, func(_ context.Context, request *picketv1.RunRequest) *picketv1.RunReply {
		if request.GetCheckId() == "block" {
			<-release
		}
		return &picketv1.RunReply{}
	})
	askUntilServed(t, conn, "ready")
	const asked = 200
	var refused, served atomic.Int64
	full := make(chan struct{})
	group, ctx := errgroup.WithContext(testContext(t))
	for range asked {
		group.Go(func() error {
			reply := &picketv1.RunReply{}
			if err := conn.Request(ctx, "prober", "local", &picketv1.RunRequest{CheckId: "block"}, reply); err != nil {
				return err
			}
			switch reply.GetRefused() {
			case bus.RefusedBusy:
				if refused.Add(1) == asked-64 {
					close(full)
				}
			case "":
				served.Add(1)
			}
			return nil
		})
	}
	select {
	case <-full:
	case <-time.After(patience):
		t.Errorf("%d of %d refused while the process was full", refused.Load(), asked)
	}
	close(release)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if served.Load() != 64 {
		t.Errorf("%d served at a time, want 64", served.Load())
	}
	if reply := askUntilServed(t, conn, "after"); reply.GetRefused() != "" {
		t.Errorf("refused %q when there was room again", reply.GetRefused())
	}
}

// TestServeHostile: what is not a request is answered as such and harms nobody.
func TestServeHostile(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	serveRequests(t, conn, echo)
	askUntilServed(t, conn, "ready")
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for name, message := range map[string]*nats.Msg{
		"no json":       {Data: []byte("\xff\x00 not a request")},
		"wrong type":    {Data: []byte(`{"check_id": 12}`)},
		"too large":     {Data: append([]byte(`{"check_id":"`), append(make([]byte, 200<<10), '"', '}')...)},
		"wrong timeout": {Data: []byte(`{"check_id":"x"}`), Header: nats.Header{"Picket-Timeout-Ms": {"99999999999999999999"}}},
	} {
		message.Subject = bus.RequestSubject("prober", "local")
		answer, err := nc.RequestMsgWithContext(testContext(t), message)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// A time-out that is none is none; the rest is good.
		if refused := strings.Contains(string(answer.Data), bus.RefusedUnreadable); refused == (name == "wrong timeout") {
			t.Errorf("%s: answered %s", name, answer.Data)
		}
	}
	// Nobody to answer to.
	if err := nc.Publish(bus.RequestSubject("prober", "local"), []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if reply := askUntilServed(t, conn, "after"); reply.GetResult().GetCheckId() != "after" {
		t.Errorf("answer %v", reply)
	}
}

// TestServeReturnsWithItsHandlers: after Serve has returned nothing of it runs.
func TestServeReturnsWithItsHandlers(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	var returned atomic.Bool
	began := make(chan struct{})
	stop := serveRequests(t, conn, func(ctx context.Context, request *picketv1.RunRequest) *picketv1.RunReply {
		if request.GetCheckId() == "long" {
			close(began)
			<-ctx.Done()
			returned.Store(true)
		}
		return &picketv1.RunReply{}
	})
	askUntilServed(t, conn, "ready")
	answered := make(chan error, 1)
	go func() {
		answered <- conn.Request(testContext(t), "prober", "local", &picketv1.RunRequest{CheckId: "long"}, &picketv1.RunReply{})
	}()
	<-began
	stop()
	if !returned.Load() {
		t.Error("serve returned before its handler")
	}
	if err := <-answered; err != nil {
		t.Errorf("what was running when it stopped is answered by %v", err)
	}
}

func TestStatusBucket(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	ctx := testContext(t)
	bucket, err := conn.StatusBucket(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := &picketv1.ServerStatus{Status: picketv1.Status_STATUS_CRITICAL, Server: "checkout", Org: "default"}
	if err := bucket.Put(ctx, bus.StatusKey("default", "checkout"), want); err != nil {
		t.Fatal(err)
	}
	again, err := conn.StatusBucket(ctx) // one that is there
	if err != nil {
		t.Fatal(err)
	}
	entries, err := again.List(ctx, "default.*")
	if err != nil || len(entries) != 1 {
		t.Fatalf("listed %v, %v", entries, err)
	}
	got := &picketv1.ServerStatus{}
	if err := entries["default.checkout"].Decode(got); err != nil || got.GetStatus() != want.GetStatus() || got.GetServer() != "checkout" {
		t.Errorf("read %v, %v", got, err)
	}
}
