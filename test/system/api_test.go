package system_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// person is somebody with a token.
type person struct {
	t     *testing.T
	d     deployment
	token string
}

func admin(t *testing.T, d deployment) *person {
	t.Helper()
	_, token := d.api()
	return &person{t: t, d: d, token: token}
}

// ask sends a request and returns the answer's code; into may be nil. It follows redirects.
func (p *person) ask(method, path string, body, into any) (code int, err error) {
	p.t.Helper()
	base, _ := p.d.api() // it may have been started anew elsewhere
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, base+"/api/v1/fleet"+path, content)
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if p.token != "" {
		request.Header.Set("Authorization", "Bearer "+p.token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, err
	}
	switch into := into.(type) {
	case nil:
	case *[]byte:
		*into = answer
	default:
		if err := json.Unmarshal(answer, into); err != nil {
			return response.StatusCode, fmt.Errorf("%s: %w", answer, err)
		}
	}
	if response.StatusCode >= 400 {
		return response.StatusCode, fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, answer)
	}
	return response.StatusCode, nil
}

func (p *person) must(method, path string, body, into any) {
	p.t.Helper()
	if _, err := p.ask(method, path, body, into); err != nil {
		p.t.Fatal(err)
	}
}

// workers is the shape of the source system's worker status.
type workers struct {
	HealthWorker struct {
		Running             bool    `json:"running"`
		Replicas            int     `json:"replicas"`
		IntervalSeconds     float64 `json:"interval_seconds"`
		ChecksPerformed     int64   `json:"checks_performed"`
		ChecksSuccessful    int64   `json:"checks_successful"`
		ChecksFailed        int64   `json:"checks_failed"`
		SuccessRate         float64 `json:"success_rate"`
		LastRun             string  `json:"last_run"`
		LastDurationSeconds float64 `json:"last_duration_seconds"`
	} `json:"health_worker"`
	MetricsWorker struct {
		Running               bool  `json:"running"`
		Replicas              int   `json:"replicas"`
		CollectionsPerformed  int64 `json:"collections_performed"`
		CollectionsSuccessful int64 `json:"collections_successful"`
		TotalMetricsCollected int64 `json:"total_metrics_collected"`
	} `json:"metrics_worker"`
}

const metricsBody = `{"cpu_percent": 12.5, "memory_percent": 40.25, "disk_percent": 71, "network_rx_bytes": 123456789, "network_tx_bytes": 987654321,
	"active_services": 7, "failed_services": 1, "total_services": 8, "llm_requests": 42, "llm_cost_usd": 1.25, "active_users": 3, "total_users": 11,
	"queue": 5, "build": "a1b2"}`

// TestPeople does, in every deployment, what people do: register a server that wants a token, look at it at once, read
// its figures and the workers', take an alert on, and export the history.
func TestPeople(t *testing.T) {
	t.Parallel()
	inAll(t, options{env: []string{"FLEET_HEALTH_INTERVAL=2", "FLEET_METRICS_INTERVAL=2", "FLEET_METRICS_BATCH_DELAY=0"}}, func(t *testing.T, d deployment, _ string) {
		const token = "what-the-server-wants"
		var broken atomic.Bool
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			switch {
			case r.Header.Get("Authorization") != "Bearer "+token:
				w.WriteHeader(http.StatusUnauthorized)
			case broken.Load():
				w.WriteHeader(http.StatusServiceUnavailable)
			case r.URL.Path == "/health":
				_, _ = io.WriteString(w, `{"status":"ok","counters":{"messages_received":5}}`)
			case r.URL.Path == "/api/v1/metrics/current":
				_, _ = io.WriteString(w, metricsBody)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(server.Close)

		me := admin(t, d)
		nobody := &person{t: t, d: d}
		if code, _ := nobody.ask(http.MethodGet, "/workers/status", nil, nil); code != http.StatusUnauthorized {
			t.Errorf("without a token: %d, want 401", code)
		}
		var made struct{ Token string }
		me.must(http.MethodPost, "/tokens", map[string]any{"name": "reads", "role": "viewer"}, &made)
		viewer := &person{t: t, d: d, token: made.Token}
		if code, _ := viewer.ask(http.MethodGet, "/workers/status", nil, nil); code != http.StatusForbidden {
			t.Errorf("a viewer on a route of admins: %d, want 403", code)
		}
		if _, err := viewer.ask(http.MethodGet, "/summary", nil, nil); err != nil {
			t.Error(err)
		}

		var registered struct{ ID, Name string }
		me.must(http.MethodPost, "/servers", map[string]any{
			"name": "Shop EU", "hostname": "shop.example", "api_url": server.URL, "api_token": token, "tags": []string{"shop"},
		}, &registered)
		changed := time.Now()
		// What people change is with the probers within a second; the bound leaves room for a busy machine.
		eventually(t, "the server can be looked at", func() error {
			_, err := me.ask(http.MethodPost, "/servers/"+registered.Name+"/health-check", nil, nil)
			return err
		})
		if took := time.Since(changed); took > 5*time.Second {
			t.Errorf("a new server was known to the probers after %s", took)
		}
		o := observe(t, d)
		o.awaitStatus(t, registered.Name, picketv1.Status_STATUS_HEALTHY, changed)

		eventually(t, "its figures are stored as it showed them", func() error { return sameFigures(viewer, registered.Name) })
		eventually(t, "the workers tell true figures", func() error {
			var w workers
			if _, err := me.ask(http.MethodGet, "/workers/status", nil, &w); err != nil {
				return err
			}
			h, m := w.HealthWorker, w.MetricsWorker
			if !h.Running || h.Replicas != 1 || h.ChecksPerformed == 0 || h.ChecksPerformed != h.ChecksSuccessful+h.ChecksFailed || h.IntervalSeconds != 2 {
				return fmt.Errorf("health worker %+v", h)
			}
			if _, err := time.Parse("2006-01-02T15:04:05.000000Z", h.LastRun); err != nil {
				return err
			}
			if !m.Running || m.Replicas != 1 || m.CollectionsSuccessful == 0 || m.TotalMetricsCollected < 12*m.CollectionsSuccessful {
				return fmt.Errorf("metrics worker %+v", m)
			}
			return nil
		})

		// Pending says no more than that a look was bad, and is nobody's yet.
		taken := func() []string {
			return slices.DeleteFunc(o.incident(registered.Name), func(word string) bool { return word == "pending" })
		}
		broken.Store(true)
		eventually(t, "the alert opens and is taken on", func() error { return takeOn(me, registered.Name) })
		eventually(t, "it is acknowledged in the stream", func() error {
			return want(taken(), "opened", "acknowledged")
		})
		broken.Store(false)
		eventually(t, "it closes all the same", func() error {
			return want(taken(), "opened", "acknowledged", "closed")
		})
		exportsHistory(t, d, me, registered.Name)
	})
}

// sameFigures wants the newest row of figures to be what the server showed.
func sameFigures(p *person, server string) error {
	var page struct{ Metrics []map[string]any }
	if _, err := p.ask(http.MethodGet, "/servers/"+server+"/metrics?period=1m&limit=1", nil, &page); err != nil {
		return err
	}
	if len(page.Metrics) == 0 {
		return errors.New("no figures yet")
	}
	var shown map[string]any
	if err := json.Unmarshal([]byte(metricsBody), &shown); err != nil {
		return err
	}
	row := page.Metrics[0]
	extra, _ := row["extra"].(map[string]any)
	for name, value := range shown {
		got, ok := row[name]
		if !ok {
			got = extra[name]
		}
		// Money is exact, and so a text.
		if text, ok := got.(string); ok && name == "llm_cost_usd" {
			got = json.Number(text)
			value = json.Number(fmt.Sprint(value))
		}
		if fmt.Sprint(got) != fmt.Sprint(value) {
			return fmt.Errorf("%s is %v in %v, the server showed %v", name, got, row, value)
		}
	}
	return nil
}

func takeOn(p *person, server string) error {
	var page struct {
		Alerts []struct{ ID, State, Check string }
	}
	if _, err := p.ask(http.MethodGet, "/alerts?server="+server, nil, &page); err != nil {
		return err
	}
	for _, alert := range page.Alerts {
		if alert.Check != "health" {
			continue
		}
		switch alert.State {
		case "acknowledged":
			return nil
		case "open":
			if _, err := p.ask(http.MethodPost, "/alerts/"+alert.ID+"/acknowledge", map[string]any{}, nil); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("alerts %+v", page.Alerts)
}

// exportsHistory exports one server's history and wants every row that is stored, once.
func exportsHistory(t *testing.T, d deployment, me *person, server string) {
	t.Helper()
	until := time.Now()
	var job struct {
		ID       string `json:"export_id"`
		Status   string
		Error    string
		RowCount int `json:"row_count"`
	}
	me.must(http.MethodPost, "/exports", map[string]any{
		"export_type": "health_checks", "format": "csv",
		"filters": map[string]any{"servers": []string{server}, "from": until.Add(-time.Hour), "to": until},
	}, &job)
	eventually(t, "the export is there", func() error {
		if _, err := me.ask(http.MethodGet, "/exports/"+job.ID, nil, &job); err != nil {
			return err
		}
		if job.Status != "COMPLETED" {
			return fmt.Errorf("export is %s %s", job.Status, job.Error)
		}
		return nil
	})
	var content []byte
	me.must(http.MethodGet, "/exports/"+job.ID+"/download", nil, &content)
	rows, err := csv.NewReader(bytes.NewReader(content)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	stored := query[int](t, d, `SELECT count(*)::int FROM server_health_checks h JOIN checks c ON c.id = h.check_id
		JOIN managed_servers s ON s.id = c.server_id WHERE s.name = $1 AND h.scheduled_at >= $2 AND h.scheduled_at < $3`, server, until.Add(-time.Hour), until)
	if len(rows)-1 != job.RowCount || job.RowCount == 0 || job.RowCount > stored[0] {
		t.Errorf("%d rows in the file, %d by the job, %d stored", len(rows)-1, job.RowCount, stored[0])
	}
	if !strings.Contains(string(content), server) {
		t.Errorf("the export is not about %s", server)
	}
}

// TestWorkersOfTwoReplicas: the figures of replicas are one worker's.
func TestWorkersOfTwoReplicas(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	inSeparate(t, options{env: []string{"HEALTH_CHECK_INTERVAL=5", "CHECKOUT_HEALTH_URL=" + tg.url()}}, func(t *testing.T, m *many) {
		for _, service := range []string{"prober", "collector", "writer", "alerter", "exporter"} {
			m.add(service+"-2", service)
		}
		m.start()
		me := admin(t, m)
		eventually(t, "two replicas of each worker", func() error {
			var w workers
			if _, err := me.ask(http.MethodGet, "/workers/status", nil, &w); err != nil {
				return err
			}
			if w.HealthWorker.Replicas != 2 || w.MetricsWorker.Replicas != 2 || w.HealthWorker.ChecksPerformed == 0 {
				return fmt.Errorf("workers %+v", w)
			}
			return nil
		})
	})
}

// TestFrozenDatabase: the database accepts and never answers. People are told within two seconds, looking and publishing
// go on, and when it answers again everything is there, without a restart.
func TestFrozenDatabase(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	env := []string{"HEALTH_CHECK_INTERVAL=5", "CHECKOUT_HEALTH_URL=" + tg.url()}
	for name, deploy := range map[string]func(*testing.T, []string, string) *many{"many processes": manyOnPostgres, "stack": onStack} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			frozenDatabase(t, deploy(t, env, shortDir(t)))
		})
	}
}

func frozenDatabase(t *testing.T, m *many) {
	t.Helper()
	m.start()
	me := admin(t, m)
	o := observe(t, m)
	began := time.Now()
	o.awaitStatus(t, "checkout", picketv1.Status_STATUS_HEALTHY, time.Time{})

	m.postgres.stall()
	frozen := time.Now()
	eventually(t, "the api says so", func() error {
		if code, err := me.ask(http.MethodGet, "/summary", nil, nil); code != http.StatusServiceUnavailable {
			return fmt.Errorf("answered %d %w", code, err)
		}
		return nil
	})
	if took := time.Since(frozen); took > 3*time.Second { // promised are two, on a machine that does nothing else
		t.Errorf("the api said so after %s", took)
	}
	for _, name := range []string{"api", "writer", "alerter", "catalog", "exporter"} {
		address, _ := m.procs[name].find(adminLine)
		eventually(t, name+" is not ready", func() error {
			if err := ready(t, "http://"+address); err == nil {
				return errors.New("it says it is")
			}
			return nil
		})
	}
	end := time.Now().Add(max(5*time.Second, faultFor(t)))
	o.awaitStatus(t, "checkout", picketv1.Status_STATUS_HEALTHY, end)

	m.postgres.flow()
	for name, p := range m.procs {
		address, _ := p.find(adminLine)
		eventually(t, name+" is ready again", func() error { return ready(t, "http://"+address) })
	}
	me.must(http.MethodGet, "/summary", nil, nil)
	audit(t, m, o, began)
	// What the writers report of the database is theirs, from when they have read that it is declared.
	if missed := query[string](t, m, `SELECT s.name || ' at ' || h.scheduled_at FROM server_health_checks h
		JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id WHERE h.missed AND c.kind <> 'reported'`); len(missed) > 0 {
		t.Errorf("ticks missed because the database was frozen: %v", missed)
	}
	// Where Picket watches itself it may say that something is wrong: it is.
	if alerts := query[string](t, m, `SELECT server || ' ' || kind FROM system_alerts WHERE opened_at IS NOT NULL AND server NOT LIKE 'picket-%'`); len(alerts) > 0 {
		t.Errorf("alerts because the database was frozen: %v", alerts)
	}
}
