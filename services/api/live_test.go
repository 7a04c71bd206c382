package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// watcher is a client that looks on.
type watcher struct {
	t      *testing.T
	frames chan liveFrame
	stop   func()
}

// watch opens a stream of server-sent events; headers are pairs.
func (w *world) watch(token, query string, headers ...string) *watcher {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+base+"/live/events?"+query, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{}}
	response, err := client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		w.t.Fatalf("live: %d", response.StatusCode)
	}
	watching := &watcher{t: w.t, frames: make(chan liveFrame, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(watching.frames)
		lines := bufio.NewScanner(response.Body)
		var frame liveFrame
		for lines.Scan() {
			key, value, _ := strings.Cut(lines.Text(), ": ")
			switch key {
			case "id":
				frame.id = value
			case "event":
				frame.event = value
			case "data":
				frame.data = []byte(value)
			case "":
				switch {
				case value == "heartbeat":
					frame.event = liveHeartbeat
				case frame.id != "":
					watching.frames <- frame
					frame = liveFrame{}
				}
			}
		}
	}()
	watching.stop = func() {
		cancel()
		<-done
		_ = response.Body.Close()
		client.CloseIdleConnections()
	}
	w.t.Cleanup(watching.stop)
	return watching
}

// next returns the next frame that is no heartbeat, unless those are wanted.
func (c *watcher) next(event string) liveFrame {
	c.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case frame, open := <-c.frames:
			if !open {
				c.t.Fatalf("the stream ended before %s", event)
			}
			if frame.event == event {
				return frame
			}
			if frame.event != liveHeartbeat {
				c.t.Fatalf("%s %s, want %s", frame.event, frame.data, event)
			}
		case <-timeout.C:
			c.t.Fatalf("no %s came", event)
		}
	}
}

func (c *watcher) probe(want string) liveFrame {
	c.t.Helper()
	frame := c.next(bus.FamilyProbe)
	var said struct{ Message string }
	if err := json.Unmarshal(frame.data, &said); err != nil || said.Message != want {
		c.t.Fatalf("got %s, want the message %q", frame.data, want)
	}
	return frame
}

func (w *world) publish(org string, status picketv1.Status, server, message string) {
	w.t.Helper()
	now := time.Now().Truncate(time.Millisecond)
	if _, err := w.conn.Publish(w.t.Context(), bus.Message{
		Subject: bus.ProbeSubject(org, status, "local", server, "health"), Time: now,
		Payload: &picketv1.ProbeResult{
			Status: status, Server: server, Check: "health", Location: "local", Org: org, CheckId: uuid.NewString(),
			ScheduledAt: timestamppb.New(now), Message: message,
		},
	}); err != nil {
		w.t.Fatal(err)
	}
}

const (
	good = picketv1.Status_STATUS_HEALTHY
	bad  = picketv1.Status_STATUS_CRITICAL
)

func TestLiveEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	viewer := w.token("default", store.Viewer)
	all, some := w.watch(viewer, ""), w.watch(viewer, "family=probe&server=a&status=critical,unreachable")
	all.next(liveHeartbeat)
	some.next(liveHeartbeat)
	w.publish("other", bad, "a", "not yours")
	w.publish("default", good, "a", "one")
	w.publish("default", bad, "b", "two")
	w.publish("default", bad, "a", "three")
	all.probe("one")
	second := all.probe("two")
	all.probe("three")
	some.probe("three")

	// Who was away gets what came since.
	all.stop()
	w.publish("default", bad, "a", "four")
	back := w.watch(viewer, "", "Last-Event-ID", second.id)
	back.probe("three")
	back.probe("four")
	w.publish("default", bad, "a", "five")
	back.probe("five")
	plain := w.watch(viewer, "family=probe&last_event_id="+strings.Split(second.id, "_")[0])
	plain.probe("three")

	w.must(http.StatusUnprocessableEntity, viewer, "GET", base+"/live/events", "", "Last-Event-ID", "nonsense")
	w.must(http.StatusUnauthorized, "", "GET", base+"/live/events", "")
	w.must(http.StatusUnprocessableEntity, viewer, "GET", base+"/live/events?family=dance", "")
}

// TestLiveFromTheStream: what the ring of this process never had is read from the stream.
func TestLiveFromTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	const n = 1200 // more than one page
	for i := range n {
		w.publish("default", good, "a", fmt.Sprint(i))
		if i%100 == 0 {
			w.publish("other", good, "a", "not yours")
		}
	}
	info, err := w.conn.StreamInfo(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	c := w.watch(w.admin, "family=probe", "Last-Event-ID", fmt.Sprintf("%d-0", info.Epoch()))
	for i := range n {
		c.probe(fmt.Sprint(i))
	}
	w.publish("default", good, "a", "live")
	c.probe("live")
}

// TestLiveFromTheDatabase: of a stream that is gone the database knows what was said.
func TestLiveFromTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	server := w.register("checkout")
	w.stored(server, time.Now(), "HHC") // in a stream made at 1, sequences 1 to 3
	c := w.watch(w.admin, "family=probe", "Last-Event-ID", "1-1")
	c.next(liveGap)
	c.probe("result 1")
	c.probe("result 2")
	w.publish("default", good, "checkout", "live")
	c.probe("live")
	foreign := w.watch(w.token("other", store.Viewer), "family=probe", "Last-Event-ID", "1-1")
	foreign.next(liveGap)
	w.publish("other", good, "x", "mine")
	foreign.probe("mine")
}

// TestLiveHostile: what says otherwise than its subject, or nothing readable, is shown to nobody.
func TestLiveHostile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	c := w.watch(w.admin, "family=probe")
	c.next(liveHeartbeat)
	if _, err := w.conn.Publish(t.Context(), bus.Message{
		Subject: bus.ProbeSubject("default", good, "local", "a", "health"), Time: time.Now(),
		Payload: &picketv1.ProbeResult{Status: bad, Server: "a", Check: "health", Location: "local", Org: "other", Message: "forged"},
	}); err != nil {
		t.Fatal(err)
	}
	w.publish("default", good, "a", "honest")
	c.probe("honest")
}

func TestLiveTickets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	var ticket LiveTicket
	w.must(http.StatusCreated, w.token("default", store.Viewer), "POST", base+"/live/tickets", "").into(t, &ticket)
	c := w.watch("", "ticket="+ticket.Ticket)
	c.next(liveHeartbeat)
	w.must(http.StatusUnauthorized, "", "GET", base+"/live/events?ticket="+ticket.Ticket, "")
	w.must(http.StatusUnauthorized, "", "GET", base+"/servers?ticket="+ticket.Ticket, "")
}

func TestLiveSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.streams()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	socket, response, err := websocket.Dial(ctx, w.url+base+"/live?family=probe", &websocket.DialOptions{
		HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + w.admin}},
	})
	if err != nil {
		t.Fatal(err, response)
	}
	defer func() { _ = socket.CloseNow() }()
	read := func() (m struct {
		ID, Event string
		Data      struct{ Message string }
	},
	) {
		t.Helper()
		_, text, err := socket.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := read(); m.Event != liveHeartbeat || m.ID == "" {
		t.Errorf("first message %+v", m)
	}
	w.publish("default", bad, "a", "hello")
	if m := read(); m.Event != bus.FamilyProbe || m.Data.Message != "hello" {
		t.Errorf("message %+v", m)
	}
	if answer := w.do("", "GET", base+"/live", ""); answer.status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", answer.status)
	}
}

// TestLiveIsBounded: who falls out of the ring is told that it must come back; the ring holds what it may and no more;
// nobody opens more streams than they may.
func TestLiveIsBounded(t *testing.T) {
	t.Parallel()
	f := newFeed(bus.StreamEvents)
	f.ready, f.at = true, place{1, 0}
	var batch []*bus.Msg
	for i := range ringEvents + 10 {
		batch = append(batch, &bus.Msg{Subject: "picket.default.probe.healthy.local.a.health", Sequence: uint64(i + 1)})
	}
	f.add(1, batch)
	if len(f.ring) != ringEvents || f.from != 10 {
		t.Errorf("%d events from %d", len(f.ring), f.from)
	}
	if _, _, behind, _ := f.take(place{1, 9}); !behind {
		t.Error("a reader that lost an event is not told")
	}
	if events, next, behind, _ := f.take(place{1, 10}); behind || len(events) != takeEvents || next.seq != 10+takeEvents {
		t.Errorf("%d events up to %d, behind %v", len(events), next.seq, behind)
	}
	big := &bus.Msg{Subject: "picket.default.probe.healthy.local.a.health", Data: make([]byte, ringBytes/4)}
	for i := range 10 {
		m := *big
		m.Sequence = uint64(ringEvents + 11 + i)
		f.add(1, []*bus.Msg{&m})
	}
	if f.bytes > ringBytes {
		t.Errorf("%d bytes kept", f.bytes)
	}
	// A hole: nobody may take it for silence.
	at := f.at
	f.add(1, []*bus.Msg{{Subject: "picket.default.probe.healthy.local.a.health", Sequence: at.seq + 5}})
	if _, _, behind, _ := f.take(at); !behind {
		t.Error("a hole in the stream is not noticed")
	}

	slots := &liveSlots{held: map[string]int{}}
	var releases []func()
	for range livePerToken {
		release, ok := slots.take(Principal{Org: "a", TokenID: "t"})
		if !ok {
			t.Fatal("refused too early")
		}
		releases = append(releases, release)
	}
	if _, ok := slots.take(Principal{Org: "a", TokenID: "t"}); ok {
		t.Error("one too many")
	}
	if _, ok := slots.take(Principal{Org: "b", TokenID: "u"}); !ok {
		t.Error("another is refused")
	}
	for _, release := range releases {
		release()
		release() // twice is once
	}
	if len(slots.held) != 3 {
		t.Errorf("held %v", slots.held)
	}
}

func TestLiveCursor(t *testing.T) {
	t.Parallel()
	for _, c := range []liveCursor{{{1, 2}}, {{1, 2}, {3, 4}}, {{}, {3, 4}}, {{1, 2}, {}, {}, {5, 6}}} {
		if got, ok := parseLiveCursor(c.String()); !ok || got != c {
			t.Errorf("%v came back as %v from %s", c, got, c)
		}
	}
	if text := (liveCursor{{1763, 4711}}).String(); text != "1763-4711" {
		t.Errorf("cursor %q", text)
	}
	for _, text := range []string{"", "1", "1-", "-1-2", "1-2_3", "1-2_3-4_5-6_7-8_9-10", "1-99999999999999999999", "a-b", strings.Repeat("1", 300)} {
		if c, ok := parseLiveCursor(text); ok {
			t.Errorf("%q read as %v", text, c)
		}
	}
}
