package fleetsim

import (
	"slices"
	"sync"
	"syscall"
	"time"
)

// Slot is the width of the arrival histogram's slots.
const Slot = 100 * time.Millisecond

// maxSlots is a day of them. What comes later is counted, not placed.
const maxSlots = 864_000

// arrivals counts the whole fleet's requests by slot since its start.
type arrivals struct {
	mu    sync.Mutex
	slots []uint32
	late  uint64
}

func (a *arrivals) add(at time.Duration) {
	slot := int(at / Slot)
	a.mu.Lock()
	defer a.mu.Unlock()
	if slot >= maxSlots {
		a.late++
		return
	}
	for len(a.slots) <= slot {
		a.slots = append(a.slots, 0)
	}
	a.slots[slot]++
}

// Report is what the fleet has received so far. Times are wall-clock; differences of those of one report are monotonic.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // since then

	Requests  uint64 `json:"requests"`
	Accepted  uint64 `json:"accepted_connections"`
	Open      int    `json:"open_connections"`
	Malformed uint64 `json:"malformed_requests"`
	// Refused are the requests that presented no token that is taken.
	Refused uint64 `json:"refused_requests"`

	// CPUSeconds is what the whole process has used since the start; in a process of its own that is the fleet's cost.
	CPUSeconds       float64 `json:"cpu_seconds"`
	CPUMicrosRequest float64 `json:"cpu_micros_per_request"`

	// NeverAsked is how many servers have not had a request; AllAskedSeconds the time from the start until each had one,
	// 0 while there are such.
	NeverAsked      int     `json:"never_asked"`
	AllAskedSeconds float64 `json:"all_asked_seconds"`

	Peaks     Peaks          `json:"peaks"`
	Deviation Deviation      `json:"period_deviation"`
	Slots     []uint32       `json:"requests_per_100ms"`
	Servers   []ServerReport `json:"servers"`
}

// Peaks compares the fullest slot with the mean of all, between the first request and the last whole slot.
type Peaks struct {
	Peak  uint32  `json:"peak"`
	Mean  float64 `json:"mean"`
	Ratio float64 `json:"ratio"`
}

// Deviation is how far the gaps between the remembered requests of a server are from that server's median gap, over all
// servers, in milliseconds.
type Deviation struct {
	Gaps int     `json:"gaps"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	Max  float64 `json:"max_ms"`
}

// ServerReport is what one server has received.
type ServerReport struct {
	Name      string    `json:"name"`
	Address   string    `json:"address"`
	Behaviour Behaviour `json:"behaviour"`
	Requests  uint64    `json:"requests"`
	First     time.Time `json:"first,omitzero"`
	// Recent are the newest arrivals, oldest first, as many as [Options].Keep.
	Recent []time.Time `json:"recent"`
	// Shown is how often it has shown its figures in a good answer, Sampled the newest instants of that, oldest first.
	Shown   uint64  `json:"shown"`
	Sampled []int64 `json:"sampled_at_ms"`
}

// Report tells what has arrived.
func (f *Fleet) Report() *Report {
	now := time.Since(f.started)
	r := &Report{
		Started: f.started, Seconds: now.Seconds(),
		Accepted: f.accepted.Load(), Malformed: f.malformed.Load(), Refused: f.refused.Load(),
		CPUSeconds: (processCPU() - f.cpu).Seconds(),
		Servers:    make([]ServerReport, len(f.servers)),
	}
	f.mu.Lock()
	r.Open = len(f.conns)
	f.mu.Unlock()

	var deviations []time.Duration
	var allAsked time.Duration
	for i := range f.servers {
		requests, first, recent := f.servers[i].arrivals()
		s := &r.Servers[i]
		*s = ServerReport{Name: f.Name(i), Address: f.Addr(i), Behaviour: f.Behaviour(i), Requests: requests}
		s.Shown, s.Sampled = f.servers[i].sampledAt()
		r.Requests += requests
		if requests == 0 {
			r.NeverAsked++
			continue
		}
		s.First = f.started.Add(first)
		allAsked = max(allAsked, first)
		for _, at := range recent {
			s.Recent = append(s.Recent, f.started.Add(at))
		}
		deviations = append(deviations, deviationsOf(recent)...)
	}
	if r.NeverAsked == 0 {
		r.AllAskedSeconds = allAsked.Seconds()
	}
	if r.Requests > 0 {
		r.CPUMicrosRequest = r.CPUSeconds * 1e6 / float64(r.Requests)
	}
	r.Deviation = summarize(deviations)
	f.seen.mu.Lock()
	r.Slots = slices.Clone(f.seen.slots)
	f.seen.mu.Unlock()
	r.Peaks = peaks(r.Slots, int(now/Slot))
	return r
}

// deviationsOf needs two gaps at least: one is its own median.
func deviationsOf(recent []time.Duration) []time.Duration {
	if len(recent) < 3 {
		return nil
	}
	gaps := make([]time.Duration, 0, len(recent)-1)
	for i := range recent[1:] {
		gaps = append(gaps, recent[i+1]-recent[i])
	}
	sorted := slices.Clone(gaps)
	slices.Sort(sorted)
	median := sorted[len(sorted)/2]
	for i := range gaps {
		gaps[i] = (gaps[i] - median).Abs()
	}
	return gaps
}

func summarize(deviations []time.Duration) Deviation {
	if len(deviations) == 0 {
		return Deviation{}
	}
	slices.Sort(deviations)
	at := func(quantile float64) float64 {
		index := min(int(quantile*float64(len(deviations))), len(deviations)-1)
		return float64(deviations[index]) / float64(time.Millisecond)
	}
	return Deviation{Gaps: len(deviations), P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// peaks looks at the slots from the first with a request up to the one that is still being filled.
func peaks(slots []uint32, current int) Peaks {
	slots = slots[:min(len(slots), current)]
	first := slices.IndexFunc(slots, func(n uint32) bool { return n > 0 })
	if first < 0 {
		return Peaks{}
	}
	// Silence after the last request belongs to the mean as well.
	width := min(current, maxSlots) - first
	sum := uint64(0)
	for _, n := range slots[first:] {
		sum += uint64(n)
	}
	p := Peaks{Peak: slices.Max(slots[first:]), Mean: float64(sum) / float64(width)}
	p.Ratio = float64(p.Peak) / p.Mean
	return p
}

// processCPU is the user and system time of this process; 0 where it cannot be had.
func processCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
