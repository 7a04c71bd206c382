package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober"
)

const (
	slot    = 10 * time.Millisecond
	workers = 64
)

func connect(ctx context.Context, url, name string) (*bus.Conn, error) {
	conn, err := bus.Connect(bus.Options{URL: url, Name: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := conn.WaitConnected(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func checkID(i int) string { return fmt.Sprintf("0190f3c4-0000-7000-8000-%012d", i) }

func serverName(i int) string { return fmt.Sprintf("sim-%06d", i) }

// writeCatalog makes the streams, and puts a check for each URL where the catalog service would.
func writeCatalog(ctx context.Context, nats string, urls []string, interval time.Duration, fresh bool) error {
	conn, err := connect(ctx, nats, "bench")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 1 << 30}); err != nil {
		return err
	}
	bucket, err := conn.CatalogBucket(ctx)
	if err != nil {
		return err
	}
	connection := "keep-alive"
	if fresh {
		connection = "fresh"
	}
	checks := make(map[string]proto.Message, len(urls))
	for i, url := range urls {
		id := checkID(i)
		checks[bus.CatalogKey("default", "local", id)] = &picketv1.ScheduledCheck{
			Server: serverName(i), Org: "default", Location: "local", Lifecycle: "active",
			Check: &picketv1.Check{
				Name: "health", Kind: "http", Id: id, Serial: int64(i), Revision: 1, TimeoutMs: interval.Milliseconds() * 9 / 10,
				Schedules: []*picketv1.Schedule{{
					Revision: 1, IntervalMs: interval.Milliseconds(), EffectiveAt: timestamppb.New(time.Now().Add(-time.Hour)),
				}},
				Spec: &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: url, Connection: connection}},
			},
		}
	}
	return bucket.PutAll(ctx, checks)
}

// runBare is the least that can look at the targets: one shared transport, a few
// goroutines, fixed phases released in slots, and the body decoded.
func runBare(ctx context.Context, s spec) (part, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 2, DisableKeepAlives: s.Fresh}
	client := &http.Client{Transport: transport}
	var done, failed atomic.Int64
	jobs := make(chan string, len(s.URLs))
	for range workers {
		go func() {
			for url := range jobs {
				if err := ask(ctx, client, url); err != nil {
					failed.Add(1)
				}
				done.Add(1)
			}
		}()
	}
	return doing(ctx, done.Load, func(ctx context.Context) error {
		defer close(jobs)
		pace(ctx, s, len(s.URLs), func(i int) { jobs <- s.URLs[i] })
		if n := failed.Load(); n > 0 {
			return fmt.Errorf("%d requests failed", n)
		}
		return nil
	}, transport.CloseIdleConnections), nil
}

func ask(ctx context.Context, client *http.Client, url string) error {
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

// publishing is the role of something that makes messages and publishes them.
func publishing(ctx context.Context, s spec, checks int, message func(i, round int, at time.Time, instance string) bus.Message) (part, error) {
	conn, err := connect(ctx, s.NATS, s.Role)
	if err != nil {
		return part{}, err
	}
	publisher := bus.NewPublisher(conn, bus.PublisherOptions{})
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- publisher.Run(running) }()
	instance := fmt.Sprintf("bench-%d", os.Getpid())
	sent := 0
	return doing(ctx, func() int64 { return publisher.Stats().Acknowledged }, func(ctx context.Context) error {
		pace(ctx, s, checks, func(i int) {
			publisher.Enqueue(message(i, sent/checks, time.Now(), instance))
			sent++
		})
		drain, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return publisher.Drain(drain)
	}, func() {
		stop()
		<-ended //nolint:errcheck // it ended by that
	}, conn.Close), nil
}

// runPublish publishes one result for each probe there would be, and does nothing else.
func runPublish(ctx context.Context, s spec) (part, error) {
	return publishing(ctx, s, s.Servers, func(i, _ int, at time.Time, instance string) bus.Message {
		m := healthy(subject{checkID(i), serverName(i)}, at, instance)
		m.ID = fmt.Sprintf("%s/%s/%d", instance, checkID(i), at.UnixNano())
		return m
	})
}

// healthy is the message of a good result as a prober makes it.
func healthy(of subject, at time.Time, instance string) bus.Message {
	scheduled := at.Truncate(time.Millisecond)
	return bus.Message{
		Subject: bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", of.Server, "health"),
		ID:      fmt.Sprintf("%s/local/%d", of.ID, scheduled.UnixMilli()), Time: at,
		Payload: &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_HEALTHY, Server: of.Server, Check: "health", LatencyUs: 412, HttpStatus: 200,
			ScheduledAt: timestamppb.New(scheduled), Location: "local", Org: "default", Kind: "http", CheckId: of.ID, Revision: 1,
			Instance: instance, StartedAt: timestamppb.New(at), ConnectionReused: true,
		},
	}
}

// runProber is Picket's prober as it is.
func runProber(ctx context.Context, s spec) (part, error) {
	instance := fmt.Sprintf("bench-%d", os.Getpid())
	conn, err := bus.Connect(bus.Options{URL: s.NATS, Name: instance, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return part{}, err
	}
	kit := &service.Kit{
		Name: "prober", Instance: instance, Location: "local", Version: "bench", Started: time.Now(),
		Log: slog.New(slog.DiscardHandler), Metrics: service.NewRegistry(), Health: service.NewHealth(),
	}
	p, err := prober.New(prober.DefaultConfig(), prober.Deps{Kit: kit, Conn: conn})
	if err != nil {
		return part{}, err
	}
	finally := []func(){conn.Close}
	if s.Profile != "" {
		file, err := os.Create(s.Profile)
		if err != nil {
			return part{}, fmt.Errorf("profile: %w", err)
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return part{}, fmt.Errorf("profile: %w", err)
		}
		finally = append(finally, pprof.StopCPUProfile, func() { _ = file.Close() }) // a profile cut short does not read
	}
	return doing(ctx, func() int64 { return counter(kit, "fleet_events_published_total") }, p.Run, finally...), nil
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

// pace calls release for every one of n once an interval, in slots, until ctx ends.
func pace(ctx context.Context, s spec, n int, release func(int)) {
	ticker := time.NewTicker(slot)
	defer ticker.Stop()
	start, released := time.Now(), 0
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		due := int(float64(time.Since(start)) / float64(s.Interval) * float64(n))
		for ; released < due; released++ {
			release(released % n)
		}
	}
}

// probing is a prober in a process of its own that looks at a fleet, with the NATS server it publishes to.
type probing struct {
	*child
	nats *child
}

// startProber starts a NATS server and a prober for the fleet.
func (b *bench) startProber(ctx context.Context, name string, urls []string, interval time.Duration, fresh bool) (*probing, error) {
	url, nats, err := b.startNATS(ctx, name)
	if err != nil {
		return nil, err
	}
	p := &probing{nats: nats}
	if err = writeCatalog(ctx, url, urls, interval, fresh); err == nil {
		p.child, err = b.start(ctx, spec{Role: "prober", NATS: url}, &struct{}{})
	}
	if err != nil {
		nats.stop()
		return nil, err
	}
	return p, nil
}

func (p *probing) stop() {
	p.child.stop()
	p.nats.stop()
}
