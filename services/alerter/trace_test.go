package alerter

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// A result that leads to a transition has a span of its trace up to the commit, and the event that tells of it belongs
// to that span. Results that change nothing leave none.
func TestTraceOfADecision(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	spans := tracetest.NewInMemoryExporter()
	s := f.alerter("traced", "")
	s.kit.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test")
	f.start(s)
	f.add(1)
	statuses := []picketv1.Status{
		picketv1.Status_STATUS_HEALTHY, picketv1.Status_STATUS_CRITICAL, picketv1.Status_STATUS_CRITICAL, picketv1.Status_STATUS_CRITICAL,
	}
	for i, status := range statuses {
		f.tick = f.tick.Add(time.Second)
		m := bus.Message{
			Subject: bus.ProbeSubject("default", status, "local", serverName(1), "health"), Time: time.Now(),
			Payload: &picketv1.ProbeResult{
				Status: status, Server: serverName(1), Check: "health", CheckId: checkID(1), Location: "local", Org: "default",
				ScheduledAt: timestamppb.New(f.tick),
			},
			Trace: trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1, byte(i)}, SpanID: trace.SpanID{2, byte(i)}, TraceFlags: trace.FlagsSampled,
			}),
		}
		if _, err := f.conn.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	f.waitHistory(1, 2) // pending with the first bad one, open with the second
	wait(t, "the events", func() bool { return len(f.published()) >= 2 })
	got := spans.GetSpans()
	if len(got) != 2 {
		t.Fatalf("%d spans for two transitions: %+v", len(got), got)
	}
	_, stream := f.stream(bus.StreamAlerts)
	for i, span := range got {
		id := byte(i + 1)
		if span.Name != "fold" || span.SpanContext.TraceID() != (trace.TraceID{1, id}) || span.Parent.SpanID() != (trace.SpanID{2, id}) ||
			span.Status.Code != codes.Unset {
			t.Errorf("span %d: %+v", i, span)
		}
		msg, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		want := "00-" + span.SpanContext.TraceID().String() + "-" + span.SpanContext.SpanID().String() + "-01"
		if header := msg.Header.Get("traceparent"); header != want {
			t.Errorf("event %d has the trace %q, want %q", i, header, want)
		}
	}
}
