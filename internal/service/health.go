package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// errNotChecked is what a component says before it was looked at.
var errNotChecked = errors.New("not checked yet")

// Health knows whether a service can do its work: it is ready while each of its
// components is. It is safe for concurrent use.
type Health struct {
	mu         sync.Mutex
	components map[string]component
	counters   map[string]func() float64
	included   map[string]*Health
	stopping   bool
}

type component struct {
	err error
	// degraded: the error is shown and takes nothing from readiness.
	degraded bool
	// looked and every say when the answer is too old to be believed; every 0: never.
	looked time.Time
	every  time.Duration
}

// NewHealth makes a Health without components, which is ready.
func NewHealth() *Health {
	return &Health{components: map[string]component{}, counters: map[string]func() float64{}, included: map[string]*Health{}}
}

// Set says how a component is: nil is well.
func (h *Health) Set(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.components[name] = component{err: err}
}

// SetDegraded says how a component is that the service can do its work without: nil is well, anything else is shown by
// /health as degraded and leaves the service ready.
func (h *Health) SetDegraded(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.components[name] = component{err: err, degraded: true}
}

// Counter adds a number to the body of /health.
func (h *Health) Counter(name string, value func() float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counters[name] = value
}

// Include makes another's readiness a component of this one: several services in one process.
func (h *Health) Include(name string, other *Health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.included[name] = other
}

// Stopping makes the service not ready for good: the first step of a stop.
func (h *Health) Stopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Watch looks at a component at once and then at every interval until ctx ends.
// Each look has that interval as its deadline. A look that does not come back
// counts as a failure after twice the interval, so that a frozen dependency can
// not keep a service looking well.
func (h *Health) Watch(ctx context.Context, name string, every time.Duration, look func(ctx context.Context) error) {
	h.put(name, component{err: errNotChecked, looked: time.Now(), every: every})
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		lookCtx, cancel := context.WithTimeout(ctx, every)
		err := look(lookCtx)
		cancel()
		h.put(name, component{err: err, looked: time.Now(), every: every})
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Health) put(name string, c component) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.components[name] = c
}

// Collector makes a gauge fleet_component_up of each component: 1 well or degraded, 0 not.
func (h *Health) Collector() prometheus.Collector { return componentCollector{h} }

// Up makes a gauge fleet_worker_up for a service: 1 while it is ready, 0 while not.
func (h *Health) Up(role string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_worker_up", Help: "1 while the service is ready, 0 while not; the label tells which it is.",
		ConstLabels: prometheus.Labels{"role": role},
	}, func() float64 {
		if h.Ready() != nil {
			return 0
		}
		return 1
	})
}

type componentCollector struct{ health *Health }

func componentDesc() *prometheus.Desc {
	return prometheus.NewDesc("fleet_component_up", "1 while what the service needs answers it, 0 while not.", []string{"component"}, nil)
}

func (c componentCollector) Describe(descs chan<- *prometheus.Desc) { descs <- componentDesc() }

func (c componentCollector) Collect(metrics chan<- prometheus.Metric) {
	desc := componentDesc()
	for name, component := range c.health.state() {
		up := 1.0
		if component.err != nil && !component.degraded {
			up = 0
		}
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, up, name)
	}
}

// Ready returns nil, or every reason why the service can not do its work now.
func (h *Health) Ready() error {
	return h.join(func(c component) bool { return !c.degraded })
}

// degraded returns nil, or everything that is degraded.
func (h *Health) degraded() error {
	return h.join(func(c component) bool { return c.degraded })
}

// join returns the errors of the components that count, by name.
func (h *Health) join(counts func(component) bool) error {
	var faults []error
	for name, c := range h.state() {
		if c.err != nil && counts(c) {
			faults = append(faults, fmt.Errorf("%s: %w", name, c.err))
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(faults...)
}

// state returns each component as it counts now.
func (h *Health) state() map[string]component {
	h.mu.Lock()
	defer h.mu.Unlock()
	state := make(map[string]component, len(h.components)+1)
	for name, c := range h.components {
		if age := time.Since(c.looked); c.every > 0 && age > 2*c.every {
			c.err = fmt.Errorf("no answer for %s", age.Round(time.Millisecond))
		}
		state[name] = c
	}
	for name, other := range h.included {
		state[name] = component{err: other.Ready()}
		if state[name].err == nil {
			state[name] = component{err: other.degraded(), degraded: true}
		}
	}
	if h.stopping {
		state["service"] = component{err: errors.New("stopping")}
	}
	return state
}

// numbers returns the counters as they are now.
func (h *Health) numbers() map[string]float64 {
	h.mu.Lock()
	counters := maps.Clone(h.counters)
	h.mu.Unlock()
	numbers := make(map[string]float64, len(counters))
	for name, value := range counters {
		numbers[name] = value()
	}
	return numbers
}
