package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/picketd/picket/test/fleetsim"
)

// The program starts, says where it is, answers there, and reports when it is told to end.
func TestRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages, write := io.Pipe()
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--servers", "3", "--degraded", "1", "--admin", "127.0.0.1:0"}, &out, write)
		_ = write.Close() // never fails
	}()
	line := make([]byte, 1024)
	n, err := messages.Read(line)
	if err != nil {
		t.Fatal(err, <-ended)
	}
	found := regexp.MustCompile(`3 servers from (\S+) to \S+, admin (\S+)\n`).FindStringSubmatch(string(line[:n]))
	if found == nil {
		t.Fatalf("got %q", line[:n])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	for _, url := range []string{found[1], found[2] + "/report"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", url, response.Status)
		}
		response.Body.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var report fleetsim.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v in %q", err, &out)
	}
	if report.Requests != 1 || report.Servers[0].Behaviour != fleetsim.Degraded {
		t.Errorf("got %+v", report)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--print-config", "--servers", "2", "--listen-port", "18080", "--interval", "7s"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"interval: 7s", "http://127.1.0.1:18080/health", "http://127.1.0.2:18080/health"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &out)
		}
	}
	if err := run(t.Context(), []string{"--nonsense"}, &out, io.Discard); !errors.Is(err, errUsage) {
		t.Errorf("got %v", err)
	}
	if err := run(t.Context(), []string{"--help"}, &out, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
	if err := run(t.Context(), []string{"--servers", "0"}, &out, io.Discard); err == nil {
		t.Error("a fleet of no servers")
	}
	if err := run(t.Context(), []string{"--admin", "127.0.0.1:none"}, &out, io.Discard); err == nil {
		t.Error("a bad admin address")
	}
}
