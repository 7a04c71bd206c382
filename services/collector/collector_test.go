package collector

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const wait = 30 * time.Second

// keepsContract holds a batch to what whoever stores it takes.
func keepsContract(t *testing.T, m *bus.Msg, batch *picketv1.MetricBatch) {
	t.Helper()
	subject, err := bus.ParseSubject(m.Subject)
	if err == nil {
		err = bus.CheckMetrics(subject, batch, m.Time)
	}
	if err != nil {
		t.Errorf("%s: %v", m.Subject, err)
	}
}

// put declares a check that is due every second, unless it says otherwise.
func put(t *testing.T, conn *bus.Conn, check *picketv1.ScheduledCheck) {
	t.Helper()
	if check.GetCheck().GetSchedules() == nil {
		check.Check.Schedules = []*picketv1.Schedule{{Revision: 1, IntervalMs: 1000, EffectiveAt: timestamppb.New(time.Now().Add(-time.Minute))}}
	}
	bucket, err := conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Put(t.Context(), bus.CatalogKey(check.GetOrg(), check.GetLocation(), check.GetCheck().GetId()), check); err != nil {
		t.Fatal(err)
	}
}

func setStatus(t *testing.T, conn *bus.Conn, status picketv1.Status) {
	t.Helper()
	bucket, err := conn.StatusBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = bucket.Put(t.Context(), bus.StatusKey("default", "app"), &picketv1.ServerStatus{Status: status, Org: "default", Server: "app"})
	if err != nil {
		t.Fatal(err)
	}
}

// follow sends every message of a stream to a channel.
func follow(t *testing.T, conn *bus.Conn, stream string) <-chan *bus.Msg {
	t.Helper()
	out := make(chan *bus.Msg, 4096)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Follow(ctx, bus.FollowOptions{ // it ends with ctx
			Stream: stream, From: 1, MaxBatch: 64, MaxWait: 10 * time.Millisecond,
			Handle: func(_ context.Context, batch []*bus.Msg) error {
				for _, m := range batch {
					out <- m
				}
				return nil
			},
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

// next returns the first message that decodes into m and is wanted.
func next[M proto.Message](t *testing.T, messages <-chan *bus.Msg, m M, wanted func(*bus.Msg, M) bool) (*bus.Msg, M) {
	t.Helper()
	deadline := time.After(wait)
	for {
		select {
		case raw := <-messages:
			proto.Reset(m)
			if err := raw.Decode(m); err == nil && wanted(raw, m) {
				return raw, m
			}
		case <-deadline:
			t.Fatalf("no %T in %s", m, wait)
		}
	}
}

// What a server shows is in the metric stream when its result is in the event stream, under the same identity.
func TestCollectsOnSchedule(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	server := serve(t, body("application/json", currentJSON))
	check := scheduled(&picketv1.MetricsSpec{Url: server.URL})
	put(t, conn, check)
	other := proto.CloneOf(check)
	other.Check.Id, other.Check.Name, other.Check.Kind = "11111111-6c1a-4a3e-9d52-0f6a2f1d9b11", "health", "http"
	other.Check.Spec = &picketv1.Check_Http{Http: &picketv1.HTTPSpec{Url: server.URL}}
	put(t, conn, other)
	s, _ := start(t, conn, "collector-a", defaults)

	raw, result := next(t, follow(t, conn, bus.StreamEvents), &picketv1.ProbeResult{}, func(m *bus.Msg, _ *picketv1.ProbeResult) bool {
		if strings.HasSuffix(m.Subject, ".health") {
			t.Error("ran a check of another kind")
		}
		return strings.HasPrefix(m.Subject, "picket.default.probe.healthy.")
	})
	if raw.Subject != "picket.default.probe.healthy.local.app.metrics" || result.GetKind() != "metrics" || result.GetHttpStatus() != 200 {
		t.Errorf("%s %v", raw.Subject, result)
	}
	figures, batch := next(t, follow(t, conn, bus.StreamMetrics), &picketv1.MetricBatch{}, func(m *bus.Msg, _ *picketv1.MetricBatch) bool {
		return m.ID == raw.ID
	})
	keepsContract(t, figures, batch)
	if figures.Subject != "picket.default.metric.local.app" || !figures.Time.Before(raw.Time) {
		t.Errorf("%s at %s, result at %s", figures.Subject, figures.Time, raw.Time)
	}
	if !proto.Equal(batch.GetScheduledAt(), result.GetScheduledAt()) || batch.GetCheckId() != check.GetCheck().GetId() ||
		batch.GetServerId() != check.GetServerId() || batch.GetInstance() != "collector-a" || batch.GetValues()["cpu_percent"] != 12.5 {
		t.Errorf("%v", batch)
	}
	if err := s.kit.Health.Ready(); err != nil {
		t.Error(err)
	}
}

func TestCollectsOnDemand(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	server := serve(t, body("application/json", currentJSON))
	check := scheduled(&picketv1.MetricsSpec{Url: server.URL})
	put(t, conn, check)
	start(t, conn, "collector-a", defaults)
	metrics := follow(t, conn, bus.StreamMetrics)
	next(t, metrics, &picketv1.MetricBatch{}, func(_ *bus.Msg, b *picketv1.MetricBatch) bool { return b.GetServer() == "app" })

	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	reply := &picketv1.RunReply{}
	if err := conn.Request(ctx, "collector", "local", &picketv1.RunRequest{CheckId: check.GetCheck().GetId(), Actor: "me"}, reply); err != nil {
		t.Fatal(err)
	}
	if reply.GetRefused() != "" || reply.GetResult().GetStatus() != picketv1.Status_STATUS_HEALTHY || !reply.GetResult().GetOnDemand() {
		t.Fatalf("%v", reply)
	}
	if got := reply.GetMetrics(); got.GetValues()["llm_cost_usd"] != 0.000017 || got.GetExtra() == "" || !got.GetOnDemand() {
		t.Errorf("%v", got)
	}
	next(t, metrics, &picketv1.MetricBatch{}, func(_ *bus.Msg, b *picketv1.MetricBatch) bool {
		return b.GetOnDemand() && proto.Equal(b.GetScheduledAt(), reply.GetResult().GetScheduledAt())
	})
}

// Whatever replica is asked, and whenever, rates are in the answer: none has collected from this server before.
func TestCollectsRatesOnDemand(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	var requests atomic.Int64
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "# TYPE requests_total counter\nrequests_total %d\n", 1000*requests.Add(1)) // the client is gone when it fails
	})
	check := scheduled(&picketv1.MetricsSpec{
		Url: server.URL, Rules: []*picketv1.MetricRule{{Name: "requests", Series: "requests_total", Rate: true}},
	})
	check.Check.TimeoutMs = 5_000
	check.Check.Schedules = []*picketv1.Schedule{{Revision: 1, IntervalMs: 3_600_000, EffectiveAt: timestamppb.New(time.Now())}}
	put(t, conn, check)
	start(t, conn, "collector-a", defaults)
	start(t, conn, "collector-b", defaults)
	ask := func() (reply *picketv1.RunReply, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		reply = &picketv1.RunReply{}
		return reply, conn.Request(ctx, "collector", "local", &picketv1.RunRequest{CheckId: check.GetCheck().GetId(), Actor: "me"}, reply)
	}
	until(t, func() bool { _, err := ask(); return err == nil })
	for range 8 {
		reply, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		if reply.GetMetrics().GetValues()["requests"] <= 0 {
			t.Errorf("%v", reply)
		}
	}
}

// A server that is down is left alone, with a marker for each tick; one that comes back is collected from at once.
func TestLeavesServersAloneThatAreDown(t *testing.T) {
	t.Parallel()
	for _, status := range []picketv1.Status{picketv1.Status_STATUS_UNREACHABLE, picketv1.Status_STATUS_CRITICAL} {
		t.Run(status.String(), func(t *testing.T) {
			t.Parallel()
			conn := connect(t)
			var asked atomic.Int64
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				body("application/json", currentJSON)(w, r)
			})
			setStatus(t, conn, status)
			s, _ := start(t, conn, "collector-a", defaults)
			events := follow(t, conn, bus.StreamEvents)
			// The state is known before the check is.
			until(t, func() bool { return s.states.skipped() == 1 })
			check := scheduled(&picketv1.MetricsSpec{Url: server.URL})
			put(t, conn, check)
			check.Check.Schedules[0].IntervalMs = 1000
			reason := "missed_" + map[picketv1.Status]string{picketv1.Status_STATUS_UNREACHABLE: "unreachable", picketv1.Status_STATUS_CRITICAL: "critical"}[status]
			for range 2 {
				next(t, events, &picketv1.ProbeResult{}, func(_ *bus.Msg, r *picketv1.ProbeResult) bool { return r.GetReason() == reason })
			}
			if n := asked.Load(); n != 0 {
				t.Errorf("asked %d times while it was down", n)
			}
			setStatus(t, conn, picketv1.Status_STATUS_DEGRADED)
			next(t, events, &picketv1.ProbeResult{}, func(_ *bus.Msg, r *picketv1.ProbeResult) bool {
				return r.GetStatus() == picketv1.Status_STATUS_HEALTHY
			})
		})
	}
}

// At an interval at which nobody would wait for the next tick.
func TestCollectsAtOnceFromAServerThatIsBack(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	server := serve(t, body("application/json", currentJSON))
	setStatus(t, conn, picketv1.Status_STATUS_UNREACHABLE)
	s, _ := start(t, conn, "collector-a", defaults)
	events := follow(t, conn, bus.StreamEvents)
	until(t, func() bool { return s.states.skipped() == 1 })
	check := scheduled(&picketv1.MetricsSpec{Url: server.URL})
	put(t, conn, check)
	next(t, events, &picketv1.ProbeResult{}, func(_ *bus.Msg, r *picketv1.ProbeResult) bool { return r.GetReason() == "missed_unreachable" })
	// From here on the next tick is an hour away; the last one was skipped.
	slow := proto.CloneOf(check)
	slow.Check.Revision = 2
	slow.Check.Schedules = append(slow.Check.Schedules, &picketv1.Schedule{
		Revision: 2, IntervalMs: time.Hour.Milliseconds(), EffectiveAt: timestamppb.New(time.Now().Add(1500 * time.Millisecond)),
	})
	bucket, err := conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Put(t.Context(), bus.CatalogKey("default", "local", check.GetCheck().GetId()), slow); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return time.Since(slow.Check.Schedules[1].GetEffectiveAt().AsTime()) > time.Second })
	setStatus(t, conn, picketv1.Status_STATUS_HEALTHY)
	changed := time.Now()
	_, result := next(t, events, &picketv1.ProbeResult{}, func(_ *bus.Msg, r *picketv1.ProbeResult) bool {
		return r.GetStatus() == picketv1.Status_STATUS_HEALTHY
	})
	if took := result.GetStartedAt().AsTime().Sub(changed); took > 5*time.Second {
		t.Errorf("collected %s after it was back", took)
	}
}

// until polls what another goroutine brings about.
func until(t *testing.T, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(wait)
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("did not happen")
		}
	}
}

func TestStatesFollowTheBucket(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	s := states{down: map[string]*picketv1.ServerStatus{}}
	bucket, err := conn.StatusBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, status := range []picketv1.Status{1, 2, 3, 4, 5} {
		name := fmt.Sprintf("s%d", i+1)
		err := bucket.Put(t.Context(), bus.StatusKey("default", name), &picketv1.ServerStatus{Status: status, Org: "default", Server: name})
		if err != nil {
			t.Fatal(err)
		}
	}
	apply := func(complete bool, without ...string) []string {
		list, err := bucket.List(t.Context(), ">")
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range without {
			delete(list, key)
		}
		var batch []bus.Entry
		for _, entry := range list {
			batch = append(batch, entry)
		}
		var back []string
		for _, server := range s.apply(batch, complete, newKit("x").Log) {
			back = append(back, server.GetOrg()+"/"+server.GetServer())
		}
		return back
	}
	if back := apply(true); back != nil {
		t.Error(back)
	}
	got := map[string]string{}
	for _, name := range []string{"s1", "s2", "s3", "s4", "s5", "s6"} {
		if reason, skip := s.skip("default", name); skip {
			got[name] = reason
		}
	}
	// Unknown ones are collected from, those that nobody has heard of as well.
	if diff := cmp.Diff(map[string]string{"s3": "critical", "s4": "unreachable"}, got); diff != "" {
		t.Error(diff)
	}
	if _, skip := s.skip("other", "s3"); skip {
		t.Error("another organization's server is left alone")
	}
	if back := apply(false, "default.s4"); back != nil {
		t.Errorf("%v are back though nothing was said of them", back)
	}
	if diff := cmp.Diff([]string{"default/s4"}, apply(true, "default.s4")); diff != "" {
		t.Error(diff)
	}
	if err := bucket.Delete(t.Context(), "default.s3"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"default/s3"}, apply(true)); s.skipped() != 1 || diff != "" {
		t.Errorf("%d are skipped, %s", s.skipped(), diff)
	}
}

// Two replicas look at the streams, and the metric stream has one batch for each instant.
func TestMeasuresThePlatform(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	fast := func(c *Config) { c.PlatformInterval = time.Second }
	start(t, conn, "collector-a", fast)
	start(t, conn, "collector-b", fast)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	// A durable that has taken a message and holds it, and is to be given no other yet.
	reading, stopReading := context.WithCancel(ctx)
	taken, released := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(released)
		_ = conn.Consume(reading, bus.ConsumeOptions{ // it ends with reading
			Stream: bus.StreamEvents, Durable: "writer", MaxBatch: 1, MaxWait: 10 * time.Millisecond,
			Handle: func(ctx context.Context, _ []*bus.Msg) error {
				taken <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			},
			Available: func(context.Context) error { return nil },
			Log:       newKit("writer").Log,
		})
	}()
	t.Cleanup(func() { stopReading(); <-released })
	if _, err := conn.Publish(ctx, bus.Message{Subject: bus.ClockSubject, ID: "a", Time: time.Now(), Payload: &picketv1.ClockTick{}}); err != nil {
		t.Fatal(err)
	}
	<-taken
	messages := follow(t, conn, bus.StreamMetrics)
	seen := map[string]bool{}
	var batch *picketv1.MetricBatch
	for range 3 {
		var raw *bus.Msg
		raw, batch = next(t, messages, &picketv1.MetricBatch{}, func(*bus.Msg, *picketv1.MetricBatch) bool { return true })
		keepsContract(t, raw, batch)
		at := batch.GetScheduledAt().AsTime()
		if raw.Subject != "picket.default.metric.local._platform" || at.UnixMilli()%1000 != 0 || raw.ID != fmt.Sprintf("platform/collector/%d", at.UnixMilli()) {
			t.Errorf("%s %s %s", raw.Subject, raw.ID, at)
		}
		if seen[raw.ID] {
			t.Errorf("%s is there twice", raw.ID)
		}
		seen[raw.ID] = true
	}
	values := map[string]float64{}
	for _, sample := range batch.GetSamples() {
		if sample.GetService() != "nats" {
			t.Errorf("%v", sample)
		}
		values[strings.Join([]string{sample.GetName(), sample.GetTags()["stream"], sample.GetTags()["consumer"]}, " ")] = sample.GetValue()
	}
	info, err := conn.StreamInfo(ctx, bus.StreamMetrics)
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]func(float64) bool{
		"healthy  ":                             func(v float64) bool { return v == 1 },
		"stream_messages PICKET_EVENTS ":        func(v float64) bool { return v == 1 },
		"stream_bytes PICKET_EVENTS ":           func(v float64) bool { return v > 0 },
		"stream_bytes_limit PICKET_METRICS ":    func(v float64) bool { return v == float64(info.MaxBytes) },
		"stream_last_sequence PICKET_METRICS ":  func(v float64) bool { return v >= 1 && v <= float64(info.LastSeq) },
		"stream_first_sequence PICKET_METRICS ": func(v float64) bool { return v == 1 },
		"stream_messages PICKET_DEAD ":          func(v float64) bool { return v == 0 },
		"queue_depth PICKET_EVENTS writer":      func(v float64) bool { return v == 0 },
		"ack_pending PICKET_EVENTS writer":      func(v float64) bool { return v == 1 },
		"redelivered PICKET_EVENTS writer":      func(v float64) bool { return v == 0 },
	} {
		if value, there := values[name]; !there || !good(value) {
			t.Errorf("%q is %v", name, value)
		}
	}
	for name := range values {
		// Readers without a name of their own, as this test's, would make a new series each time that they come.
		if strings.HasPrefix(name, "queue_depth") && !strings.HasSuffix(name, " writer") {
			t.Errorf("%s is of a reader that will not come again", name)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	bad := Config{
		HostBatchSize: -1, HostBatchDelay: -1, CycleInterval: time.Microsecond, PlatformInterval: 1, MaxInFlight: -1,
		BodyMemory: -1, QueueBytes: 1,
	}
	err := bad.Validate()
	for _, name := range []string{
		"FLEET_METRICS_BATCH_SIZE", "FLEET_METRICS_BATCH_DELAY", "FLEET_METRICS_INTERVAL", "METRICS_COLLECTION_INTERVAL",
		"PICKET_COLLECTOR_CONCURRENCY", "PICKET_COLLECTOR_BODY_LIMIT", "PICKET_COLLECTOR_BODY_MEMORY",
		"PICKET_COLLECTOR_SERIES_LIMIT", "PICKET_COLLECTOR_QUEUE_BYTES",
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
}
