package health

import (
	"errors"
	"regexp"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TCPExpectations are what a TCP dialogue must be, compiled once and used for
// every probe, by any number of goroutines.
type TCPExpectations struct {
	answer     *regexp.Regexp
	maxLatency time.Duration
}

// CompileTCP is Compile for a TCP check.
func CompileTCP(spec *picketv1.TCPSpec) (*TCPExpectations, error) {
	e := &TCPExpectations{}
	var faults []error
	var err error
	if text := spec.GetExpect(); text != "" {
		if e.answer, err = regexp.Compile(text); err != nil {
			faults = append(faults, &FieldError{"expect", err})
		}
	}
	if e.maxLatency, err = latencyBound(spec.GetMaxLatencyMs()); err != nil {
		faults = append(faults, &FieldError{"max_latency_ms", err})
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return e, nil
}

// WantsAnswer reports whether something must come back at all.
func (e *TCPExpectations) WantsAnswer() bool { return e.answer != nil }

// Satisfied reports whether answer, as far as it was read, is as expected, so
// that no more of it needs to be read.
func (e *TCPExpectations) Satisfied(answer []byte) bool {
	return e.answer == nil || e.answer.Match(answer)
}

// TCP maps a dialogue to its verdict: an answer that does not match is critical
// (assert_answer), a slow one degraded (latency).
func (e *TCPExpectations) TCP(answer []byte, latency time.Duration) Outcome {
	o := Outcome{Status: picketv1.Status_STATUS_HEALTHY}
	if !e.Satisfied(answer) {
		o.raise(picketv1.Status_STATUS_CRITICAL, ReasonAssertAnswer, "the answer does not match "+e.answer.String())
	}
	if e.maxLatency > 0 && latency > e.maxLatency {
		o.raise(picketv1.Status_STATUS_DEGRADED, ReasonLatency, slow(latency, e.maxLatency))
	}
	return o
}
