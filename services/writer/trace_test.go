package writer

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
)

// sampled makes a message that a sampled span has published.
func sampled(m bus.Message, id byte) bus.Message {
	m.Trace = trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, id}, SpanID: trace.SpanID{2, id}, TraceFlags: trace.FlagsSampled,
	})
	return m
}

// Each message of a sampled trace ends in a span of that trace: stored, or an error when it became a dead letter. Others
// leave none.
func TestTraceEndsAtTheRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	spans := tracetest.NewInMemoryExporter()
	svc, kit := w.service("traced", quiet)
	kit.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test")
	now := time.Now()
	bad := result(2, now)
	bad.ScheduledAt = timestamppb.New(now.Add(time.Hour))
	w.publish([]bus.Message{
		sampled(asMessage(result(1, now)), 1), asMessage(result(3, now)), sampled(asMessage(bad), 2),
		sampled(metricMessage(batchOf(1, now)), 4),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	w.until("the spans", func() bool { return len(spans.GetSpans()) >= 3 })
	w.until("every batch to be acknowledged", w.metricsAcked)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := map[byte]tracetest.SpanStub{}
	for _, span := range spans.GetSpans() {
		got[span.SpanContext.TraceID()[1]] = span
	}
	if len(spans.GetSpans()) != 3 || len(got) != 3 {
		t.Fatalf("%d spans of %d traces, want 3 of 3", len(spans.GetSpans()), len(got))
	}
	for id, want := range map[byte]struct {
		code       codes.Code
		key, value string
	}{
		1: {codes.Unset, "picket.table", "server_health_checks"},
		2: {codes.Error, "picket.dead_letter", bus.ReasonContract},
		4: {codes.Unset, "picket.table", "server_metrics_aggregated"},
	} {
		span, about := got[id], map[string]string{}
		for _, a := range span.Attributes {
			about[string(a.Key)] = a.Value.String()
		}
		if span.Name != "store" || span.Parent.SpanID() != (trace.SpanID{2, id}) || span.SpanKind != trace.SpanKindConsumer ||
			span.Status.Code != want.code || about[want.key] != want.value || span.EndTime.Before(span.StartTime) {
			t.Errorf("span of message %d: %+v", id, span)
		}
		if about["picket.stream"] == "" || about["picket.sequence"] == "" {
			t.Errorf("span of message %d does not say which it was: %v", id, about)
		}
	}
}

// What is not sampled costs nothing, whether this process traces or not.
func TestUnsampledCostsNothing(t *testing.T) {
	svc := &Service{}
	n := intake[int]{reader: reader{Service: svc}}
	messages := make([]*bus.Msg, 5000)
	for i := range messages {
		messages[i] = &bus.Msg{}
	}
	dead := errors.New("no")
	if allocs := testing.AllocsPerRun(10, func() {
		n.traceStored(t.Context(), messages, len(messages))
		n.traceDead(t.Context(), messages[0], bus.ReasonRefused, dead)
	}); allocs != 0 {
		t.Errorf("%v allocations for a batch that nobody traces", allocs)
	}
}
