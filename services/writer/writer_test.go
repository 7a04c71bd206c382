package writer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// consumer is the state of the durable of results, as the server sees it.
func (w *world) consumer() *server.ConsumerInfo { return w.consumerOf(bus.StreamEvents, Durable) }

func (w *world) consumerOf(stream, durable string) *server.ConsumerInfo {
	w.t.Helper()
	state, err := w.nats.Server().Jsz(&server.JSzOptions{Streams: true, Consumer: true})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, account := range state.AccountDetails {
		for _, detail := range account.Streams {
			for _, consumer := range detail.Consumer {
				if detail.Name == stream && consumer.Name == durable {
					return consumer
				}
			}
		}
	}
	return &server.ConsumerInfo{}
}

func (w *world) allAcked() bool {
	info := w.consumer()
	return info.NumPending == 0 && info.NumAckPending == 0 && info.AckFloor.Stream > 0
}

func TestWriterStoresAndAcks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	one := w.start("one", w.database.URL)
	other := w.start("other", w.database.URL)
	now := time.Now()
	const ticks, checks = 5, 400
	for i := range ticks {
		w.publish(results(checks, now.Add(time.Duration(i-ticks)*time.Second)))
	}
	// What is not a result is acknowledged as well.
	w.publish([]bus.Message{{Subject: bus.ClockSubject, Time: now, Payload: &picketv1.ClockTick{At: timestamppb.New(now)}}})
	w.until("every message to be acknowledged", w.allAcked)
	rows := w.history()
	if len(rows) != ticks*checks {
		t.Errorf("%d rows, want %d", len(rows), ticks*checks)
	}
	info, err := w.bus.StreamInfo(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row.StreamEpoch != info.Epoch() || row.StreamSeq < 1 || row.StreamSeq > ticks*checks || row.Server != "checkout" {
			t.Fatalf("row %+v", row)
		}
	}
	// Again, as after a lost acknowledgement: other messages, same identities.
	again := results(checks, now.Add(-time.Second))
	for i := range again {
		again[i].ID += "/again"
	}
	w.publish(again)
	w.until("every message to be acknowledged", w.allAcked)
	if rows := w.history(); len(rows) != ticks*checks {
		t.Errorf("%d rows after the same results again, want %d", len(rows), ticks*checks)
	}
	for _, r := range []*running{one, other} {
		if err := r.kit.Health.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	}
	total := counter(t, one, "fleet_writer_rows_total") + counter(t, other, "fleet_writer_rows_total")
	doubles := counter(t, one, "fleet_writer_rows_deduplicated_total") + counter(t, other, "fleet_writer_rows_deduplicated_total")
	if total != ticks*checks || doubles != checks {
		t.Errorf("metrics say %v rows and %v doubles, want %d and %d", total, doubles, ticks*checks, checks)
	}
}

// counter is a metric about results: of their table, or of their consumer.
func counter(t *testing.T, r *running, name string) float64 {
	t.Helper()
	return metricOf(t, r, name, "server_health_checks", Durable)
}

// metricOf is the value, or the count, of the series of a metric that has one of the labels, 0 where there is none yet.
func metricOf(t *testing.T, r *running, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.kit.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if len(m.GetLabel()) > 0 && !slices.Contains(labels, m.GetLabel()[0].GetValue()) {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return 0
}

func TestWriterDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	now := time.Now()
	messages := results(50, now)
	ancient := result(1, time.Unix(0, 0))
	zero := result(1000, now)
	zero.Message = "a \x00 in the middle"
	mismatched := asMessage(result(1, now.Add(time.Second)))
	mismatched.Subject = strings.Replace(mismatched.Subject, ".default.", ".other.", 1)
	mismatched.ID += "mismatched"
	unreadable := bus.Message{Subject: asMessage(result(2, now)).Subject, Time: now, Payload: &picketv1.WorkerStatus{Service: "x"}}
	messages = append(messages, asMessage(ancient), asMessage(zero), mismatched, unreadable)
	w.publish(messages)
	w.start("one", w.database.URL)
	w.until("every message to be acknowledged", w.allAcked)
	if rows := w.history(); len(rows) != 50 {
		t.Errorf("%d rows, want 50: bad messages take no good ones with them", len(rows))
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
				if letter.GetConsumer() != Durable || letter.GetStream() != bus.StreamEvents || len(letter.GetPayload()) == 0 || letter.GetError() == "" {
					t.Errorf("dead letter %v", letter)
				}
			}
			if reasons[bus.ReasonContract]+reasons[bus.ReasonUnreadable]+reasons[bus.ReasonRefused] >= 4 {
				return errEnough
			}
			return nil
		},
	})
	if !errors.Is(err, errEnough) {
		t.Errorf("dead letters: %v", err)
	}
	if reasons[bus.ReasonRefused] != 1 || reasons[bus.ReasonContract]+reasons[bus.ReasonUnreadable] != 3 || reasons[bus.ReasonContract] < 2 {
		t.Errorf("reasons %v", reasons)
	}
}

var errEnough = errors.New("enough")

// TestWriterFrozenDatabase: accepts, never answers. Nothing is acknowledged meanwhile, readiness says so within two
// seconds, and everything is there afterwards.
func TestWriterFrozenDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	proxy := embeddedtest.FaultProxy(t, w.database.Server)
	r := w.start("one", w.database.Via(proxy.Addr()))
	now := time.Now()
	w.publish(results(10, now.Add(-time.Minute)))
	w.until("the first rows", w.allAcked)

	before := w.consumer().AckFloor.Stream
	proxy.Freeze()
	frozen := time.Now()
	w.publish(results(500, now))
	w.until("readiness to say so", func() bool { return r.kit.Health.Ready() != nil })
	if took := time.Since(frozen); took > 2*time.Second+500*time.Millisecond {
		t.Errorf("readiness took %v to say so, promised 2s", took)
	}
	// Longer than the deadline of a transaction, so that the batch in hand is given up at least once.
	timer := time.NewTimer(store.TxTimeout + 2*time.Second)
	defer timer.Stop()
	<-timer.C
	if info := w.consumer(); info.AckFloor.Stream != before {
		t.Errorf("acknowledged up to %d while the database was frozen, was %d", info.AckFloor.Stream, before)
	}
	w.publish(results(500, now.Add(time.Second)))
	proxy.Thaw()
	w.until("every message to be acknowledged", w.allAcked)
	if rows := w.history(); len(rows) != 1010 {
		t.Errorf("%d rows, want 1010", len(rows))
	}
	w.until("readiness to return", func() bool { return r.kit.Health.Ready() == nil })
}

// TestWriterCutConnections cuts every connection to the database again and again while results come.
func TestWriterCutConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	proxy := embeddedtest.FaultProxy(t, w.database.Server)
	w.start("one", w.database.Via(proxy.Addr()), func(c *Config) { c.BatchRows = 200 })
	w.start("other", w.database.Via(proxy.Addr()), func(c *Config) { c.BatchRows = 200 })
	const rounds, checks = 20, 250
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
		w.publish(results(checks, start.Add(time.Duration(i)*time.Second)))
	}
	close(stop)
	group.Wait()
	w.until("every message to be acknowledged", w.allAcked)
	if rows := w.history(); len(rows) != rounds*checks {
		t.Errorf("%d rows, want %d", len(rows), rounds*checks)
	}
}

// TestWriterRecordsHoles: what the stream discarded while no writer was there becomes a gap.
func TestWriterRecordsHoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{MaxBytes: 256 << 10})
	first := w.start("one", w.database.URL)
	start := time.Now()
	w.publish(results(20, start))
	w.until("the first rows", w.allAcked)
	first.stop()
	for i := range 20 {
		w.publish(results(100, start.Add(time.Duration(i+1)*time.Second)))
	}
	w.start("two", w.database.URL)
	var gaps []store.StreamGap
	w.until("the gap", func() bool {
		var err error
		gaps, err = w.store.Gaps(t.Context(), bus.StreamEvents, Durable, start.Add(-time.Hour), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return len(gaps) > 0 && w.allAcked()
	})
	gap := gaps[0]
	rows := w.history()
	if gap.FromSeq != 21 || gap.Reason != "overrun" || gap.From.After(gap.To) || gap.From.Before(start.Add(-time.Minute)) {
		t.Errorf("gap %+v", gap)
	}
	if lost := int(gap.ToSeq - gap.FromSeq + 1); len(rows)+lost != 2020 || lost == 0 {
		t.Errorf("%d rows and a gap of %d, want 2020 together", len(rows), lost)
	}
}

// TestWriterNewStream: an event stream that was made anew is another epoch and a gap, and is read from its start.
func TestWriterNewStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	w.start("one", w.database.URL)
	now := time.Now()
	w.publish(results(10, now))
	w.until("the first rows", w.allAcked)
	old := w.history()[0].StreamEpoch

	address := strings.TrimPrefix(w.nats.ClientURL(), "nats://")
	w.nats.Stop()
	w.nats = embeddedtest.NATSServer(t, embedded.NATSOptions{Listen: address})
	if err := w.bus.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.until("the streams", func() bool { return w.bus.EnsureStreams(t.Context(), w.limits) == nil })
	w.publish(results(10, now.Add(time.Second)))
	w.until("the rows of the new stream", func() bool { return len(w.history()) == 20 })
	epochs := map[int64]int{}
	for _, row := range w.history() {
		epochs[row.StreamEpoch]++
	}
	if len(epochs) != 2 || epochs[old] != 10 {
		t.Errorf("rows by epoch %v, the old one is %d", maps.Collect(maps.All(epochs)), old)
	}
	gaps, err := w.store.Gaps(t.Context(), bus.StreamEvents, Durable, now.Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil || len(gaps) != 1 || gaps[0].Reason != "recreated" || gaps[0].StreamEpoch != old {
		t.Errorf("gaps %+v, %v", gaps, err)
	}
}

func TestWriterHeartbeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	heard := make(chan *picketv1.WorkerStatus, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		watched <- w.bus.WatchWorkers(ctx, "writer", "local", func(status *picketv1.WorkerStatus) { heard <- status })
	}()
	r := w.start("one", w.database.URL)
	w.publish(results(30, time.Now()))
	for status := range heard {
		if status.GetInstance() != "one" || !status.GetRunning() {
			t.Errorf("heartbeat %v", status)
		}
		if status.GetReady() && status.GetPerformed() == 30 && status.GetSuccessful() == 30 {
			break
		}
	}
	r.stop()
	for status := range heard {
		if !status.GetRunning() {
			break // the goodbye
		}
	}
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
}

// TestWriterWaitsForTheSchema: a database that nobody has migrated yet is not ready, and is no reason to end.
func TestWriterWaitsForTheSchema(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	empty := embeddedtest.Postgres(t).URL
	w.store = w.open(empty)
	r := w.start("one", empty)
	w.publish(results(10, time.Now()))
	w.until("readiness to say so", func() bool { return errors.Is(r.kit.Health.Ready(), store.ErrNoSchema) })
	if err := w.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.until("every message to be acknowledged", w.allAcked)
	w.until("readiness", func() bool { return r.kit.Health.Ready() == nil })
	if rows := w.history(); len(rows) != 10 {
		t.Errorf("%d rows, want 10", len(rows))
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{}.Validate()
	for _, name := range []string{
		"PICKET_WRITER_BATCH_ROWS", "PICKET_WRITER_BATCH_WAIT", "PICKET_WRITER_STATE_FLUSH",
		"METRICS_COLLECTION_INTERVAL", "PICKET_RETENTION_RESULTS", "PICKET_RETENTION_METRICS:", "PICKET_RETENTION_METRICS_5M",
		"PICKET_RETENTION_METRICS_1H", "PICKET_RETENTION_METRICS_1D", "PICKET_RETENTION_SYSTEM_METRICS:",
		"PICKET_RETENTION_SYSTEM_METRICS_HOURLY", "PICKET_RETENTION_ALERTS", "PICKET_RETENTION_GAPS", "PICKET_RETENTION_AUDIT",
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// TestWriterShowsThatItCannotStore: readiness is about the work, not only about an answer of the database.
func TestWriterShowsThatItCannotStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	r := w.start("one", w.database.URL)
	w.publish(results(1, time.Now()))
	w.until("the first row", func() bool { return len(w.history()) == 1 })
	w.exec(`ALTER TABLE check_states RENAME TO elsewhere`)
	w.publish(results(3, time.Now()))
	w.until("the writer to say that it cannot store", func() bool {
		err := r.kit.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "storing")
	})
	w.exec(`ALTER TABLE elsewhere RENAME TO check_states`)
	w.until("the rows", func() bool { return len(w.history()) >= 3 })
	w.until("the writer to be ready again", func() bool { return r.kit.Health.Ready() == nil })
}

// TestInHandWhenTheStreamIsMadeAnew: a batch that came from the old stream is of the old one, whenever it is stored, and the
// gap reaches until the new stream was there: what the old one took behind that batch is lost.
func TestInHandWhenTheStreamIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, bus.StreamLimits{})
	service, _ := w.service("one")
	info, err := w.bus.StreamInfo(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	const old = 42
	r, stored := &service.results.reader, info.Created.Add(-5*time.Second).Truncate(time.Microsecond)
	r.position.resume(store.Position{Epoch: old, Seq: 10, At: stored})
	inHand := &bus.Msg{Sequence: 11, Deliveries: 1, Time: info.Created.Add(-3 * time.Second)}
	life, err := r.streamLife(t.Context(), []*bus.Msg{inHand})
	if err != nil {
		t.Fatal(err)
	}
	if got := life.of(inHand); got != old {
		t.Errorf("what was in hand is of %d", got)
	}
	if got := life.of(&bus.Msg{Sequence: 1, Time: info.Created.Add(time.Millisecond)}); got != info.Epoch() {
		t.Errorf("what came after is of %d", got)
	}
	gaps, err := w.store.Gaps(t.Context(), bus.StreamEvents, Durable, stored.Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil || len(gaps) != 1 {
		t.Fatalf("gaps %+v, %v", gaps, err)
	}
	if gap := gaps[0]; !gap.From.Equal(stored) || gap.To.Sub(info.Created).Abs() > time.Millisecond || gap.StreamEpoch != old {
		t.Errorf("gap %+v, want one from %s to %s", gap, stored, info.Created)
	}
	// It is told once.
	if _, err := r.streamLife(t.Context(), []*bus.Msg{{Sequence: 1, Deliveries: 1, Time: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	if gaps, err = w.store.Gaps(t.Context(), bus.StreamEvents, Durable, stored.Add(-time.Hour), time.Now().Add(time.Hour)); err != nil || len(gaps) != 1 {
		t.Errorf("gaps %+v, %v", gaps, err)
	}
}
