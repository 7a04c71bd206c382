package system_test

import (
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// spans is an OTLP endpoint that keeps what it is sent.
type spans struct {
	mu   sync.Mutex
	all  []*tracev1.Span
	from map[string]string // the service of a span, by span id
}

func newSpans(t *testing.T) (*spans, string) {
	t.Helper()
	s := &spans{from: map[string]string{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

// ServeHTTP takes traces by OTLP over HTTP, as protobuf.
func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := &collector.ExportTraceServiceRequest{}
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, request) != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		var service string
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.all = append(s.all, span)
				s.from[hex.EncodeToString(span.GetSpanId())] = service
			}
		}
	}
}

// children returns the spans of that name whose parent is a span of the other name about a server, with that parent.
func (s *spans) children(name, parent, server string) map[*tracev1.Span]*tracev1.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	parents := map[string]*tracev1.Span{}
	for _, span := range s.all {
		if span.GetName() == parent && attribute(span, "picket.server") == server {
			parents[string(span.GetSpanId())] = span
		}
	}
	found := map[*tracev1.Span]*tracev1.Span{}
	for _, span := range s.all {
		if p := parents[string(span.GetParentSpanId())]; p != nil && span.GetName() == name {
			found[span] = p
		}
	}
	return found
}

func (s *spans) service(span *tracev1.Span) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from[hex.EncodeToString(span.GetSpanId())]
}

func attribute(span *tracev1.Span, key string) string {
	for _, a := range span.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

func number(span *tracev1.Span, key string) int64 {
	for _, a := range span.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetIntValue()
		}
	}
	return 0
}

// TestTraceFromTickToRow: with an OTLP endpoint named, one trace leads from a tick through the stream to its row, and to
// the alert that it decides, across the processes that have a hand in it; the row says the very sequence of the span.
func TestTraceFromTickToRow(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	for name, deploy := range deployments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			received, endpoint := newSpans(t)
			dir := shortDir(t)
			file := dir + "/picket.yaml"
			writeFile(t, file, "defaults: {interval: 1s}\nservers:\n  - {name: good, url: "+tg.url()+"}\n"+
				"  - {name: gone, url: \"http://127.0.0.1:1/health\"}\n")
			env := []string{
				"PICKET_CONFIG=" + file, "OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION=none",
				"OTEL_BSP_SCHEDULE_DELAY=200",
			}
			d := deploy(t, env, dir)
			d.start()
			o := observe(t, d)
			o.awaitStatus(t, "good", picketv1.Status_STATUS_HEALTHY, time.Time{})

			var stored, probed *tracev1.Span
			eventually(t, "a trace to a row", func() error {
				for child, parent := range received.children("store", "probe", "good") {
					stored, probed = child, parent
					return nil
				}
				return errors.New("no span store below a span probe")
			})
			if string(stored.GetTraceId()) != string(probed.GetTraceId()) {
				t.Errorf("trace %x of the row, %x of the probe", stored.GetTraceId(), probed.GetTraceId())
			}
			if stored.GetEndTimeUnixNano() < probed.GetStartTimeUnixNano() {
				t.Error("stored before it was probed")
			}
			if _, ok := d.(*many); ok {
				if from, to := received.service(probed), received.service(stored); from != "picket-prober" || to != "picket-writer" {
					t.Errorf("probed by %q, stored by %q", from, to)
				}
			}
			seq := number(stored, "picket.sequence")
			names := query[string](t, d, `
				SELECT s.name FROM server_health_checks h JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
				WHERE h.stream_seq = $1`, seq)
			if len(names) != 1 || names[0] != "good" {
				t.Errorf("the row of message %d is of %q, want one of good", seq, names)
			}

			eventually(t, "a trace to an alert", func() error {
				if len(received.children("fold", "probe", "gone")) == 0 {
					return errors.New("no span fold below a span probe")
				}
				return nil
			})
		})
	}
}
