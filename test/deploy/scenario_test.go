package deploy_test

import (
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
func TestStack(t *testing.T) { // not parallel: it puts PostgreSQL's programs on the PATH
	target := newTarget(t)
	s := startStack(t, map[string]int{"prober": 3, "writer": 2}, fmt.Sprintf(
		"\n  - name: checkout\n    url: %s\n    interval: 1s\n    alerts: {critical_after: 2, unreachable_for: 2s}\n", target.url()))
	for name, why := range s.left {
		t.Logf("NOT RUN: %s: %s", name, why)
	}
	viewer, err := nats.Connect("nats://"+s.addresses["nats:4222"], nats.UserInfo("viewer", s.secrets["PICKET_NATS_VIEWER_PASSWORD"]))
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Close()
	opened, err := viewer.SubscribeSync("picket.*.alert.opened.*.checkout")
	if err != nil {
		t.Fatal(err)
	}
	reader := s.query("picket_reader", s.secrets["PICKET_DATABASE_READER_PASSWORD"])

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
			want := []string{"checkout"}
			for name := range s.running {
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
		if _, err := pgx.Connect(t.Context(), s.databaseURL("picket_reader", "wrong")); err == nil {
			t.Error("let in with a wrong password")
		}
	})

	t.Run("the API answers", func(t *testing.T) {
		address := "http://" + s.addresses["api:9468"]
		if why, not := s.left["api"]; not {
			t.Skip("the API does not run: " + why)
		}
		if code, body := s.get(address+"/api/v1/fleet/servers", ""); code != http.StatusUnauthorized {
			t.Errorf("without a token: %d %s", code, body)
		}
		code, body := s.get(address+"/api/v1/fleet/servers", s.secrets["PICKET_ADMIN_TOKEN"])
		if code != http.StatusOK || !strings.Contains(body, `"checkout"`) {
			t.Errorf("servers: %d %s", code, body)
		}
	})

	t.Run("NATS has refused nobody", func(t *testing.T) {
		for _, line := range (&natsdLog{s}).refusals() {
			t.Error(line)
		}
	})
}

// natsdLog reads what the server of the stack said.
type natsdLog struct{ s *stack }

func (l *natsdLog) refusals() []string {
	var lines []string
	for line := range strings.Lines(l.s.running["nats"][0].output.String()) {
		if strings.Contains(line, "Violation") || strings.Contains(line, "authentication error") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func (s *stack) databaseURL(user, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/picket?sslmode=disable", user, password, s.addresses["timescaledb:5432"])
}

// query connects as a role of the database.
func (s *stack) query(user, password string) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.databaseURL(user, password))
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

func (s *stack) get(address, token string) (int, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(body)
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
