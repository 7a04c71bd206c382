package collector

import (
	"bytes"
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/picketd/picket/internal/metric"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// nodeExporter starts Debian's node_exporter and returns where it shows its metrics.
func nodeExporter(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("prometheus-node-exporter")
	if err != nil {
		t.Skip("NOT TESTED: prometheus-node-exporter is not installed (apt-get install prometheus-node-exporter)")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, "--web.listen-address="+address)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	until(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "http://" + address + "/metrics"
}

// recorder hands on what a server answers, and keeps it.
type recorder struct {
	mu     sync.Mutex
	bodies [][]byte
	at     []time.Time
}

func (r *recorder) serve(t *testing.T, target string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	return serve(t, func(w http.ResponseWriter, asked *http.Request) {
		at := time.Now()
		request, err := http.NewRequestWithContext(asked.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Error(err)
			return
		}
		request.Header.Set("Accept", asked.Header.Get("Accept"))
		response, err := client.Do(request)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		if err != nil {
			t.Error(err)
			return
		}
		r.mu.Lock()
		r.bodies, r.at = append(r.bodies, data), append(r.at, at)
		r.mu.Unlock()
		w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
		_, _ = w.Write(data) // the collector is gone when it fails
	}).URL
}

var (
	sampleLine = regexp.MustCompile(`^([a-z_A-Z0-9:]+)(\{.*\})? (\S+)$`)
	noDisk     = regexp.MustCompile(`fstype="(tmpfs|ramfs|rootfs|devtmpfs|overlay|aufs|squashfs|erofs|cramfs|iso9660|udf|nsfs|autofs|fuse\.[^"]*)"`)
	noWire     = regexp.MustCompile(`device="(lo|(veth|docker|br-|virbr|vnet|tap|cni|cali|flannel|lxc|dummy)[^"]*)"`)
)

// lines are the samples of a body by a reader that is not ours: a regular expression over its lines.
func lines(t *testing.T, body []byte, name string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range bytes.Lines(body) {
		parts := sampleLine.FindStringSubmatch(strings.TrimSpace(string(line)))
		if parts == nil || parts[1] != name {
			continue
		}
		value, err := strconv.ParseFloat(parts[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		values[parts[2]] = value
	}
	return values
}

// What is collected from a real node_exporter is what its very answer says.
func TestNodeExporter(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	runner := compile(t, alone(t, defaults), scheduled(&picketv1.MetricsSpec{Url: r.serve(t, nodeExporter(t))}))
	result, first := collect(t, runner)
	if result.GetStatus() != picketv1.Status_STATUS_HEALTHY {
		t.Fatal(result)
	}
	if _, there := first.GetValues()[metric.CPUPercent]; there {
		t.Error("a rate was made of one collection")
	}
	begun := time.Now()
	until(t, func() bool { return time.Since(begun) > 2*time.Second })
	result, second := collect(t, runner)
	if result.GetStatus() != picketv1.Status_STATUS_HEALTHY {
		t.Fatal(result)
	}

	before, now := r.bodies[0], r.bodies[1]
	want := map[string]float64{}
	only := func(values map[string]float64) (value float64) {
		for _, v := range values {
			value = v
		}
		return value
	}
	want[metric.MemoryPercent] = 100 - 100*only(lines(t, now, "node_memory_MemAvailable_bytes"))/only(lines(t, now, "node_memory_MemTotal_bytes"))
	least := math.Inf(1)
	sizes := lines(t, now, "node_filesystem_size_bytes")
	for labels, free := range lines(t, now, "node_filesystem_avail_bytes") {
		if !noDisk.MatchString(labels) && sizes[labels] > 0 {
			least = min(least, free/sizes[labels])
		}
	}
	if !math.IsInf(least, 1) {
		want[metric.DiskPercent] = 100 - 100*least
	}
	for name, series := range map[string]string{
		metric.NetworkRxBytes: "node_network_receive_bytes_total", metric.NetworkTxBytes: "node_network_transmit_bytes_total",
	} {
		for labels, value := range lines(t, now, series) {
			if !noWire.MatchString(labels) {
				want[name] += value
			}
		}
	}
	idle, processors := 0.0, 0
	was := lines(t, before, "node_cpu_seconds_total")
	for labels, value := range lines(t, now, "node_cpu_seconds_total") {
		if strings.Contains(labels, `mode="idle"`) {
			idle += value - was[labels]
			processors++
		}
	}
	between := r.at[1].Sub(r.at[0]).Seconds()
	cpu := min(max(100-100*idle/float64(processors)/between, 0), 100)

	got := second.GetValues()
	// The collector's clock and the proxy's are a few milliseconds of two seconds apart.
	if math.Abs(got[metric.CPUPercent]-cpu) > 3 {
		t.Errorf("cpu_percent is %v, of the answers %v", got[metric.CPUPercent], cpu)
	}
	delete(got, metric.CPUPercent)
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-12, 0)); diff != "" {
		t.Error(diff)
	}
	if len(want) < 3 {
		t.Errorf("node_exporter shows too little to tell: %v", want)
	}
	t.Log(want, "cpu", cpu)
}
