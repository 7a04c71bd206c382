package catalog

import (
	"errors"
	"strconv"
	"strings"

	"github.com/picketd/picket/internal/metric"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// The forms in which a server shows its figures.
const (
	// MetricsJSON is the JSON object of the source system's /api/v1/metrics/current.
	MetricsJSON = "json"
	// MetricsPrometheus is an exposition of Prometheus or OpenMetrics.
	MetricsPrometheus = "prometheus"
)

func validateMetrics(f *Faults, path string, spec *picketv1.MetricsSpec) {
	if message := urlFault(spec.Url); message != "" {
		f.add(joinPath(path, "url"), "%s", message)
	}
	switch spec.Format {
	case "", MetricsPrometheus:
	case MetricsJSON:
		if spec.Mapping != "" {
			f.add(joinPath(path, "mapping"), "is for expositions: the names in JSON are those of the figures")
		}
		if len(spec.Rules) > 0 {
			f.add(joinPath(path, "rules"), "are for expositions: the names in JSON are those of the figures")
		}
	default:
		f.add(joinPath(path, "format"), "%.64q is neither json nor prometheus; leave it out to go by the answer", spec.Format)
	}
	validateHeaders(f, path, spec.Headers)
	authorization := 0
	for _, h := range spec.Headers {
		if strings.EqualFold(h.GetName(), "Authorization") {
			authorization++
		}
	}
	if authorization > 1 || authorization > 0 && spec.ServerToken {
		f.add(joinPath(path, "headers"), "say more than once who asks: there can be one token, or one header Authorization")
	}
	validateTLS(f, joinPath(path, "tls"), spec.Tls)
	_, err := metric.Compile(spec.Mapping, spec.Rules)
	addRuleFaults(f, path, err)
}

// addRuleFaults adds what package metric found in mapping and rules; its names of fields are our keys.
func addRuleFaults(f *Faults, path string, err error) {
	if err == nil {
		return
	}
	if errors.Is(err, metric.ErrUnknownMapping) {
		f.add(joinPath(path, "mapping"), "%s", err)
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, fault := range joined.Unwrap() {
			addRuleFaults(f, path, fault)
		}
		return
	}
	if fault, ok := errors.AsType[*metric.RuleError](err); ok {
		f.add(joinPath(path, "rules["+strconv.Itoa(fault.Index)+"]."+fault.Field), "%s", fault.Err)
		return
	}
	f.add(joinPath(path, "rules"), "%s", err)
}
