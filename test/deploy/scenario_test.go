package deploy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
)

// TestStack runs the whole of deploy/ from its own files, with three probers and two writers, and does what a person
// would do first: sees that all is well, that a server that goes down becomes an alert, asks the API. At the end nobody
// was refused anything by NATS, whose permissions are those of the file.
func TestStack(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	s := startStack(t, map[string]int{"prober": 3, "writer": 2}, fmt.Sprintf(
		"\n  - name: checkout\n    url: %s\n    interval: 1s\n    alerts: {critical_after: 2, unreachable_for: 2s}\n", target.url()))
	for name, why := range s.left {
		t.Logf("NOT RUN: %s: %s", name, why)
	}
	viewer, err := nats.Connect(s.NATSURL("viewer"))
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Close()
	opened, err := viewer.SubscribeSync("picket.*.alert.opened.*.checkout")
	if err != nil {
		t.Fatal(err)
	}
	reader := s.query("picket_reader", s.Secrets["PICKET_DATABASE_READER_PASSWORD"])

	t.Run("everything is seen healthy", func(t *testing.T) {
		eventually(t, "rows of every server that runs", func() error {
			seen := map[string]string{}
			rows, err := reader.Query(t.Context(), `SELECT name, health_status FROM managed_servers WHERE removed_at IS NULL`)
			if err != nil {
				return err
			}
			if _, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
				var name, status string
				err := row.Scan(&name, &status)
				seen[name] = status
				return struct{}{}, err
			}); err != nil {
				return err
			}
			want := []string{"checkout", "picket-nats", "picket-database"} // the last by what the writers report
			for name := range s.processes {
				if slices.Contains(users(), name) {
					want = append(want, "picket-"+name)
				}
			}
			for _, name := range want {
				if seen[name] != "healthy" {
					return fmt.Errorf("%s is %q", name, seen[name])
				}
			}
			return nil
		})
	})

	t.Run("a server that goes down becomes an alert", func(t *testing.T) {
		target.stop()
		msg, err := opened.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		var event struct{ Transition, Server, Kind string }
		if err := json.Unmarshal(msg.Data, &event); err != nil || event.Server != "checkout" || event.Transition != "opened" {
			t.Errorf("heard %s (%v)", msg.Data, err)
		}
		var rows int
		if err := reader.QueryRow(t.Context(), `SELECT count(*) FROM system_alerts WHERE fingerprint = 'system-health:checkout' AND state = 'open'`).Scan(&rows); err != nil || rows != 1 {
			t.Errorf("%d open alerts in the database (%v)", rows, err)
		}
	})

	t.Run("the reader reads and no more", func(t *testing.T) {
		for _, statement := range []string{
			"INSERT INTO organizations (slug, name) VALUES ('mine', 'Mine')", "CREATE TABLE mine (a int)",
			"SET default_transaction_read_only = off; DELETE FROM server_health_checks", "SELECT hash FROM api_tokens",
			"SELECT api_token_sealed FROM managed_servers", "SELECT * FROM audit_log", "COPY (SELECT 1) TO '/tmp/mine'",
		} {
			if _, err := reader.Exec(t.Context(), statement); err == nil {
				t.Errorf("%s: done", statement)
			}
		}
		if _, err := pgx.Connect(t.Context(), s.DatabaseURL("picket_reader", "wrong")); err == nil {
			t.Error("let in with a wrong password")
		}
	})

	t.Run("the API answers", func(t *testing.T) {
		s.needs(t, "api")
		if err := httpOK(t, "http://"+s.Address("api:9468")+"/api/v1/fleet/servers"); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("without a token: %v", err)
		}
		code, body := s.ask(http.MethodGet, "/api/v1/fleet/servers", "")
		if code != http.StatusOK || !strings.Contains(body, `"checkout"`) {
			t.Errorf("servers: %d %s", code, body)
		}
	})

	// What the API does through the others, so that everybody's permissions are used.
	t.Run("a check on demand is answered by a prober", func(t *testing.T) {
		s.needs(t, "api", "prober")
		code, body := s.ask(http.MethodPost, "/api/v1/fleet/servers/picket-catalog/health-check", "")
		if code != http.StatusOK || !strings.Contains(body, `"healthy"`) {
			t.Errorf("%d %s", code, body)
		}
	})

	t.Run("an export is made, stored and downloaded", func(t *testing.T) {
		s.needs(t, "api", "exporter", "s3")
		code, body := s.ask(http.MethodPost, "/api/v1/fleet/exports", `{"export_type":"health_checks","format":"ndjson"}`)
		var export struct {
			ID       string `json:"export_id"`
			Status   string `json:"status"`
			RowCount int    `json:"row_count"`
		}
		if err := json.Unmarshal([]byte(body), &export); err != nil || code != http.StatusAccepted {
			t.Fatalf("%d %s (%v)", code, body, err)
		}
		one := "/api/v1/fleet/exports/" + export.ID
		eventually(t, "the export is complete", func() error {
			if code, body = s.ask(http.MethodGet, one, ""); code != http.StatusOK {
				return fmt.Errorf("%d %s", code, body)
			}
			if err := json.Unmarshal([]byte(body), &export); err != nil || export.Status != "COMPLETED" {
				return fmt.Errorf("%s (%w)", body, err)
			}
			return nil
		})
		// The API leads to the object store, by a link that the store itself checks.
		code, rows := s.ask(http.MethodGet, one+"/download", "")
		if lines := strings.Count(rows, "\n"); code != http.StatusOK || lines != export.RowCount || lines == 0 {
			t.Errorf("downloaded %d, %d lines of %d: %.300s", code, lines, export.RowCount, rows)
		}
	})

	t.Run("what happens is heard live", func(t *testing.T) {
		s.needs(t, "api")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address("api:9468")+"/api/v1/fleet/live/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+s.Secrets["PICKET_ADMIN_TOKEN"])
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "data:") && strings.Contains(lines.Text(), `"checkout"`) {
				return
			}
		}
		t.Errorf("%s, and nothing about the server: %v", response.Status, lines.Err())
	})

	t.Run("NATS has refused nobody", func(t *testing.T) {
		for _, line := range (&natsdLog{s}).refusals() {
			t.Error(line)
		}
	})
}

// natsdLog reads what the server of the stack said.
type natsdLog struct{ s *running }

func (l *natsdLog) refusals() []string {
	var lines []string
	for line := range strings.Lines(l.s.processes["nats"][0].output.String()) {
		if strings.Contains(line, "Violation") || strings.Contains(line, "authentication error") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// query connects as a role of the database.
func (s *running) query(user, password string) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.DatabaseURL(user, password))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the server goes too
	})
	return conn
}

// needs skips what a part that does not run would have to do.
func (s *running) needs(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if why, not := s.left[part]; not {
			t.Skipf("%s does not run: %s", part, why)
		}
	}
}

// ask asks the API as the first admin.
func (s *running) ask(method, path, body string) (int, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.Address("api:9468")+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.Secrets["PICKET_ADMIN_TOKEN"])
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// target is a server that can be stopped.
type target struct {
	listener net.Listener
	server   *http.Server
}

func newTarget(t *testing.T) *target {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := &target{listener: listener, server: &http.Server{
		ReadHeaderTimeout: time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"status":"ok"}`) // the client has gone when this fails
		}),
	}}
	served := make(chan error, 1)
	go func() { served <- target.server.Serve(listener) }()
	t.Cleanup(func() {
		target.stop()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return target
}

func (tg *target) url() string { return "http://" + tg.listener.Addr().String() }

func (tg *target) stop() { _ = tg.server.Close() }
