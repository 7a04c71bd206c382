package writer

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/picketd/picket/internal/bus"
)

// traceStored ends the way of every message of a committed batch whose trace is sampled: a span from when the stream took
// it to the commit, rows being those that were committed with it. Messages that are nil have become dead letters.
func (n *intake[R]) traceStored(ctx context.Context, messages []*bus.Msg, rows int) {
	for _, msg := range messages {
		if msg != nil && msg.Trace.IsSampled() {
			n.startSpan(ctx, msg, attribute.String("picket.table", n.table), attribute.Int("picket.batch_rows", rows)).End()
		}
	}
}

// traceDead says so of a message that became a dead letter.
func (r *reader) traceDead(ctx context.Context, msg *bus.Msg, reason string, cause error) {
	if !msg.Trace.IsSampled() {
		return
	}
	span := r.startSpan(ctx, msg, attribute.String("picket.dead_letter", reason))
	span.SetStatus(codes.Error, cause.Error())
	span.End()
}

// startSpan starts the span of a message as child of the one that published it, at the time of the stream; when that
// clock is ahead of ours, now.
func (r *reader) startSpan(ctx context.Context, msg *bus.Msg, about ...attribute.KeyValue) trace.Span {
	began := msg.Time
	if now := time.Now(); began.After(now) {
		began = now
	}
	about = append(about, attribute.String("picket.stream", r.stream), attribute.Int64("picket.sequence", int64(msg.Sequence)),
		attribute.Int64("picket.deliveries", int64(msg.Deliveries)))
	_, span := r.kit.Trace().Start(trace.ContextWithRemoteSpanContext(ctx, msg.Trace), "store",
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began), trace.WithAttributes(about...))
	return span
}
