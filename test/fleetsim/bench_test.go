package fleetsim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/picketd/picket/test/fleetsim"
)

// childVariable makes this test binary a fleet, so that its CPU time is its own.
const childVariable = "PICKET_FLEETSIM_TEST_CHILD"

const benchServers = 64

func child() {
	fleet, err := fleetsim.Start(context.Background(), fleetsim.Options{Servers: benchServers, Port: 0})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	admin := httptest.NewServer(fleet.Admin())
	fmt.Fprintln(os.Stdout, admin.URL, fleet.Addr(0))
	// Until the parent closes our input.
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// BenchmarkRequest measures the CPU time of the fleet for one request, over a kept connection and over a fresh one, in a
// process of its own: the metric cpu-µs/request. It must stay below 100, so that a prober can be measured beside it.
func BenchmarkRequest(b *testing.B) {
	b.Run("kept", func(b *testing.B) { benchmark(b, false) })
	b.Run("fresh", func(b *testing.B) { benchmark(b, true) })
}

func benchmark(b *testing.B, fresh bool) {
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	admin, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		b.Fatal(err)
	}

	requests := make(chan struct{}, 1024)
	var clients sync.WaitGroup
	for i := range benchServers {
		clients.Go(func() {
			var conn net.Conn
			buffer := make([]byte, 4096)
			for range requests {
				if conn == nil {
					var err error
					if conn, err = net.Dial("tcp", fmt.Sprintf("127.1.0.%d:%s", i+1, port)); err != nil {
						b.Error(err)
						return
					}
				}
				if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: fleet\r\nUser-Agent: picket\r\nAccept-Encoding: gzip\r\n\r\n"); err != nil {
					b.Error(err)
					return
				}
				// One small answer is one segment.
				if _, err := conn.Read(buffer); err != nil {
					b.Error(err)
					return
				}
				if fresh {
					conn.Close()
					conn = nil
				}
			}
			if conn != nil {
				conn.Close()
			}
		})
	}
	before := fetchReport(b, admin)
	for b.Loop() {
		requests <- struct{}{}
	}
	close(requests)
	clients.Wait()
	after := fetchReport(b, admin)
	n := after.Requests - before.Requests
	if n == 0 {
		b.Fatal("no request arrived")
	}
	micros := (after.CPUSeconds - before.CPUSeconds) * 1e6 / float64(n)
	b.ReportMetric(micros, "cpu-µs/request")
	if micros > 100 && n > 1000 {
		b.Errorf("a request costs %.0f µs of CPU, more than 100", micros)
	}
}

func fetchReport(b *testing.B, admin string) fleetsim.Report {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, admin+"/report", http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	var report fleetsim.Report
	if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
		b.Fatal(err)
	}
	return report
}
