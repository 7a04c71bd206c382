package system_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// observer looks on at what a deployment publishes, from any time on, through lost connections too.
type observer struct {
	mu      sync.Mutex
	results []*picketv1.ProbeResult
	alerts  []*picketv1.AlertEvent
}

// observe follows the two streams from their start.
func observe(t *testing.T, d deployment) *observer {
	t.Helper()
	o := &observer{}
	conn := connect(t, d)
	ctx, stop := context.WithCancel(context.Background())
	var following sync.WaitGroup
	follow := func(stream string, handle func(*bus.Msg)) {
		following.Go(func() {
			next := uint64(1)
			for ctx.Err() == nil {
				err := conn.Follow(ctx, bus.FollowOptions{
					Stream: stream, From: next, MaxBatch: 500, MaxWait: 10 * time.Millisecond,
					Handle: func(_ context.Context, batch []*bus.Msg) error {
						for _, msg := range batch {
							handle(msg)
							next = msg.Sequence + 1
						}
						return nil
					},
				})
				if err != nil && ctx.Err() == nil {
					_ = conn.WaitConnected(ctx)
				}
			}
		})
	}
	follow(bus.StreamEvents, func(msg *bus.Msg) {
		if subject, err := bus.ParseSubject(msg.Subject); err != nil || subject.Family != bus.FamilyProbe {
			return
		}
		result := &picketv1.ProbeResult{}
		if err := msg.Decode(result); err != nil {
			t.Errorf("result on %s: %v", msg.Subject, err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.results = append(o.results, result)
	})
	follow(bus.StreamAlerts, func(msg *bus.Msg) {
		event := &picketv1.AlertEvent{}
		if err := msg.Decode(event); err != nil {
			t.Errorf("alert event on %s: %v", msg.Subject, err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.alerts = append(o.alerts, event)
	})
	t.Cleanup(func() { stop(); following.Wait() })
	return o
}

// latest returns the newest result of a server's check.
func (o *observer) latest(server, check string) *picketv1.ProbeResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range slices.Backward(o.results) {
		if r.GetServer() == server && r.GetCheck() == check {
			return r
		}
	}
	return nil
}

// transitions returns what happened to alerts of a server, in order.
func (o *observer) transitions(server string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var words []string
	for _, event := range o.alerts {
		if event.GetServer() == server {
			words = append(words, event.GetTransition())
		}
	}
	return words
}

// incident returns what happened to the alert of a server's check `health`, in order.
func (o *observer) incident(server string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var words []string
	for _, event := range o.alerts {
		if event.GetServer() == server && event.GetFingerprint() == "system-health:"+server && event.GetTransition() != "updated" {
			words = append(words, event.GetTransition())
		}
	}
	return words
}

func (o *observer) event(server, transition string) *picketv1.AlertEvent {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, event := range o.alerts {
		if event.GetServer() == server && event.GetTransition() == transition {
			return event
		}
	}
	return nil
}

// awaitStatus waits for a result of the check `health` with the status, of a tick after the given time.
func (o *observer) awaitStatus(t *testing.T, server string, status picketv1.Status, after time.Time) *picketv1.ProbeResult {
	t.Helper()
	var latest *picketv1.ProbeResult
	eventually(t, fmt.Sprintf("%s is %s", server, status), func() error {
		latest = o.latest(server, "health")
		if latest == nil {
			return errors.New("no result at all")
		}
		if latest.GetStatus() != status || !latest.GetScheduledAt().AsTime().After(after) {
			return fmt.Errorf("newest result: %v", latest)
		}
		return nil
	})
	return latest
}

// target is a server that can be stopped and started again where it was.
type target struct {
	t       *testing.T
	address string
	server  *http.Server
}

func newTarget(t *testing.T) *target {
	t.Helper()
	tg := &target{t: t, address: freeAddress(t)}
	tg.start()
	t.Cleanup(tg.stop)
	return tg
}

func (tg *target) url() string { return "http://" + tg.address }

func (tg *target) start() {
	tg.t.Helper()
	listener, err := net.Listen("tcp", tg.address)
	if err != nil {
		tg.t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	})}
	tg.server = server
	go func() { _ = server.Serve(listener) }()
}

func (tg *target) stop() { _ = tg.server.Close() }

// query asks the database one thing, as an operator would.
func query[T any](t *testing.T, d deployment, sql string, args ...any) []T {
	t.Helper()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, d.databaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}

// audit computes every tick due since from, and wants a row or an explanation
// for each: no tick lost silently, none that was not due. It returns what it counted.
func audit(t *testing.T, d deployment, o *observer, from time.Time) store.Coverage {
	t.Helper()
	until := time.Now()
	settle(t, d, until)
	coverage, findings, err := openStore(t, d).Audit(testContext(t), store.CoverageFilter{}, from, until, 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("audit: %+v", coverage)
	if coverage.Unexplained != 0 || coverage.Undue != 0 {
		for _, finding := range findings {
			t.Logf("finding: %+v\n%s", finding, o.around(finding.Server, finding.At))
		}
		t.Errorf("%d due ticks without row or explanation, %d rows that were not due", coverage.Unexplained, coverage.Undue)
	}
	if coverage.Due == 0 {
		t.Error("nothing was due: the audit audits nothing")
	}
	return coverage
}

// auditFigures wants the figures of every collection whose result says that there were some; audit has been there before.
// That none is doubled the key of the table sees to: figures of what was never due are what could slip in.
func auditFigures(t *testing.T, d deployment) {
	t.Helper()
	until := query[time.Time](t, d, "SELECT now() - interval '10 s'")[0] // since then either has the other in flight
	settle(t, d, until)
	conn := connect(t, d)
	info, err := conn.StreamInfo(testContext(t), bus.StreamMetrics)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the writer has acknowledged all figures so far", func() error {
		floor, err := conn.AckFloor(testContext(t), bus.StreamMetrics, "writer-metrics")
		if err == nil && floor < info.LastSeq {
			err = fmt.Errorf("acknowledged up to %d of %d", floor, info.LastSeq)
		}
		return err
	})
	const of = `
		SELECT s.name || ' at ' || h.scheduled_at FROM server_health_checks h JOIN checks c ON c.id = h.check_id
		JOIN managed_servers s ON s.id = c.server_id
		WHERE c.kind = 'metrics' AND h.status = 1 AND NOT h.missed AND h.scheduled_at < $1`
	const there = `(SELECT FROM server_metrics_aggregated m
		WHERE m.check_id = h.check_id AND m.location = h.location AND m.scheduled_at = h.scheduled_at)`
	if n := query[int64](t, d, `SELECT count(*) FROM (`+of+`) collections`, until)[0]; n == 0 {
		t.Error("nothing was collected: the audit of figures audits nothing")
	} else {
		t.Logf("audit of figures: %d collections", n)
	}
	for _, lost := range query[string](t, d, of+` AND NOT EXISTS `+there+` LIMIT 20`, until) {
		t.Errorf("collected, and its figures are not stored: %s", lost)
	}
	for _, undue := range query[string](t, d, `
		SELECT m.check_id || ' at ' || m.scheduled_at FROM server_metrics_aggregated m
		WHERE NOT m.on_demand AND m.scheduled_at < $1 AND NOT EXISTS (SELECT FROM server_health_checks h
			WHERE h.check_id = m.check_id AND h.location = m.location
			AND h.scheduled_at <= m.scheduled_at AND coalesce(h.missed_until, h.scheduled_at) >= m.scheduled_at) LIMIT 20`, until) {
		t.Errorf("figures without a result or a marker: %s", undue)
	}
}

// around tells what was published of a server near an instant.
func (o *observer) around(server string, at time.Time) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b strings.Builder
	for _, r := range o.results {
		if r.GetServer() == server && r.GetScheduledAt().AsTime().Sub(at).Abs() < 15*time.Second {
			fmt.Fprintf(&b, "    %s %s %s by %s\n", r.GetScheduledAt().AsTime().Format("15:04:05.000"), r.GetStatus(), r.GetReason(), r.GetInstance())
		}
	}
	return b.String()
}

// settle waits until every check has a stored tick after until, so that
// everything before has had its chance.
func settle(t *testing.T, d deployment, until time.Time) {
	t.Helper()
	eventually(t, "everything before the end of the audit is stored", func() error {
		behind := query[string](t, d, `
			SELECT s.name || '/' || c.name FROM checks c JOIN managed_servers s ON s.id = c.server_id
			WHERE c.removed_at IS NULL AND s.lifecycle <> 'inactive' AND NOT EXISTS (
				SELECT FROM server_health_checks h
				WHERE h.check_id = c.id AND (h.scheduled_at > $1 OR h.missed_until > $1))
			LIMIT 5`, until)
		if len(behind) > 0 {
			return fmt.Errorf("still behind: %v", behind)
		}
		return nil
	})
	// A batch that died with its writer comes again when its time to be acknowledged is over.
	conn := connect(t, d)
	info, err := conn.StreamInfo(testContext(t), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the writer has acknowledged everything before the end of the audit", func() error {
		floor, err := conn.AckFloor(testContext(t), bus.StreamEvents, "writer")
		if err == nil && floor < info.LastSeq {
			err = fmt.Errorf("acknowledged up to %d of %d", floor, info.LastSeq)
		}
		return err
	})
}
