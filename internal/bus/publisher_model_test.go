package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// modelled is a Publisher whose goroutine and streams are played by a test, so that
// every order of events can be tried.
type modelled struct {
	p *Publisher
	// before are the companions of a message, by its ID; IDs count from 1.
	before map[string][]string
	gone   map[string]string // "acknowledged" or "dropped", by ID
	put    int

	// By stream: what it has, what was sent to it and is not answered, whether it
	// refuses, and whether it has taken something since the last failure.
	stored   map[string][]string
	inFlight map[string][]outgoing
	refuses  map[string]bool
	proven   map[string]bool
}

var errNoRoom = errors.New("no room")

func newModelled(t *rapid.T) *modelled {
	m := &modelled{
		before: map[string][]string{}, gone: map[string]string{}, stored: map[string][]string{},
		inFlight: map[string][]outgoing{}, refuses: map[string]bool{}, proven: map[string]bool{},
	}
	gone := func(what string, message Message) {
		if as, twice := m.gone[message.ID]; twice {
			t.Fatalf("%s is %s and was %s", message.ID, what, as)
		}
		m.gone[message.ID] = what
	}
	m.p = NewPublisher(&Conn{log: slog.New(slog.DiscardHandler)}, PublisherOptions{
		MaxBytes: 4_000, // a dozen messages
		OnAck:    func(message Message) { gone("acknowledged", message) },
		OnDrop:   func(message Message, _ error) { gone("dropped", message) },
	})
	return m
}

// twoStreams are the lanes' own.
var twoStreams = []string{"figures", "results"}

func (m *modelled) message(stream string) Message {
	m.put++
	return Message{Subject: stream, ID: fmt.Sprint(m.put), Payload: &picketv1.ClockTick{}}
}

func (m *modelled) enqueue(companions int) {
	var before []Message
	var ids []string
	for range companions {
		before = append(before, m.message("figures"))
		ids = append(ids, before[len(before)-1].ID)
	}
	message := m.message("results")
	m.before[message.ID] = ids
	m.p.next = time.Time{} // nothing gathers: what is to be sent is told at once
	m.p.Enqueue(message, before...)
}

// run does what the goroutine does when it has been told to look: send, and when
// something has failed and all is answered, start anew.
func (m *modelled) run(t *rapid.T) {
	select {
	case <-m.p.wake:
	default:
		return
	}
	for {
		var batch [5]outgoing
		n, err := m.p.take(batch[:])
		for _, out := range batch[:n] {
			for _, id := range m.before[out.message.ID] {
				if m.gone[id] == "" {
					t.Fatalf("result %s is sent before its figures %s are safe", out.message.ID, id)
				}
			}
			stream := out.message.Subject
			m.inFlight[stream] = append(m.inFlight[stream], out)
			if !m.proven[stream] && len(m.inFlight[stream]) > 1 {
				t.Fatalf("%d %s are sent to a stream that may be about to recover", len(m.inFlight[stream]), stream)
			}
		}
		switch {
		case err != nil && m.p.unanswered == 0:
			if _, ok := m.p.settle(t.Context(), err); !ok {
				t.Fatal("not settled")
			}
			clear(m.proven)
		case n == 0:
			return
		}
	}
}

// store is what a stream does with a message: it knows what it has by its ID.
func (m *modelled) store(out outgoing) {
	stream := out.message.Subject
	if !slices.Contains(m.stored[stream], out.message.ID) {
		m.stored[stream] = append(m.stored[stream], out.message.ID)
	}
}

// answer has a stream answer the oldest that was sent to it, nil when it takes it.
func (m *modelled) answer(stream string, err error) {
	out := m.inFlight[stream][0]
	m.inFlight[stream] = m.inFlight[stream][1:]
	if err == nil && m.refuses[stream] {
		err = errNoRoom
	}
	if err == nil {
		m.store(out)
		m.proven[stream] = true
	}
	m.p.answer(out.msg, err)
}

// cut loses a connection of which each stream has heard a part.
func (m *modelled) cut(heard func(stream string, most int) int) {
	for _, stream := range twoStreams {
		if !m.refuses[stream] {
			for _, out := range m.inFlight[stream][:heard(stream, len(m.inFlight[stream]))] {
				m.store(out)
			}
		}
		m.inFlight[stream] = nil
	}
	m.p.lose()
}

// mend has a stream take again what it refused: not while it has refused some of
// what is in flight, of which the rest would overtake that.
func (m *modelled) mend(stream string) {
	lane := &m.p.main
	if stream == "figures" {
		lane = &m.p.ahead
	}
	if lane.flight.len() < 2 {
		m.refuses[stream] = false
	}
}

func (m *modelled) unanswered() int { return len(m.inFlight["figures"]) + len(m.inFlight["results"]) }

func (m *modelled) check(t *rapid.T) {
	for _, stream := range twoStreams {
		if !slices.IsSortedFunc(m.stored[stream], older) {
			t.Fatalf("%s are stored as %v", stream, m.stored[stream])
		}
	}
	stats := m.p.Stats()
	if int(stats.Acknowledged+stats.Dropped) != len(m.gone) || stats.Queued != m.put-len(m.gone) {
		t.Fatalf("stats %+v: %d put in, %d gone", stats, m.put, len(m.gone))
	}
	settled := 0
	for settled < m.put && m.gone[fmt.Sprint(settled+1)] != "" {
		settled++
	}
	if int(stats.Settled) != settled {
		t.Fatalf("settled up to %d, said to be up to %d", settled, stats.Settled)
	}
	if stats.Queued == 0 && m.p.bytes != 0 {
		t.Fatalf("%d bytes of nothing", m.p.bytes)
	}
	// With nobody who will wake the goroutine nothing may wait for it.
	if stats.Queued > 0 && m.unanswered() == 0 && len(m.p.wake) == 0 {
		t.Fatalf("%d messages wait for ever", stats.Queued)
	}
}

func older(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return slices.Compare([]byte(a), []byte(b))
}

// TestPublisherModel: whatever comes and fails when, a result is sent when its
// figures are safe and not before, each stream has its messages once and in order,
// and nothing waits for ever.
func TestPublisherModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModelled(t)
		stream := func(t *rapid.T) string {
			s := rapid.SampledFrom(twoStreams).Draw(t, "stream")
			if len(m.inFlight[s]) == 0 {
				t.Skip()
			}
			return s
		}
		t.Repeat(map[string]func(*rapid.T){
			"enqueue": func(t *rapid.T) { m.enqueue(rapid.IntRange(0, 2).Draw(t, "companions")) },
			"look":    m.run,
			"answer":  func(t *rapid.T) { m.answer(stream(t), nil) },
			"never":   func(t *rapid.T) { m.answer(stream(t), nats.ErrMaxPayload) },
			"break":   func(t *rapid.T) { m.refuses[rapid.SampledFrom(twoStreams).Draw(t, "stream")] = true },
			"mend":    func(t *rapid.T) { m.mend(rapid.SampledFrom(twoStreams).Draw(t, "stream")) },
			"cut": func(t *rapid.T) {
				m.cut(func(s string, most int) int { return rapid.IntRange(0, most).Draw(t, s+" heard") })
			},
			"": m.check,
		})
		for round := 0; len(m.p.wake) > 0 || m.unanswered() > 0; round++ {
			if m.run(t); round > 4*m.put+4 {
				t.Fatalf("no end after %d rounds: %+v", round, m.p.Stats())
			}
			for _, s := range twoStreams {
				for len(m.inFlight[s]) > 0 {
					m.mend(s)
					m.answer(s, nil)
				}
			}
		}
		m.check(t)
		if stats := m.p.Stats(); stats.Queued != 0 {
			t.Fatalf("stats %+v at the end", stats)
		}
		if err := m.p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
