package fleetsim

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Behaviour is how a server answers.
type Behaviour int32

// What servers do. Flipping ones are healthy and critical by turns of [Options].FlipEvery, all at once.
const (
	Healthy   Behaviour = iota // 200 and a good body
	Degraded                   // 200 and a body that names a weak part
	Critical                   // what the format has for a server that does not work
	Hanging                    // accepts, reads, never answers
	Resetting                  // resets the connection instead of answering
	Flipping
)

func behaviours() []string {
	return append([]string{"healthy", "degraded", "critical", "hanging", "resetting", "flipping"}, hostileWords()...)
}

// String is the word for the behaviour, as in reports.
func (b Behaviour) String() string {
	words := behaviours()
	if b < 0 || int(b) >= len(words) {
		return fmt.Sprintf("behaviour(%d)", int32(b))
	}
	return words[b]
}

// MarshalText writes the word.
func (b Behaviour) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads the word.
func (b *Behaviour) UnmarshalText(text []byte) error {
	for i, word := range behaviours() {
		if word == string(text) {
			*b = Behaviour(i)
			return nil
		}
	}
	return fmt.Errorf("unknown behaviour %q, there are %v", text, behaviours())
}

// server is what is known of one server.
type server struct {
	behaviour, metrics atomic.Int32

	mu       sync.Mutex
	requests uint64          // for its health
	first    time.Duration   // since the fleet's start; of the first request
	recent   []time.Duration // a ring: request n is at n modulo its length, once it is full
	shown    uint64          // good answers to requests for figures
	sampled  []int64         // the newest of their instants, oldest first
}

func (s *server) arrive(at time.Duration, keep int) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.requests == 0 {
		s.first = at
	}
	if len(s.recent) < keep {
		s.recent = append(s.recent, at)
	} else if keep > 0 {
		s.recent[s.requests%uint64(keep)] = at
	}
	s.requests++
	return s.requests
}

// arrivals are the remembered ones, oldest first.
func (s *server) arrivals() (requests uint64, first time.Duration, recent []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := 0
	if n := len(s.recent); n > 0 && s.requests > uint64(n) {
		at = int(s.requests % uint64(n))
	}
	recent = append(append(make([]time.Duration, 0, len(s.recent)), s.recent[at:]...), s.recent[:at]...)
	return s.requests, s.first, recent
}

// now is what the server does at this moment: flipping is resolved.
func (f *Fleet) now(i int, at time.Duration) Behaviour {
	behaviour := f.Behaviour(i)
	if behaviour != Flipping {
		return behaviour
	}
	if (at/f.opts.FlipEvery)%2 == 0 {
		return Healthy
	}
	return Critical
}
