package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober"
	"github.com/picketd/picket/test/fleetsim"
)

const (
	slot    = 10 * time.Millisecond
	workers = 64
)

func serveNATS(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "picket-bench-")
	if err != nil {
		return fmt.Errorf("make a store: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	nats, err := embedded.StartNATS(ctx, embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: dir})
	if err != nil {
		return err
	}
	defer nats.Stop()
	if _, err := fmt.Fprintln(out, nats.ClientURL()); err != nil {
		return fmt.Errorf("say the address: %w", err)
	}
	<-ctx.Done()
	return nil
}

func serveFleet(ctx context.Context, o options, out io.Writer) error {
	fleet, err := fleetsim.Start(ctx, fleetsim.Options{Servers: o.Targets, Format: fleetsim.Pulse})
	if err != nil {
		return err
	}
	urls := make([]string, fleet.Len())
	for i := range urls {
		urls[i] = fleet.URL(i)
	}
	if err = json.NewEncoder(out).Encode(urls); err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, fleet.Stop())
}

// targets reads the URLs of the fleet.
func targets(o options) ([]string, error) {
	data, err := os.ReadFile(o.URLs)
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	var urls []string
	if err := json.Unmarshal(data, &urls); err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	return urls, nil
}

func connect(o options, name string) (*bus.Conn, error) {
	return bus.Connect(bus.Options{URL: o.NATS, Name: name, Log: slog.New(slog.DiscardHandler)})
}

// writeCatalog puts the checks where the catalog service would.
func writeCatalog(ctx context.Context, o options) error {
	urls, err := targets(o)
	if err != nil {
		return err
	}
	conn, err := connect(o, "bench")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.WaitConnected(ctx); err != nil {
		return err
	}
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 1 << 30}); err != nil {
		return err
	}
	bucket, err := conn.CatalogBucket(ctx)
	if err != nil {
		return err
	}
	connection := "keep-alive"
	if o.Fresh {
		connection = "fresh"
	}
	checks := make(map[string]proto.Message, o.Targets)
	for i := range o.Targets {
		id := fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i)
		checks[bus.CatalogKey("default", "local", id)] = &picketv1.ScheduledCheck{
			Server: fmt.Sprintf("sim-%06d", i), Org: "default", Location: "local", Lifecycle: "active",
			Check: &picketv1.Check{
				Name: "health", Kind: "http", Id: id, Serial: int64(i), Revision: 1,
				TimeoutMs: o.Interval.Milliseconds() * 9 / 10,
				Schedules: []*picketv1.Schedule{{
					Revision: 1, IntervalMs: o.Interval.Milliseconds(), EffectiveAt: timestamppb.New(time.Now().Add(-time.Hour)),
				}},
				Spec: &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: urls[i], Connection: connection}},
			},
		}
	}
	return bucket.PutAll(ctx, checks)
}

// runBare is the least that can look at the targets: one shared transport, a few
// goroutines, fixed phases released in slots, and the body decoded.
func runBare(ctx context.Context, o options) (figure, error) {
	urls, err := targets(o)
	if err != nil {
		return figure{}, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 2, DisableKeepAlives: o.Fresh}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var done, failed atomic.Int64
	jobs := make(chan string, o.Targets)
	defer close(jobs)
	for range workers {
		go func() {
			for url := range jobs {
				if err := look(ctx, client, url); err != nil && ctx.Err() == nil {
					failed.Add(1)
				}
				done.Add(1)
			}
		}()
	}
	f, err := measure(ctx, o, done.Load, func(ctx context.Context) error {
		return pace(ctx, o, func(i int) { jobs <- urls[i] })
	})
	if n := failed.Load(); err == nil && n > 0 {
		err = fmt.Errorf("%d requests failed", n)
	}
	return f, err
}

func look(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was read to its end
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var body struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || body.Status == "" {
		return fmt.Errorf("status %d %q", response.StatusCode, body.Status)
	}
	return nil
}

// runPublish publishes one result for each probe there would be, and does nothing else.
func runPublish(ctx context.Context, o options) (figure, error) {
	conn, err := connect(o, "publish")
	if err != nil {
		return figure{}, err
	}
	defer conn.Close()
	if err := conn.WaitConnected(ctx); err != nil {
		return figure{}, err
	}
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- publisher.Run(running) }()
	defer func() { stop(); <-ended }() //nolint:errcheck // Run returns nil when it is stopped
	process := fmt.Sprintf("bench-%d", os.Getpid())
	send := func(i int) {
		now := time.Now()
		id := fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i)
		server := fmt.Sprintf("sim-%06d", i)
		publisher.Enqueue(bus.Message{
			Subject: bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "health"),
			ID:      fmt.Sprintf("%s/%s/%d", process, id, now.UnixNano()), Time: now,
			Payload: &picketv1.ProbeResult{
				Status: picketv1.Status_STATUS_HEALTHY, Server: server, Check: "health", LatencyUs: 412, HttpStatus: 200,
				ScheduledAt: timestamppb.New(now), Location: "local", Org: "default", Kind: "http", CheckId: id, Revision: 1,
				Instance: process, StartedAt: timestamppb.New(now), ConnectionReused: true,
			},
		})
	}
	return measure(ctx, o, func() int64 { return publisher.Stats().Acknowledged }, func(ctx context.Context) error {
		return pace(ctx, o, send)
	})
}

// runProber is Picket's prober as it is.
func runProber(ctx context.Context, o options) (figure, error) {
	instance := fmt.Sprintf("bench-%d", os.Getpid())
	conn, err := connect(o, instance)
	if err != nil {
		return figure{}, err
	}
	defer conn.Close()
	kit := &service.Kit{
		Name: "prober", Instance: instance, Location: "local", Version: "bench", Started: time.Now(),
		Log: slog.New(slog.DiscardHandler), Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	p, err := prober.New(prober.DefaultConfig(), prober.Deps{Kit: kit, Conn: conn})
	if err != nil {
		return figure{}, err
	}
	count := func() int64 { return counter(kit, "fleet_events_published_total") }
	if o.Profile != "" {
		file, err := os.Create(o.Profile)
		if err != nil {
			return figure{}, fmt.Errorf("profile: %w", err)
		}
		defer func() { _ = file.Close() }() // a profile cut short does not read
		if err := pprof.StartCPUProfile(file); err != nil {
			return figure{}, fmt.Errorf("profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	return measure(ctx, o, count, p.Run)
}

func counter(kit *service.Kit, name string) int64 {
	families, err := kit.Metrics.Gather()
	if err != nil {
		return 0
	}
	var sum float64
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return int64(sum)
}

// pace calls release for every target once an interval, in slots.
func pace(ctx context.Context, o options, release func(int)) error {
	ticker := time.NewTicker(slot)
	defer ticker.Stop()
	start, released := time.Now(), 0
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		due := int(float64(time.Since(start)) / float64(o.Interval) * float64(o.Targets))
		for ; released < due; released++ {
			release(released % o.Targets)
		}
	}
}

// measure runs work until it has measured its CPU time per counted thing, which
// it does once it is warm.
func measure(ctx context.Context, o options, count func() int64, work func(context.Context) error) (f figure, err error) {
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- work(working) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if err := wait(ctx, o.Warm); err != nil {
		return figure{}, err
	}
	start, startCPU, startCount := time.Now(), cpu(), count()
	if err := wait(ctx, o.Measure); err != nil {
		return figure{}, err
	}
	n := count() - startCount
	used, passed := cpu()-startCPU, time.Since(start)
	if n == 0 {
		return figure{}, errors.New("nothing was done in the time of the measurement")
	}
	return figure{
		MicrosPerProbe: float64(used.Microseconds()) / float64(n), Rate: float64(n) / passed.Seconds(), RSSMiB: rss(),
	}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cpu is the CPU time, user and system, of this process so far.
func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// rss is the largest resident memory of this process so far, in MiB.
func rss() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return float64(usage.Maxrss) / 1024
}
