package ticker

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Words is what a ticker service calls its work in the log.
type Words int

const (
	// HealthChecks are looks at servers.
	HealthChecks Words = iota
	// MetricsCollection is fetching servers' figures.
	MetricsCollection
)

// span is the name of the span of a run.
func (w Words) span() string {
	if w == MetricsCollection {
		return "collect"
	}
	return "probe"
}

// Config bounds what a ticker does at a time.
type Config struct {
	// HostBatchSize is how many runs may be in flight to one target host; 0: no bound.
	HostBatchSize int
	// HostBatchDelay is the pause before the next such batch to the same host.
	HostBatchDelay time.Duration
	// CycleInterval is how long a cycle of the statistics is. Required.
	CycleInterval time.Duration
	// MaxInFlight is how many runs may be in flight; 0: half of the files that the
	// process may have open.
	MaxInFlight int
	// QueueBytes bounds the memory for results while NATS is away; 0: the
	// publisher's default.
	QueueBytes int
}

// Outcome is what came of one run.
type Outcome struct {
	// Result is what the run itself decides; the ticker adds whose it is and when.
	// Required, and the ticker's from then on.
	Result *picketv1.ProbeResult
	// Messages are published with the result, before it. Of one whose payload is a
	// MetricBatch the ticker sets subject, ID, time and whose it is; others are
	// published as they are.
	Messages []bus.Message

	trace trace.SpanContext
}

// Runner runs one check, as it was defined when the Runner was built.
type Runner interface {
	// Run runs the check once. The deadline is ctx's; when ctx is cancelled the
	// result should be unknown. It may be called from several goroutines at once.
	Run(ctx context.Context) Outcome
}

// Options are what a ticker works with.
type Options struct {
	// Kit and Conn are required.
	Kit    *service.Kit
	Conn   *bus.Conn
	Config Config
	// Kinds are the kinds of check that this service runs; others are none of its
	// business. Required.
	Kinds []string
	// Build makes the Runner of a check, each time that its definition changes. A
	// check that it refuses is due all the same, and its results are unknown with
	// the error as message; see Unable for another reason. Required.
	Build func(check *picketv1.ScheduledCheck) (Runner, error)
	// Skip says that the checks of a server are not to be run now, and the reason in
	// a word. Their ticks become markers with the reason missed_<word>; see Nudge.
	// It is asked at every tick, and must not block or call the Ticker. Nil: never.
	Skip  func(org, server string) (reason string, skip bool)
	Words Words
}

type onDemandKey struct{}

// OnDemand reports whether the run whose context this is was asked for, by somebody
// who waits for what comes of it.
func OnDemand(ctx context.Context) bool { return ctx.Value(onDemandKey{}) != nil }

func failed(reason, message string) Outcome {
	return Outcome{Result: &picketv1.ProbeResult{Status: picketv1.Status_STATUS_UNKNOWN, Reason: reason, Message: message}}
}

// Unable returns the Runner of a check that cannot be run: we fail to look, which
// is never shown as down. The reason is a word, the message is for people and
// must hold no secret.
func Unable(reason, message string) Runner { return unable{reason, message} }

type unable struct{ reason, message string }

// Run implements Runner.
func (u unable) Run(context.Context) Outcome { return failed(u.reason, u.message) }
