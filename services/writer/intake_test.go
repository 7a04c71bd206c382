package writer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// batchOf is what server n shows at a tick.
func batchOf(n int, at time.Time) *picketv1.MetricBatch {
	id := func(kind byte) string {
		return uuid.NewSHA1(uuid.NameSpaceOID, []byte{kind, byte(n >> 8), byte(n)}).String()
	}
	return &picketv1.MetricBatch{
		Org: "default", Location: "local", Server: fmt.Sprintf("server-%d", n), CheckId: id('c'), ServerId: id('s'),
		Instance: "collector-1", ScheduledAt: timestamppb.New(at.Truncate(time.Millisecond)),
		Values: map[string]float64{"cpu_percent": float64(n), "network_rx_bytes": 1000, "load1": 0.5}, Extra: `{"os":"linux"}`,
	}
}

func platformBatch(at time.Time) *picketv1.MetricBatch {
	return &picketv1.MetricBatch{
		Org: "default", Location: "local", Server: bus.PlatformServer, Instance: "collector-1",
		ScheduledAt: timestamppb.New(at.Truncate(time.Millisecond)),
		Samples:     []*picketv1.Sample{{Name: "stream_messages", Service: "nats", Value: 7, Tags: map[string]string{"stream": "PICKET_EVENTS"}}},
	}
}

func metricMessage(b *picketv1.MetricBatch) bus.Message {
	return bus.Message{
		Subject: bus.MetricSubject(b.GetOrg(), b.GetLocation(), b.GetServer()), Time: time.Now(), Payload: b,
		ID: fmt.Sprintf("%s/%s/%d", b.GetCheckId(), b.GetServer(), b.GetScheduledAt().AsTime().UnixMilli()),
	}
}

func batches(servers int, at time.Time) []bus.Message {
	messages := []bus.Message{metricMessage(platformBatch(at))}
	for n := range servers {
		messages = append(messages, metricMessage(batchOf(n, at)))
	}
	return messages
}

func (w *world) metricsAcked() bool {
	info := w.consumerOf(bus.StreamMetrics, MetricsDurable)
	return info.NumPending == 0 && info.NumAckPending == 0 && info.AckFloor.Stream > 0
}

// number is the answer to a query for one number.
func (w *world) number(sql string) int {
	w.t.Helper()
	conn := w.pgx()
	defer conn.Close(context.WithoutCancel(w.t.Context()))
	var n int
	if err := conn.QueryRow(w.t.Context(), sql).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

const (
	countMetrics = `SELECT count(*) FROM server_metrics_aggregated`
	// Not those that the writers sample themselves.
	countSamples = `SELECT count(*) FROM system_metrics WHERE service = 'nats'`
)

// quiet keeps a writer from sampling figures of its own.
func quiet(c *Config) { c.FiguresInterval = time.Hour }

func TestWriterStoresMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	one, other := w.start("one", w.database.URL, quiet), w.start("other", w.database.URL, quiet)
	now := time.Now()
	const ticks, servers = 4, 200
	for i := range ticks {
		w.publish(batches(servers, now.Add(time.Duration(i-ticks)*time.Second)))
	}
	w.until("every batch to be acknowledged", w.metricsAcked)
	again := batches(servers, now.Add(-time.Second))
	for i := range again {
		again[i].ID += "/again"
	}
	w.publish(again)
	w.until("every batch to be acknowledged", w.metricsAcked)
	if n := w.number(countMetrics); n != ticks*servers {
		t.Errorf("%d rows, want %d", n, ticks*servers)
	}
	if n := w.number(countSamples); n != ticks {
		t.Errorf("%d samples, want %d", n, ticks)
	}
	whole := w.number(countMetrics + ` WHERE network_rx_bytes = 1000 AND extra = '{"os": "linux", "load1": 0.5}' AND period = '1m' AND stream_seq > 0 AND stream_epoch > 0`)
	if whole != ticks*servers {
		t.Errorf("%d rows have everything, want %d", whole, ticks*servers)
	}
	both := func(name, label string) float64 {
		return metricOf(t, one, name, label) + metricOf(t, other, name, label)
	}
	for _, m := range []struct {
		name, label string
		want        float64
	}{
		// A message of samples counts as one that went in.
		{"fleet_writer_rows_total", "server_metrics_aggregated", ticks*servers + ticks + 1},
		{"fleet_writer_rows_total", "system_metrics", ticks},
		{"fleet_writer_rows_deduplicated_total", "server_metrics_aggregated", servers},
		{"fleet_end_to_end_latency_seconds", MetricsDurable, (ticks + 1) * (servers + 1)},
	} {
		if got := both(m.name, m.label); got != m.want {
			t.Errorf("%s{%s} is %v, want %v", m.name, m.label, got, m.want)
		}
	}
	if both("fleet_writer_batch_duration_seconds", MetricsDurable) == 0 || both("fleet_writer_last_commit_timestamp_seconds", MetricsDurable) < 1e9 {
		t.Error("no batch was measured")
	}
	for _, r := range []*running{one, other} {
		if err := r.kit.Health.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	}
}

// TestWriterMetricsDeadLetters: what is no batch, or against the contract, or refused by the database, is a dead letter
// of its own, and everything around it is stored.
func TestWriterMetricsDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	now := time.Now()
	messages := batches(50, now)
	bad := func(n int, change func(*picketv1.MetricBatch)) {
		b := batchOf(1000+n, now)
		subject := metricMessage(b).Subject
		change(b)
		message := metricMessage(b)
		message.Subject, message.ID = subject, fmt.Sprint("bad", n)
		messages = append(messages, message)
	}
	bad(1, func(b *picketv1.MetricBatch) { b.ScheduledAt = timestamppb.New(time.Unix(0, 0)) })
	bad(2, func(b *picketv1.MetricBatch) { b.Org = "other" })
	bad(3, func(b *picketv1.MetricBatch) { b.Extra = `{"a":1e999999999}` })
	bad(4, func(b *picketv1.MetricBatch) { b.Extra = `{"a":"\u0000"}` })
	bad(5, func(b *picketv1.MetricBatch) { b.Values["x"] = math.MaxFloat64; b.CheckId = "x" })
	messages = append(messages, bus.Message{
		Subject: metricMessage(batchOf(1, now)).Subject, ID: "unreadable", Time: now, Payload: &picketv1.WorkerStatus{Service: "x"},
	})
	w.publish(messages)
	w.start("one", w.database.URL, quiet)
	w.until("every batch to be acknowledged", w.metricsAcked)
	if n := w.number(countMetrics); n != 50 {
		t.Errorf("%d rows, want 50", n)
	}
	reasons := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := w.bus.Follow(ctx, bus.FollowOptions{
		Stream: bus.StreamDead, From: 1, MaxBatch: 10, MaxWait: 50 * time.Millisecond,
		Handle: func(_ context.Context, batch []*bus.Msg) error {
			for _, msg := range batch {
				letter := &picketv1.DeadLetter{}
				if err := msg.Decode(letter); err != nil {
					return err
				}
				reasons[letter.GetReason()]++
				if letter.GetConsumer() != MetricsDurable || letter.GetStream() != bus.StreamMetrics || len(letter.GetPayload()) == 0 {
					t.Errorf("dead letter %v", letter)
				}
			}
			if reasons[bus.ReasonContract]+reasons[bus.ReasonUnreadable]+reasons[bus.ReasonRefused] >= 6 {
				return errEnough
			}
			return nil
		},
	})
	if !errors.Is(err, errEnough) || reasons[bus.ReasonRefused] != 2 || reasons[bus.ReasonContract] < 3 {
		t.Errorf("dead letters: %v, %v", reasons, err)
	}
}

// TestWriterMetricsExactlyOnce cuts every connection to the database again and again while batches and results with
// counters come.
func TestWriterMetricsExactlyOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	proxy := embeddedtest.FaultProxy(t, w.database.Server)
	small := func(c *Config) { quiet(c); c.BatchRows = 100 }
	w.start("one", w.database.Via(proxy.Addr()), small)
	w.start("other", w.database.Via(proxy.Addr()), small)
	const rounds, servers = 15, 120
	start := time.Now().Add(-rounds * time.Second)
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				proxy.Cut()
			case <-stop:
				return
			}
		}
	})
	for i := range rounds {
		at := start.Add(time.Duration(i) * time.Second)
		w.publish(batches(servers, at))
		looks := make([]bus.Message, 0, servers)
		for n := range servers {
			r := result(n, at)
			r.Server, r.Counters = fmt.Sprintf("server-%d", n), map[string]float64{"received": float64(i), "queue": 1}
			looks = append(looks, asMessage(r))
		}
		w.publish(looks)
	}
	close(stop)
	group.Wait()
	w.until("everything to be acknowledged", func() bool { return w.metricsAcked() && w.allAcked() })
	if n := w.number(countMetrics); n != rounds*servers {
		t.Errorf("%d rows, want %d", n, rounds*servers)
	}
	if n := w.number(countSamples); n != rounds {
		t.Errorf("%d samples, want %d", n, rounds)
	}
	if n := w.number(`SELECT count(*) FROM system_metrics WHERE tags ->> 'check' = 'health' AND metric_name IN ('received', 'queue')`); n != 2*rounds*servers {
		t.Errorf("%d counters of results, want %d", n, 2*rounds*servers)
	}
	// What is read of them all is the same, by way of the roll-ups too.
	for _, view := range []string{"server_metrics_5m", "server_metrics_1h", "server_metrics_1d"} {
		if n := w.number(`SELECT sum(samples) FROM ` + view); n != rounds*servers {
			t.Errorf("%s has %d samples, want %d", view, n, rounds*servers)
		}
	}
}

// TestWriterMetricsHole: what the stream of metrics discarded while no writer was there becomes a gap, also for a writer
// that has no memory of the one before.
func TestWriterMetricsHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{MaxBytes: 256 << 10})
	first := w.start("one", w.database.URL, quiet)
	start := time.Now()
	w.publish(batches(20, start))
	w.until("the first rows", w.metricsAcked)
	first.stop()
	for i := range 20 {
		w.publish(batches(100, start.Add(time.Duration(i+1)*time.Second)))
	}
	w.start("two", w.database.URL, quiet)
	var gaps []store.StreamGap
	w.until("the gap", func() bool {
		var err error
		gaps, err = w.store.Gaps(t.Context(), bus.StreamMetrics, MetricsDurable, start.Add(-time.Hour), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return len(gaps) > 0 && w.metricsAcked()
	})
	gap := gaps[0]
	// Stored until the first writer stopped: that is where the gap begins.
	if gap.FromSeq != 22 || gap.Reason != "overrun" || gap.From.After(gap.To) || gap.From.Before(start.Add(-time.Minute)) {
		t.Errorf("gap %+v", gap)
	}
	rows := w.number(countMetrics) + w.number(countSamples)
	if lost := int(gap.ToSeq - gap.FromSeq + 1); rows+lost != 21+20*101 || lost == 0 {
		t.Errorf("%d rows and a gap of %d, want %d together", rows, lost, 21+20*101)
	}
}

// TestWriterFigures: of two writers one says how the database is, at each interval; the other goes on after it; and a
// database that was away is in the figures afterwards.
func TestWriterFigures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	proxy := embeddedtest.FaultProxy(t, w.database.Server)
	often := func(c *Config) { c.FiguresInterval = time.Second }
	one := w.start("one", w.database.Via(proxy.Addr()), often)
	two := w.start("two", w.database.Via(proxy.Addr()), often)
	healthy := func(value int) int {
		return w.number(fmt.Sprintf(`SELECT count(*) FROM system_metrics WHERE service = 'postgres' AND metric_name = 'healthy' AND value = %d`, value))
	}
	w.until("figures", func() bool { return healthy(1) >= 3 })
	names := w.number(`SELECT count(DISTINCT metric_name) FROM system_metrics WHERE service IN ('postgres', 'platform')
		AND metric_name IN ('connections', 'db_size_bytes', 'healthy', 'partitions_missing', 'devices_online', 'devices_stale', 'alerts_open',
		                    'alerts_pending', 'alerts_acknowledged', 'deliveries_pending', 'servers')`)
	if names != 11 {
		t.Errorf("%d of 11 names", names)
	}
	if n := w.number(`SELECT count(*) FROM (SELECT time, service, metric_name, tags FROM system_metrics WHERE metric_name <> 'servers' GROUP BY 1, 2, 3, 4 HAVING count(*) > 1) doubled`); n != 0 {
		t.Errorf("%d figures twice at one instant", n)
	}
	proxy.Freeze()
	info, err := w.bus.StreamInfo(t.Context(), bus.StreamMetrics)
	if err != nil {
		t.Fatal(err)
	}
	frozen := info.LastSeq
	w.until("the database to be reported", func() bool {
		info, err := w.bus.StreamInfo(t.Context(), bus.StreamMetrics)
		return err == nil && info.LastSeq >= frozen+3
	})
	proxy.Thaw()
	w.until("the outage to be stored", func() bool { return healthy(0) >= 1 })
	// Whoever had the lease stops; the other one has it at once.
	one.stop()
	before := healthy(1)
	w.until("the other one's figures", func() bool { return healthy(1) >= before+3 })
	two.stop()
}

// TestKeepUpTakesTurns: one of many does the work, what it began another goes on with, and a failure is no end.
func TestKeepUpTakesTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	var mu sync.Mutex
	working, most, runs := 0, 0, map[string]int{}
	start := func(name string) (stop func()) {
		svc, _ := w.service(name)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			svc.keepUp(ctx, upkeep{lease: "test", ttl: time.Minute, every: 5 * time.Millisecond, work: func(context.Context, store.Lease) error {
				mu.Lock()
				working++
				most = max(most, working)
				runs[name]++
				failed := runs[name]%2 == 0
				mu.Unlock()
				defer func() { mu.Lock(); working--; mu.Unlock() }()
				if failed {
					return store.ErrLeaseLost
				}
				return nil
			}})
		}()
		return func() { cancel(); <-done }
	}
	count := func(name string) int { mu.Lock(); defer mu.Unlock(); return runs[name] }
	stopOne := start("one")
	w.until("the first to work", func() bool { return count("one") >= 5 })
	stopTwo := start("two")
	at := count("one")
	w.until("the first to go on", func() bool { return count("one") >= at+10 })
	if n := count("two"); n != 0 {
		t.Errorf("the other worked %d times without the lease", n)
	}
	stopOne()
	w.until("the other to take over", func() bool { return count("two") >= 5 })
	stopTwo()
	if most != 1 {
		t.Errorf("%d worked at once", most)
	}
}

// TestUpkeepDoesItsWork: the roll-ups are made and what is too old is removed, by what the writer runs.
func TestUpkeepDoesItsWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	w.publish(batches(10, time.Now().Add(-3*time.Hour)))
	r := w.start("one", w.database.URL, quiet)
	w.until("the rows", w.metricsAcked)
	r.stop()
	w.exec(`INSERT INTO stream_gaps (stream, consumer, stream_epoch, from_seq, to_seq, from_time, to_time, reason)
		VALUES ('x', 'y', 1, 1, 1, now() - interval '401 days', now() - interval '401 days', 'overrun')`)
	w.start("two", w.database.URL, quiet)
	w.until("the old gap to go", func() bool { return w.number(`SELECT count(*) FROM stream_gaps`) == 0 })
	if mode, err := w.store.Mode(t.Context()); err != nil || mode != store.ModePlain {
		return // continuous aggregates refresh themselves
	}
	w.until("the roll-ups", func() bool { return w.number(`SELECT coalesce(sum(samples), 0) FROM server_metrics_1h_stored`) == 10 })
}

func FuzzDecodeMetric(f *testing.F) {
	for _, b := range []*picketv1.MetricBatch{batchOf(1, noon), platformBatch(noon)} {
		msg := metricMessage(b)
		data, err := proto.Marshal(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg.Subject, "application/protobuf", data)
	}
	f.Add("picket.x.metric.what.is.this", "", []byte("{"))
	f.Fuzz(func(t *testing.T, subject, contentType string, data []byte) {
		got, isMetric, err := decodeMetric(&bus.Msg{Subject: subject, ContentType: contentType, Data: data, Time: noon, Sequence: 1}, 1)
		if !isMetric || err != nil {
			return
		}
		if got.Org == "" || got.ScheduledAt.IsZero() || got.ScheduledAt.Before(noon.Add(-bus.MostLate)) ||
			(got.CheckID == uuid.Nil) != (len(got.Values) == 0 && got.Extra == nil && got.ServerID == uuid.Nil) {
			t.Errorf("let through %+v", got)
		}
	})
}
