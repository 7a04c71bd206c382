package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// register makes a server named as given and returns it.
func (w *world) register(name string, tags ...string) ServerDetail {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"name": name, "hostname": name, "api_url": "http://127.0.0.1:1", "api_token": "x-" + name, "tags": tags})
	if err != nil {
		w.t.Fatal(err)
	}
	var server ServerDetail
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", string(body)).into(w.t, &server)
	return server
}

// stored writes results of a server's check health, a second apart and the last at a time, one for each letter of HDCU.
func (w *world) stored(server ServerDetail, last time.Time, letters string) []store.Result {
	w.t.Helper()
	status := map[rune]picketv1.Status{'H': 1, 'D': 2, 'C': 3, 'U': 4}
	id := uuid.MustParse(checkNamed(w.t, server, "health").ID)
	rows := make([]store.Result, 0, len(letters))
	for i, letter := range letters {
		rows = append(rows, store.Result{
			CheckID: id, Location: "local", ScheduledAt: last.Add(time.Duration(i-len(letters)+1) * time.Second).Truncate(time.Millisecond),
			Org: "default", Server: server.Name, Check: "health", Kind: "http", Status: status[letter], Latency: 1500 * time.Microsecond,
			Revision: 1, Instance: "test", StreamEpoch: 1, StreamSeq: int64(i + 1), Message: fmt.Sprint("result ", i),
		})
	}
	w.write(rows)
	return rows
}

func (w *world) write(rows []store.Result) {
	w.t.Helper()
	if err := w.store.EnsurePartitions(w.t.Context(), time.Now()); err != nil {
		w.t.Fatal(err)
	}
	writer := w.store.NewResultWriter()
	if _, err := writer.LoadStates(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if _, err := writer.Write(w.t.Context(), rows, false); err != nil {
		w.t.Fatal(err)
	}
	if err := writer.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func TestHealthHistoryInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := w.register("checkout")
	w.stored(server, time.Now(), "HHDCUHH")
	var got []string
	path, pages := base+"/servers/"+server.ID+"/health-history?limit=3", 0
	for next := ""; ; {
		var page healthHistory
		w.must(http.StatusOK, w.admin, "GET", path+next, "").into(t, &page)
		for _, check := range page.Checks {
			got = append(got, check.Status)
		}
		if pages++; page.Next == "" || pages > 5 {
			break
		}
		next = "&cursor=" + page.Next
	}
	if want := "[healthy healthy unreachable critical degraded healthy healthy]"; fmt.Sprint(got) != want || pages != 3 {
		t.Errorf("%d pages of %v, want 3 of %s", pages, got, want)
	}
	var none healthHistory
	w.must(http.StatusOK, w.admin, "GET", base+"/servers/checkout/health-history?location=elsewhere", "").into(t, &none)
	if none.Count != 0 {
		t.Errorf("%d results of a location that has none", none.Count)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "GET", base+"/servers/checkout/health-history?limit=1001", "")
	w.must(http.StatusUnprocessableEntity, w.admin, "GET", path+"&cursor=bm9uc2Vuc2U", "")
	w.must(http.StatusUnprocessableEntity, w.admin, "GET", path+"&start_time=2026-01-02T00:00:00Z&end_time=2026-01-01T00:00:00Z", "")
	w.must(http.StatusNotFound, w.admin, "GET", base+"/servers/"+uuid.NewString()+"/health-history", "")
	w.must(http.StatusNotFound, w.token("other", store.Admin), "GET", base+"/servers/"+server.ID+"/health-history", "")
}

// TestAvailability: what was seen in maintenance is neither up nor down.
func TestAvailability(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := w.register("checkout")
	w.stored(server, time.Now().Add(2*time.Minute).Add(-150*time.Second), "HHHDCU")
	var got availabilityBody
	path := base + "/servers/checkout/availability?check=health"
	before := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	w.must(http.StatusOK, w.admin, "GET", path+"&start_time="+before, "").into(t, &got)
	// The server did not exist then: nothing says that it was in maintenance.
	if len(got.Checks) != 1 || got.Checks[0].Up != 4 || got.Checks[0].Down != 2 || got.Checks[0].Availability == nil {
		t.Fatalf("availability %+v", got.Checks)
	}
	if a := *got.Checks[0].Availability; a < 0.66 || a > 0.67 {
		t.Errorf("availability %v, want 4/6", a)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "GET", path+"&start_time=2020-01-01T00:00:00Z", "")
}

func TestSummary(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	up, down := w.register("up"), w.register("down")
	w.register("new")
	w.stored(up, time.Now(), "H")
	w.stored(down, time.Now(), "C")
	var got Summary
	w.must(http.StatusOK, w.token("default", store.Viewer), "GET", base+"/summary", "").into(t, &got)
	if got.TotalServers != 3 || got.HealthyServers != 1 || got.CriticalServers != 1 || got.UnknownServers != 1 || got.FreshServers != 2 ||
		got.NeverChecked != 1 || got.LLMCostUSDToday != "0" {
		t.Errorf("summary %+v", got)
	}
	var other Summary
	w.must(http.StatusOK, w.token("other", store.Viewer), "GET", base+"/summary", "").into(t, &other)
	if other.TotalServers != 0 {
		t.Errorf("another organization sees %d servers", other.TotalServers)
	}
}

func TestReadsOfFigures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("checkout")
	for _, path := range []string{
		"/servers/checkout/metrics", "/servers/checkout/metrics?period=5m", "/servers/checkout/metrics?period=1h", "/servers/checkout/metrics?period=1d",
		"/system-metrics", "/system-metrics?period=1h", "/system-metrics?rate=true&metric=connections&service=postgres", "/system-metrics/latest",
		"/cost", "/cost?by=group", "/cost?by=organization&daily=true", "/cost?by=day",
	} {
		w.must(http.StatusOK, w.admin, "GET", base+path, "")
	}
	for _, path := range []string{
		"/servers/checkout/metrics?period=2m", "/servers/checkout/metrics?limit=10001", "/system-metrics?rate=true&period=1h", "/cost?by=moon",
	} {
		w.must(http.StatusUnprocessableEntity, w.admin, "GET", base+path, "")
	}
}

// TestWorkersStatus: the seed's shape; figures of all replicas, which never fall.
func TestWorkersStatus(t *testing.T) {
	t.Parallel()
	database := migrated.Postgres(t).URL
	w := newWorldOn(t, database)
	beat := func(service, instance string, started, performed, successful int64, running bool) {
		t.Helper()
		err := w.conn.Heartbeat(&picketv1.WorkerStatus{
			Service: service, Instance: instance, Location: "local", Running: running, StartedAt: timestamppb.New(time.UnixMilli(started)),
			IntervalSeconds: 30, LastRun: timestamppb.New(time.Date(2026, 1, 26, 14, 30, 15, 123000000, time.UTC)), LastDurationSeconds: 2.344,
			Performed: performed, Successful: successful, Failed: performed - successful, Samples: 10,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	status := func() (got WorkersStatus) {
		t.Helper()
		w.must(http.StatusOK, w.admin, "GET", base+"/workers/status", "").into(t, &got)
		return got
	}
	w.waitFor("two probers", func() bool {
		beat("prober", "a", 1000, 1000, 960, true)
		beat("prober", "b", 2000, 250, 220, true)
		beat("collector", "c", 3000, 625, 610, true)
		got := status()
		return got.HealthWorker.Replicas == 2 && got.MetricsWorker.Replicas == 1
	})
	got := status().HealthWorker
	if !got.Running || got.ChecksPerformed != 1250 || got.ChecksSuccessful != 1180 || got.ChecksFailed != 70 || got.SuccessRate != 94.4 ||
		got.LastRun == nil || *got.LastRun != "2026-01-26T14:30:15.123000Z" || got.LastDurationSeconds != 2.34 || got.IntervalSeconds != 30 {
		t.Errorf("probers %+v", got)
	}
	if metrics := status().MetricsWorker; metrics.SuccessRate != 97.6 || metrics.TotalMetricsCollected != 10 {
		t.Errorf("collectors %+v", metrics)
	}
	// One is restarted and begins at zero; another says goodbye.
	w.waitFor("the restart", func() bool {
		beat("prober", "a", 5000, 3, 3, true)
		beat("prober", "b", 2000, 251, 221, false)
		got := status().HealthWorker
		return got.ChecksPerformed == 1254 && got.ChecksSuccessful == 1184
	})
	// So is the API.
	w.waitFor("the figures written down", func() bool {
		kept, err := w.store.WorkerTotals(t.Context())
		sum := int64(0)
		for _, k := range kept {
			if k.Service == "prober" {
				sum += k.Performed
			}
		}
		return err == nil && sum == 1254
	})
	w.must(http.StatusForbidden, w.token("default", store.Operator), "GET", base+"/workers/status", "")
	w.must(http.StatusUnauthorized, "", "GET", base+"/workers/status", "")
	w.stop()
	w = newWorldOn(t, database) // and nobody beats there
	if got := status().HealthWorker; got.ChecksPerformed != 1254 || got.Running || got.Replicas != 0 {
		t.Errorf("after a restart of the api: %+v", got)
	}
}

// TestMergedTotals: what is merged counts once, and goes on to count.
func TestMergedTotals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	totals := []store.WorkerTotals{{Service: "prober", Location: "local", Instance: "x", StartedAt: time.UnixMilli(1), Performed: 7, Successful: 5, Failed: 2}}
	for range 2 {
		if err := w.store.SaveWorkerTotals(t.Context(), totals); err != nil {
			t.Fatal(err)
		}
		if err := w.store.MergeWorkerTotals(t.Context(), -time.Second); err != nil {
			t.Fatal(err)
		}
		totals[0].Instance = "y"
	}
	kept, err := w.store.WorkerTotals(t.Context())
	if err != nil || len(kept) != 1 || kept[0].Performed != 14 || kept[0].Failed != 4 {
		t.Errorf("kept %+v, %v", kept, err)
	}
}

// serve plays a prober that runs what it is asked for.
func (w *world) serve(service string, handle func(*picketv1.RunRequest) *picketv1.RunReply) {
	w.t.Helper()
	ctx, done := w.background()
	go func() {
		defer close(done)
		if err := w.conn.Serve(ctx, service, "local", func(_ ctxt, r *picketv1.RunRequest) *picketv1.RunReply { return handle(r) }); err != nil {
			w.t.Error(err)
		}
	}()
}

func TestRunOnDemand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := w.register("checkout")
	w.register("billing")
	check := base + "/servers/" + server.ID + "/health-check"
	answer := w.must(http.StatusServiceUnavailable, w.admin, "POST", check, "")
	if answer.header.Get("Retry-After") == "" {
		t.Error("no Retry-After when nobody is there")
	}
	w.serve("prober", func(r *picketv1.RunRequest) *picketv1.RunReply {
		status := picketv1.Status_STATUS_HEALTHY
		if r.GetCheckId() == checkNamed(t, server, "health").ID {
			status = picketv1.Status_STATUS_CRITICAL
		}
		return &picketv1.RunReply{Result: &picketv1.ProbeResult{Status: status, CheckId: r.GetCheckId(), LatencyUs: 1500, ScheduledAt: timestamppb.Now()}}
	})
	w.waitFor("the prober", func() bool { return w.do(w.admin, "POST", check, "").status == http.StatusOK })
	var one ServerRun
	w.must(http.StatusOK, w.token("default", store.Operator), "POST", check, "").into(t, &one)
	if one.Status != "critical" || len(one.Results) != 1 || one.Results[0].ResponseTimeMS != 1.5 || one.Results[0].Check != "health" {
		t.Errorf("run %+v", one)
	}
	var all FleetRun
	w.must(http.StatusOK, w.admin, "POST", base+"/health-check/all", "").into(t, &all)
	if all.Total != 2 || all.Healthy != 1 || all.Critical != 1 || len(all.Results) != 2 {
		t.Errorf("all %+v", all)
	}
	w.serve("collector", func(r *picketv1.RunRequest) *picketv1.RunReply {
		return &picketv1.RunReply{
			Result:  &picketv1.ProbeResult{Status: picketv1.Status_STATUS_HEALTHY, CheckId: r.GetCheckId()},
			Metrics: &picketv1.MetricBatch{Values: map[string]float64{"cpu_percent": 12.5}},
		}
	})
	w.waitFor("the collector", func() bool {
		return w.do(w.admin, "POST", base+"/servers/checkout/metrics/collect", "").status == http.StatusOK
	})
	w.must(http.StatusForbidden, w.token("default", store.Viewer), "POST", check, "")
	w.must(http.StatusNotFound, w.token("other", store.Admin), "POST", check, "")
}

func TestRunRefused(t *testing.T) {
	t.Parallel()
	for refused, want := range map[string]int{
		bus.RefusedBusy: http.StatusServiceUnavailable, "unknown_check": http.StatusServiceUnavailable, "nonsense": http.StatusBadGateway,
	} {
		err := nothingRan([]Run{{Error: refusal(refused)}})
		problem, ok := errors.AsType[huma.StatusError](err)
		if !ok || problem.GetStatus() != want {
			t.Errorf("%s: %v, want %d", refused, err, want)
		}
	}
}
