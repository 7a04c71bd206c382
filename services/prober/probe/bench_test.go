package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const healthBody = `{"status":"ok","host":"srv-004217.eu-west.example.net","service":"checkout","version":"2.14.3","counters":{"requests":18234411,"errors":12,"queue_depth":3,"connections":118},"last_write_at":"2026-11-21T18:22:25.123456Z"}`

// leanServer answers every request with healthBody and as little work as it can:
// what is measured is the client.
func leanServer(b *testing.B) string {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(healthBody)) + "\r\n\r\n" + healthBody)
	return listen(b, func(c peer) {
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) > 2 {
					continue
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	})
}

// reportCPU reports the CPU time per operation, of client and server together:
// on a machine with other work it means more than the time on the wall.
func reportCPU(b *testing.B) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	b.Cleanup(func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") })
}

// BenchmarkBareLoop is the yardstick of BenchmarkHTTPProbe: what anybody would
// write with net/http to ask the same target and decode the same body.
func BenchmarkBareLoop(b *testing.B) {
	url := "http://" + leanServer(b) + "/health"
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	b.ReportAllocs()
	reportCPU(b)
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			b.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		var v struct {
			Status   string             `json:"status"`
			Counters map[string]float64 `json:"counters"`
		}
		body, err := io.ReadAll(response.Body)
		if err == nil {
			err = json.Unmarshal(body, &v)
		}
		response.Body.Close()
		cancel()
		if err != nil || v.Status != "ok" {
			b.Fatal(err, v)
		}
	}
}

func BenchmarkHTTPProbe(b *testing.B) {
	for _, connection := range []string{"keep-alive", "fresh"} {
		b.Run(connection, func(b *testing.B) {
			p := compileHTTP(b, newPool(b, PoolOptions{}), &picketv1.HTTPSpec{Url: "http://" + leanServer(b) + "/health", Connection: connection})
			b.ReportAllocs()
			reportCPU(b)
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
				r := p.Probe(ctx)
				cancel()
				if r.GetStatus() != picketv1.Status_STATUS_HEALTHY || len(r.GetCounters()) != 4 {
					b.Fatal(r)
				}
			}
		})
	}
}
