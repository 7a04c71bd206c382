package service

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Spans reach an OTLP endpoint that the environment names, at the latest when the process stops.
func TestSpansReachTheEndpoint(t *testing.T) {
	received := make(chan *collector.ExportTraceServiceRequest, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		request := &collector.ExportTraceServiceRequest{}
		if err != nil || proto.Unmarshal(body, request) != nil {
			http.Error(w, "unreadable", http.StatusBadRequest)
			return
		}
		received <- request
	}))
	defer server.Close()
	t.Setenv(otlpEndpoint, server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")

	kit := &Kit{Name: "writer", Instance: "writer-1", Version: "v1"}
	err := WithTracing(t.Context(), kit, func() error {
		_, span := kit.Trace().Start(context.Background(), "probe")
		span.End()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	resource := (<-received).GetResourceSpans()[0]
	var names []string
	for _, span := range resource.GetScopeSpans()[0].GetSpans() {
		names = append(names, span.GetName())
	}
	if diff := cmp.Diff([]string{"probe"}, names); diff != "" {
		t.Error(diff)
	}
	if about := resource.GetResource().String(); !strings.Contains(about, "picket-writer") || !strings.Contains(about, "writer-1") {
		t.Errorf("resource %s names neither the service nor the instance", about)
	}
}

func TestNoEndpointNoSpans(t *testing.T) {
	t.Setenv(otlpEndpoint, "")
	t.Setenv(otlpTracesEndpoint, "")
	kit := &Kit{Name: "writer"}
	err := WithTracing(t.Context(), kit, func() error {
		_, span := kit.Trace().Start(context.Background(), "probe")
		if span.IsRecording() {
			t.Error("a span is recorded and nobody takes it")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestProfilesOnTheirOwnListenerOnly(t *testing.T) {
	t.Parallel()
	kit := &Kit{Name: "writer", Health: NewHealth()}
	for path, handler := range map[string]http.Handler{"/debug/pprof/": Handler(kit), "/debug/pprof/cmdline": Handler(kit)} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		if answer.Code != http.StatusNotFound {
			t.Errorf("%s on the admin address: %d", path, answer.Code)
		}
		answer = httptest.NewRecorder()
		profiles().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		if answer.Code != http.StatusOK {
			t.Errorf("%s on the address for profiles: %d", path, answer.Code)
		}
	}
}
