package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// serverVariable makes this test program a NATS server with its store in the
// directory that it names, so that the CPU time of a benchmark is its own.
const serverVariable = "PICKET_BUS_BENCH_SERVER"

func serve(dir string) error {
	server, err := embedded.StartNATS(context.Background(), embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: dir})
	if err != nil {
		return err
	}
	defer server.Stop()
	if _, err := fmt.Fprintln(os.Stdout, server.ClientURL()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the benchmark is over
	return err
}

// serverApart starts a server in a process of its own and returns its address.
func serverApart(b *testing.B) string {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serverVariable+"="+b.TempDir())
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
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func benchConn(b *testing.B, url string) *bus.Conn {
	b.Helper()
	conn, err := bus.Connect(bus.Options{URL: url, Name: "bench", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	if err := conn.WaitConnected(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := conn.EnsureStreams(b.Context(), bus.StreamLimits{MaxBytes: 1 << 30}); err != nil {
		b.Fatal(err)
	}
	return conn
}

// cpuTime is the CPU time, user and system, of this process so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measureCPU reports the CPU time of this process for each of n messages.
func measureCPU(b *testing.B, n *int, work func()) {
	b.Helper()
	before := cpuTime(b)
	work()
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(*n), "cpu-µs/msg")
}

// benchMessage is a healthy result as a prober writes it.
func benchMessage(i int, run int64) bus.Message {
	now := time.Now()
	id := fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i%1000)
	server := fmt.Sprintf("sim-%06d", i%1000)
	return bus.Message{
		Subject: bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "health"),
		ID:      fmt.Sprintf("%d/%s/%d", run, id, i), Time: now,
		Payload: &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_HEALTHY, Server: server, Check: "health", LatencyUs: 412, HttpStatus: 200,
			ScheduledAt: timestamppb.New(now), Location: "local", Org: "default", Kind: "http", CheckId: id, Revision: 1,
			Instance: "bench", StartedAt: timestamppb.New(now), ConnectionReused: true,
		},
	}
}

// plainMessage is the same without package bus.
func plainMessage(b *testing.B, m bus.Message) *nats.Msg {
	b.Helper()
	data, err := wire.AppendJSON(nil, m.Payload)
	if err != nil {
		b.Fatal(err)
	}
	return &nats.Msg{Subject: m.Subject, Data: data, Header: nats.Header{
		"Content-Type": {wire.ContentTypeJSON}, "Nats-Msg-Id": {m.ID}, "ce-id": {m.ID}, "ce-specversion": {"1.0"},
		"ce-type": {"picket.v1.ProbeResult"}, "ce-source": {"picket/bench"}, "ce-time": {m.Time.UTC().Format(time.RFC3339Nano)},
	}}
}

// inSlots calls send a thousand times a second, in slots of ten milliseconds, as
// the schedule of a prober does.
func inSlots(n int, send func(i int)) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	start := time.Now()
	for sent := 0; sent < n; {
		<-ticker.C
		for due := min(n, int(time.Since(start)/time.Millisecond)); sent < due; sent++ {
			send(sent)
		}
	}
}

// spread calls send a thousand times a second, as answers of targets come.
func spread(n int, send func(i int)) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := range n {
		<-ticker.C
		send(i)
	}
}

func atOnce(n int, send func(i int)) {
	for i := range n {
		send(i)
	}
}

// BenchmarkPublish compares the publisher with the client alone: the same
// messages, acknowledged, at the pace of a prober and as fast as it goes.
func BenchmarkPublish(b *testing.B) {
	url := serverApart(b)
	conn := benchConn(b, url)
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	for _, pace := range []struct {
		name string
		run  func(n int, send func(i int))
	}{{"slots", inSlots}, {"spread", spread}, {"saturated", atOnce}} {
		b.Run(pace.name+"/publisher", func(b *testing.B) {
			publisher := bus.NewPublisher(conn, bus.PublisherOptions{MaxBytes: 1 << 30})
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- publisher.Run(ctx) }()
			run := time.Now().UnixNano()
			measureCPU(b, &b.N, func() {
				pace.run(b.N, func(i int) { publisher.Enqueue(benchMessage(i, run)) })
				if err := publisher.Drain(b.Context()); err != nil {
					b.Fatal(err)
				}
			})
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
		b.Run(pace.name+"/nothing", func(b *testing.B) {
			run := time.Now().UnixNano()
			measureCPU(b, &b.N, func() { pace.run(b.N, func(i int) { benchMessage(i, run) }) })
		})
		b.Run(pace.name+"/plain", func(b *testing.B) {
			run := time.Now().UnixNano()
			measureCPU(b, &b.N, func() {
				pace.run(b.N, func(i int) {
					if i%4096 == 4095 {
						<-js.PublishAsyncComplete()
					}
					if _, err := js.PublishMsgAsync(plainMessage(b, benchMessage(i, run))); err != nil {
						b.Fatal(err)
					}
				})
				<-js.PublishAsyncComplete()
			})
		})
	}
}

// BenchmarkReceive is what a message costs on its way from the stream to the
// handler, at the pace of three thousand a second in batches.
func BenchmarkReceive(b *testing.B) {
	url := serverApart(b)
	conn := benchConn(b, url)
	feed := func(b *testing.B) {
		b.Helper()
		// The feeder is a process of its own, too: see TestMain.
		self, err := os.Executable()
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.CommandContext(b.Context(), self)
		cmd.Env = append(os.Environ(), feederVariable+"="+url, fmt.Sprintf("%s=%d", feederCount, b.N))
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Wait() })
	}
	receive := func(b *testing.B, open func(ctx context.Context, handle func(context.Context, []*bus.Msg) error) error) {
		b.Helper()
		var got atomic.Int64
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		feed(b)
		measureCPU(b, &b.N, func() {
			_ = open(ctx, func(_ context.Context, batch []*bus.Msg) error {
				if got.Add(int64(len(batch))) >= int64(b.N) {
					cancel()
				}
				return nil
			})
		})
	}
	b.Run("consume", func(b *testing.B) {
		receive(b, func(ctx context.Context, handle func(context.Context, []*bus.Msg) error) error {
			return conn.Consume(ctx, bus.ConsumeOptions{
				Stream: bus.StreamEvents, Durable: "bench", MaxBatch: 5000, MaxWait: 20 * time.Millisecond,
				Handle: handle, Available: func(context.Context) error { return nil },
			})
		})
	})
	b.Run("follow", func(b *testing.B) {
		info, err := conn.StreamInfo(b.Context(), bus.StreamEvents)
		if err != nil {
			b.Fatal(err)
		}
		receive(b, func(ctx context.Context, handle func(context.Context, []*bus.Msg) error) error {
			return conn.Follow(ctx, bus.FollowOptions{
				Stream: bus.StreamEvents, From: info.LastSeq + 1, MaxBatch: 5000, MaxWait: 20 * time.Millisecond, Handle: handle,
			})
		})
	})
}

// The feeder publishes feederCount messages to the server at feederVariable, three thousand a second.
const (
	feederVariable = "PICKET_BUS_BENCH_FEED"
	feederCount    = "PICKET_BUS_BENCH_COUNT"
)

func feeder(url string) error {
	var n int
	if _, err := fmt.Sscan(os.Getenv(feederCount), &n); err != nil {
		return err
	}
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	run := time.Now().UnixNano()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	start := time.Now()
	for sent := 0; sent < n; {
		<-ticker.C
		for due := min(n, int(3*time.Since(start)/time.Millisecond)); sent < due; sent++ {
			m := benchMessage(sent, run)
			data, err := wire.AppendJSON(nil, m.Payload)
			if err != nil {
				return err
			}
			if err := nc.PublishMsg(&nats.Msg{Subject: m.Subject, Data: data, Header: nats.Header{
				"Content-Type": {wire.ContentTypeJSON}, "Nats-Msg-Id": {m.ID},
			}}); err != nil {
				return err
			}
		}
	}
	return nc.Flush()
}
