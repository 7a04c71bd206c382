package store

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// cutter is a wire to a server that is cut once, at a moment that the test describes by what the client sends.
type cutter struct {
	listener net.Listener
	target   string
	// cut decides on a piece that the client sends, once armed: forward it first, and wait for the server's answer?
	cut   func(piece []byte) (now, afterAnswer bool)
	armed atomic.Bool
	group sync.WaitGroup
}

func newCutter(t *testing.T, target string, cut func(piece []byte) (now, afterAnswer bool)) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, target: target, cut: cut}
	c.group.Go(c.accept)
	t.Cleanup(func() {
		listener.Close()
		c.group.Wait()
	})
	return c
}

func (c *cutter) accept() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		network, target := "tcp", c.target
		if path, unix := strings.CutPrefix(target, "unix:"); unix {
			network, target = "unix", path
		}
		server, err := net.Dial(network, target)
		if err != nil {
			client.Close()
			continue
		}
		var waiting atomic.Bool
		c.group.Go(func() { c.forward(client, server, &waiting) })
		c.group.Go(func() { backward(client, server, &waiting) })
	}
}

func (c *cutter) forward(client, server net.Conn, waiting *atomic.Bool) {
	defer server.Close()
	defer client.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			var now, after bool
			if c.armed.Load() {
				now, after = c.cut(buf[:n])
			}
			if (now || after) && !c.armed.CompareAndSwap(true, false) {
				now, after = false, false
			}
			if now {
				return
			}
			if after {
				waiting.Store(true)
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// backward drops the connection instead of handing on the answer that was waited for.
func backward(client, server net.Conn, waiting *atomic.Bool) {
	defer server.Close()
	defer client.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := server.Read(buf)
		if n > 0 {
			if waiting.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func TestWriteCutMidway(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	for name, test := range map[string]struct {
		cut  func(piece []byte) (now, afterAnswer bool)
		want Written
		away bool // Write reports the database away and leaves the rest to its caller
	}{
		"in the middle of COPY":     {func(piece []byte) (bool, bool) { return sent.Add(int64(len(piece))) > 100_000, false }, Written{}, true},
		"before COMMIT arrives":     {func(piece []byte) (bool, bool) { return bytes.Contains(piece, []byte("commit")), false }, Written{Rows: 3000}, false},
		"before COMMIT is answered": {func(piece []byte) (bool, bool) { return false, bytes.Contains(piece, []byte("commit")) }, Written{Duplicates: 3000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := migrated.Postgres(t)
			proxy := newCutter(t, database.Server, test.cut)
			s := openStore(t, database.Via(proxy.listener.Addr().String()))
			w := s.NewResultWriter()
			now := time.Now()
			if err := s.EnsurePartitions(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			proxy.armed.Store(true)
			rows := ticks(3000, now)
			written, err := w.Write(t.Context(), rows, false)
			if proxy.armed.Load() {
				t.Fatal("the wire was never cut")
			}
			if test.away {
				if Classify(err) != Unavailable {
					t.Errorf("write: %v, class %v, want unavailable", err, Classify(err))
				}
				if n := count(t, s); n != 0 {
					t.Errorf("%d rows of a batch that failed", n)
				}
				written = write(t, w, rows)
				test.want.Rows = len(rows)
			} else if err != nil {
				t.Fatal(err)
			}
			if written.Rows != test.want.Rows || written.Duplicates != test.want.Duplicates {
				t.Errorf("%+v, want %+v", written, test.want)
			}
			if n := count(t, s); n != len(rows) {
				t.Errorf("%d rows, want %d", n, len(rows))
			}
			if n := query[int](t, s, `SELECT count(*) FROM check_states`); n != len(rows) {
				t.Errorf("%d states, want %d", n, len(rows))
			}
		})
	}
}

// TestWriteFrozen: a database that accepts and never answers holds a batch no longer than the deadline of a
// transaction, keeps no connection of the pool, and takes the batch when it answers again.
func TestWriteFrozen(t *testing.T) {
	t.Parallel()
	database := migrated.Postgres(t)
	proxy := embeddedtest.FaultProxy(t, database.Server)
	s := openStore(t, database.Via(proxy.Addr()))
	w := s.NewResultWriter()
	write(t, w, ticks(10, time.Now().Add(-time.Minute)))

	proxy.Freeze()
	rows := ticks(100, time.Now())
	started := time.Now()
	_, err := w.Write(t.Context(), rows, false)
	if Classify(err) != Unavailable {
		t.Errorf("write: %v, class %v, want unavailable", err, Classify(err))
	}
	if took := time.Since(started); took > TxTimeout+2*time.Second {
		t.Errorf("write took %v, want at most the deadline of a transaction", took)
	}
	proxy.Thaw()
	write(t, w, rows)
	if n := count(t, s); n != 110 {
		t.Errorf("%d rows, want 110", n)
	}
	// The connection of the frozen transaction is closed in the background.
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(10 * time.Second); s.pool.Stat().AcquiredConns() != 0; <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections still taken", s.pool.Stat().AcquiredConns())
		}
	}
}
