package bus

import (
	"testing"

	"go.opentelemetry.io/otel/trace"
)

func TestTraceGoesThroughAHeader(t *testing.T) {
	t.Parallel()
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5}, TraceFlags: trace.FlagsSampled,
	})
	text := traceparent(span)
	if want := "00-01020300000000000000000000000000-0405000000000000-01"; text != want {
		t.Errorf("traceparent %q, want %q", text, want)
	}
	read := parseTrace(text)
	if read.TraceID() != span.TraceID() || read.SpanID() != span.SpanID() || !read.IsSampled() || !read.IsRemote() {
		t.Errorf("read back %+v", read)
	}
	for _, hostile := range []string{"", "00", "zz-…", text + text, "00-00000000000000000000000000000000-0405000000000000-01"} {
		if parseTrace(hostile).IsValid() {
			t.Errorf("%q was taken for a trace", hostile)
		}
	}
}
