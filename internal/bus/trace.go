package bus

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// carrier is the one header that a trace context has here.
type carrier struct{ value string }

func (c *carrier) Get(key string) string {
	if key == headerTrace {
		return c.value
	}
	return ""
}

func (c *carrier) Set(key, value string) {
	if key == headerTrace {
		c.value = value
	}
}

func (c *carrier) Keys() []string { return []string{headerTrace} }

// traceparent writes a span in the form of W3C Trace Context.
func traceparent(span trace.SpanContext) string {
	var c carrier
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), span), &c)
	return c.value
}

// parseTrace reads that form. What does not read is no trace.
func parseTrace(value string) trace.SpanContext {
	if value == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), &carrier{value}))
}
