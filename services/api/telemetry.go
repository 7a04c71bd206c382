package api

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	inFlight     prometheus.Gauge
	authFailures prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_http_requests_total", Help: "Requests answered, by route and status code.",
		}, []string{"method", "route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fleet_http_request_duration_seconds", Help: "From a request's header to the end of its answer; streams are not counted.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_http_requests_in_flight", Help: "Requests being answered, streams among them.",
		}),
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_auth_failures_total", Help: "Tokens refused.",
		}),
	}
	return m, errors.Join(
		register(registry, &m.requests), register(registry, &m.duration),
		register(registry, &m.inFlight), register(registry, &m.authFailures))
}

// register keeps the collector of an earlier life of the service, so that counters survive its restart.
func register[C prometheus.Collector](registry prometheus.Registerer, collector *C) error {
	err := registry.Register(*collector)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		existing, same := there.ExistingCollector.(C)
		if !same {
			return fmt.Errorf("register metrics: %w", err)
		}
		*collector = existing
		return nil
	}
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
