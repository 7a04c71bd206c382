package service

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Variables of the OpenTelemetry specification. The first two turn tracing on; the others (OTEL_TRACES_SAMPLER,
// OTEL_EXPORTER_OTLP_HEADERS, …) are read by its libraries.
const (
	otlpEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	otlpTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
)

// flushFor bounds how long a stop waits for the last spans.
const flushFor = 2 * time.Second

// instrumentation names this code in traces.
const instrumentation = "github.com/picketd/picket"

// NoTracer returns a tracer that records nothing.
func NoTracer() trace.Tracer { return noop.NewTracerProvider().Tracer(instrumentation) }

// WithTracing gives kit a tracer and runs work: one that sends spans by OTLP over HTTP when the environment names an
// endpoint, else NoTracer. Spans wait in a bounded queue and are dropped when it is full: a collector that is away
// costs nothing but traces. What is to be sampled says OTEL_TRACES_SAMPLER; by default everything. It returns work's
// error, or its own when the variables cannot be.
func WithTracing(ctx context.Context, kit *Kit, work func() error) error {
	flush, err := openTracing(ctx, kit)
	if err != nil {
		return err
	}
	defer flushTraces(kit, flush)
	return work()
}

func openTracing(ctx context.Context, kit *Kit) (flush func(context.Context) error, err error) {
	if os.Getenv(otlpEndpoint) == "" && os.Getenv(otlpTracesEndpoint) == "" {
		kit.Tracer = NoTracer()
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("open trace exporter: %w", err)
	}
	about, err := resource.Merge(resource.Default(), resource.NewSchemaless(
		attribute.String("service.name", "picket-"+kit.Name),
		attribute.String("service.instance.id", kit.Instance),
		attribute.String("service.version", kit.Version),
		attribute.String("picket.location", kit.Location),
	))
	if err != nil {
		return nil, fmt.Errorf("describe this process to traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	kit.Tracer = provider.Tracer(instrumentation, trace.WithInstrumentationVersion(kit.Version))
	return provider.Shutdown, nil
}

// flushTraces sends the last spans; a collector that is away does not hold up a stop.
func flushTraces(kit *Kit, flush func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), flushFor)
	defer cancel()
	if err := flush(ctx); err != nil {
		kit.Log.Warn("traces not sent", "err", err)
	}
}
