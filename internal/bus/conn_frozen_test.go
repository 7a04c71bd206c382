package bus_test

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
)

// TestConnectedNeverBlocks: a server that accepts and never answers holds the client up for seconds at each dial, and
// must not hold up the loops that ask whether it is there.
func TestConnectedNeverBlocks(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 16)
	go func() {
		defer close(accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		for conn := range accepted {
			conn.Close()
		}
	})
	conn, err := bus.Connect(bus.Options{URL: "nats://" + listener.Addr().String(), Name: t.Name(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	dials := 0
	for end := time.Now().Add(30 * time.Second); dials < 3 && time.Now().Before(end); {
		select {
		case held := <-accepted:
			defer held.Close()
			dials++
		case <-look.C:
		}
		began := time.Now()
		if conn.Connected() {
			t.Fatal("connected to nobody")
		}
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Fatalf("the answer took %s", took)
		}
	}
	if dials < 3 {
		t.Errorf("%d dials: this test shows little", dials)
	}
}
