package alerter

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/services/alerter/fold"
)

// deciding is a message with a sampled trace that led to transitions, which are not committed yet.
type deciding struct {
	parent   trace.SpanContext
	sequence uint64
	at       time.Time
	events   []uuid.UUID
	names    []string // of the transitions
}

// decided takes note of what a message led to, when its trace is sampled.
func (f *folder) decided(msg *bus.Msg, transitions []fold.Transition) {
	if len(transitions) == 0 || !msg.Trace.IsSampled() {
		return
	}
	d := deciding{parent: msg.Trace, sequence: msg.Sequence, at: msg.Time}
	for i := range transitions {
		d.events = append(d.events, transitions[i].EventID)
		d.names = append(d.names, transitions[i].Name)
	}
	f.deciding = append(f.deciding, d)
}

// startSpans starts a span for each message that decided, from when the stream took it; its end is the commit. What is
// published of it then belongs to that span.
func (f *folder) startSpans(ctx context.Context) []trace.Span {
	if len(f.deciding) == 0 {
		return nil
	}
	now := time.Now()
	spans := make([]trace.Span, len(f.deciding))
	for i, d := range f.deciding {
		began := d.at
		if began.After(now) {
			began = now // the stream's clock is ahead of ours
		}
		_, spans[i] = f.s.kit.Trace().Start(trace.ContextWithRemoteSpanContext(ctx, d.parent), "fold",
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began), trace.WithAttributes(
				attribute.String("picket.stream", bus.StreamEvents), attribute.Int64("picket.sequence", int64(d.sequence)),
				attribute.StringSlice("picket.transitions", d.names)))
		f.traces.put(d.events, spans[i].SpanContext())
	}
	f.deciding = nil
	return spans
}

func endSpans(spans []trace.Span, err error) {
	for _, span := range spans {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// mostTraces bounds what is remembered of events that are not published yet. Those beyond it are published without.
const mostTraces = 10_000

// traces are the spans that alert events belong to, from the commit until they are published by the same lead. It is
// safe for concurrent use.
type traces struct {
	mu sync.Mutex
	of map[string]trace.SpanContext // by event
}

func (t *traces) put(events []uuid.UUID, span trace.SpanContext) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[string]trace.SpanContext{}
	}
	for _, event := range events {
		if len(t.of) < mostTraces {
			t.of[event.String()] = span
		}
	}
}

func (t *traces) get(event string) trace.SpanContext {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[event]
}

func (t *traces) forget(event string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.of, event)
}
