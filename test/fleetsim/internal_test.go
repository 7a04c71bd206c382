package fleetsim

import (
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestFlippingTakesTurns(t *testing.T) {
	t.Parallel()
	f := &Fleet{opts: Options{FlipEvery: 10 * time.Second}, servers: make([]server, 1)}
	f.Set(0, Flipping)
	for at, want := range map[time.Duration]Behaviour{
		0: Healthy, 9 * time.Second: Healthy, 10 * time.Second: Critical, 19 * time.Second: Critical, 20 * time.Second: Healthy,
	} {
		if got := f.now(0, at); got != want {
			t.Errorf("after %v: %v, want %v", at, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, i := range []int{0, 1, 9, 10, 99, 12345, 99999, 100000, 999999, 1234567} {
		if got, want := string(appendName(nil, i)), (&Fleet{}).Name(i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestRingKeepsTheNewest(t *testing.T) {
	t.Parallel()
	var s server
	for n := range 11 {
		s.arrive(time.Duration(n), 4)
	}
	requests, first, recent := s.arrivals()
	if requests != 11 || first != 0 || !slices.Equal(recent, []time.Duration{7, 8, 9, 10}) {
		t.Errorf("got %d requests, first %d, recent %v", requests, first, recent)
	}
}

func TestDeviation(t *testing.T) {
	t.Parallel()
	// Gaps of 100, 103, 97 and 100 ms.
	ms := time.Millisecond
	got := summarize(deviationsOf([]time.Duration{0, 100 * ms, 203 * ms, 300 * ms, 400 * ms}))
	if want := (Deviation{Gaps: 4, P50: 3, P99: 3, Max: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := summarize(deviationsOf([]time.Duration{0, 5})); got != (Deviation{}) {
		t.Errorf("one gap deviates from itself: %+v", got)
	}
}

func TestPeaks(t *testing.T) {
	t.Parallel()
	// Nothing before the first request counts, nor the slot that is being filled; silence since does.
	got := peaks([]uint32{0, 0, 2, 4, 0, 2, 99}, 6)
	if want := (Peaks{Peak: 4, Mean: 2, Ratio: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := peaks([]uint32{4, 4}, 4); got.Mean != 2 {
		t.Errorf("got %+v, want mean 2", got)
	}
	if got := peaks([]uint32{7}, 0); got != (Peaks{}) {
		t.Errorf("got %+v, want nothing", got)
	}
}

// Where no listener may be bound to the loopback device, each server has its own.
func TestListenEach(t *testing.T) {
	t.Parallel()
	f := &Fleet{opts: Options{Servers: 3, Keep: 1, FlipEvery: time.Second}, servers: make([]server, 3)}
	if err := f.listenEach(t.Context(), "0"); err != nil {
		t.Skip("this system has one loopback address:", err)
	}
	f.conns = map[net.Conn]struct{}{}
	for _, listener := range f.listeners {
		f.wg.Go(func() { f.accept(listener) })
	}
	transport := &http.Transport{DisableKeepAlives: true}
	for i := range 3 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL(i), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Error(err)
		}
		response.Body.Close()
		if requests, _, _ := f.servers[i].arrivals(); requests != 1 {
			t.Errorf("server %d has %d requests", i, requests)
		}
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
}
