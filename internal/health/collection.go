package health

import (
	"net/http"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Reasons for which figures could not be collected, besides those of an answer that did not come.
const (
	ReasonBadMetrics    = "bad_metrics"     // the answer cannot be read, or a figure of it is not what its name says
	ReasonNoFigures     = "no_figures"      // nothing in it is a figure
	ReasonTooLarge      = "too_large"       // it goes on beyond what is read
	ReasonTooManySeries = "too_many_series" // of those that the rules need
)

// A server whose figures cannot be collected is degraded, whatever kept us from it. Whether it is up says its check
// health; and since servers that are critical or unreachable are not collected from, a collection that could make them
// so would keep itself from ever looking again. What is unknown, because the fault is ours, stays unknown.

// CollectionCode is the verdict on the code of an answer that should hold figures; healthy for 2xx.
func CollectionCode(code int) Outcome {
	o := Outcome{Status: picketv1.Status_STATUS_HEALTHY}
	(&Expectations{}).judgeCode(&o, code)
	if code == http.StatusNoContent {
		o.raise(picketv1.Status_STATUS_DEGRADED, ReasonNoFigures, "HTTP 204 No Content")
	}
	return atMostDegraded(o)
}

// CollectionError is the verdict on a collection that ended without an answer; see [FromError].
func CollectionError(err error) Outcome { return atMostDegraded(FromError(err)) }

// CollectionFault is the verdict on an answer whose figures are not as they should be.
func CollectionFault(reason, message string) Outcome {
	o := Outcome{Status: picketv1.Status_STATUS_HEALTHY}
	o.raise(picketv1.Status_STATUS_DEGRADED, reason, message)
	return o
}

func atMostDegraded(o Outcome) Outcome {
	if Worse(o.Status, picketv1.Status_STATUS_DEGRADED) {
		o.Status = picketv1.Status_STATUS_DEGRADED
	}
	return o
}
