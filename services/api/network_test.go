package api

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// TestReaderThatTakesNothing: an answer that nobody reads is cut off, and holds nothing for ever.
func TestReaderThatTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *Deps) { c.RequestTimeout = 2 * time.Second })
	client, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	// More than all buffers between here and there take, and never read.
	ask := []byte("GET /openapi.json HTTP/1.1\r\nHost: picket\r\n\r\n")
	w.waitFor("the end of the connection", func() bool {
		_ = client.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		for range 100 {
			if _, err := client.Write(ask); err != nil {
				return !errors.Is(err, os.ErrDeadlineExceeded)
			}
		}
		return false
	})
	// Who reads slowly and steadily is served, on a connection that is used again.
	for range 2 {
		w.must(http.StatusOK, w.admin, "GET", base+"/servers", "")
	}
}

// TestLiveWhileNATSIsAway: who looks on is told that nothing can be shown, at once, and misses nothing.
func TestLiveWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	nats := embeddedtest.NATSServer(t, embedded.NATSOptions{StoreDir: t.TempDir()})
	conn, err := bus.Connect(bus.Options{URL: nats.ClientURL(), Name: "api", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	w := newWorld(t, func(_ *Config, deps *Deps) { deps.Conn = conn })
	w.conn = conn
	w.streams()
	server := w.register("a")
	c := w.watch(w.admin, "family=probe")
	c.next(liveHeartbeat)
	w.publish("default", good, "a", "before")
	c.probe("before")
	again := embedded.NATSOptions{Listen: strings.TrimPrefix(nats.ClientURL(), "nats://"), StoreDir: nats.Server().StoreDir()}
	nats.Stop()
	c.next(liveAway)
	w.waitFor("a refusal", func() bool {
		got := w.do(w.admin, "GET", base+"/live/events", "")
		return got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") != ""
	})
	w.must(http.StatusServiceUnavailable, w.admin, "POST", base+"/servers/"+server.ID+"/health-check", "")
	w.must(http.StatusOK, w.admin, "GET", base+"/servers", "")
	embeddedtest.NATSServer(t, again)
	if err := conn.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish("default", good, "a", "after")
	c.probe("after")
}

// TestSocketsOfOtherPages: a page of somebody else opens no socket with what a browser sends by itself.
func TestSocketsOfOtherPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, origin := range []string{"https://thief.example", "null", w.url + ".thief.example"} {
		socket, response, err := websocket.Dial(t.Context(), w.url+base+"/live", &websocket.DialOptions{
			HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + w.admin}, "Origin": {origin}},
		})
		if err == nil {
			_ = socket.CloseNow()
			t.Errorf("%s may look on", origin)
			continue
		}
		if response == nil || response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %v", origin, err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
}
