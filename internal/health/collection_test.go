package health_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/picketd/picket/internal/health"
)

// A collection never makes a server critical or unreachable: then it would not be collected from again.
func TestCollection(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		got            health.Outcome
		status, reason string
	}{
		{health.CollectionCode(200), "healthy", ""},
		{health.CollectionCode(204), "degraded", "no_figures"},
		{health.CollectionCode(302), "degraded", "http_302"},
		{health.CollectionCode(401), "degraded", "http_401"},
		{health.CollectionCode(503), "degraded", "http_503"},
		{health.CollectionError(syscall.ECONNREFUSED), "degraded", "refused"},
		{health.CollectionError(context.DeadlineExceeded), "degraded", "timeout"},
		{health.CollectionError(errors.New("odd")), "degraded", "error"},
		{health.CollectionError(context.Canceled), "unknown", "cancelled"},
		{health.CollectionError(syscall.EMFILE), "unknown", "open_files"},
		{health.CollectionFault(health.ReasonBadMetrics, "a\nb"), "degraded", "bad_metrics"},
	} {
		if health.Word(test.got.Status) != test.status || test.got.Reason != test.reason {
			t.Errorf("%s %s, want %s %s", health.Word(test.got.Status), test.got.Reason, test.status, test.reason)
		}
		if strings.Contains(test.got.Message, "\n") || (test.got.Message == "") != (test.status == "healthy") {
			t.Errorf("message %q of %s", test.got.Message, test.reason)
		}
	}
}
