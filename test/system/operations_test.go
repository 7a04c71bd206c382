package system_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/bus"
)

// replica is a deployment of which one process of the API is asked.
type replica struct {
	*many
	name string
}

func (r replica) api() (address, token string) {
	address, ok := r.procs[r.name].find(apiLine)
	if !ok {
		r.t.Fatalf("%s has not said where it is", r.name)
	}
	return "http://" + address, r.token()
}

// operation is what the API says of one.
type operation struct {
	ID               string
	Status           string
	TotalServers     int    `json:"total_servers"`
	CompletedServers int    `json:"completed_servers"`
	FailedServers    int    `json:"failed_servers"`
	ErrorSummary     string `json:"error_summary"`
}

// TestOperationSurvivesKill9: the process that carries an operation out is killed in the middle of it, another replica
// goes on where it was, and every server is dealt with once: what is declared is changed once, and only what was under way
// when the process died is looked at once more. Then the same with the killed process itself, started anew.
func TestOperationSurvivesKill9(t *testing.T) {
	t.Parallel()
	const servers, atOnce = 120, 8
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(100 * time.Millisecond): // so that an operation takes long enough to be interrupted
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	}))
	t.Cleanup(slow.Close)
	ours := map[string]any{"tags_all": []string{"ours"}}
	inSeparate(t, options{env: []string{"FLEET_HEALTH_INTERVAL=300", "FLEET_HEALTH_BATCH_SIZE=0"}}, func(t *testing.T, m *many) {
		m.add("api-2", "api")
		m.start()
		me := admin(t, m)
		for i := range servers {
			me.must(http.MethodPost, "/servers", map[string]any{
				"name": fmt.Sprintf("srv-%03d", i), "tags": []string{"ours"},
				"checks": []map[string]any{{"name": "health", "url": slow.URL + fmt.Sprintf("/%d", i)}},
			}, nil)
		}
		eventually(t, "the prober knows the last server", func() error {
			_, err := me.ask(http.MethodPost, fmt.Sprintf("/servers/srv-%03d/health-check", servers-1), nil, nil)
			return err
		})

		t.Run("another replica goes on", func(t *testing.T) {
			began := time.Now()
			holder, op := killInTheMiddle(t, m, map[string]any{"operation_type": "check_now", "filter": ours})
			survivor := map[string]string{"api": "api-2", "api-2": "api"}[holder]
			done := awaitOperation(t, &person{t: t, d: replica{m, survivor}, token: m.token()}, op)
			if done.Status != "completed" || done.CompletedServers != servers {
				t.Errorf("operation %+v", done)
			}
			t.Logf("%s killed; done by %s after %s", holder, survivor, time.Since(began))
			eventually(t, "every server was looked at", func() error {
				looks := query[int](t, m, `SELECT count(h.*)::int FROM managed_servers s JOIN checks c ON c.server_id = s.id
					LEFT JOIN server_health_checks h ON h.check_id = c.id AND h.on_demand AND h.scheduled_at >= $1 WHERE s.name LIKE 'srv-%' GROUP BY s.id`, began)
				twice := 0
				for _, n := range looks {
					switch {
					case n == 0:
						return errors.New("a server was not looked at")
					case n > 2:
						t.Fatalf("a server was looked at %d times", n)
					case n == 2:
						twice++
					}
				}
				if twice > atOnce {
					t.Fatalf("%d servers were looked at twice, more than were under way", twice)
				}
				return nil
			})
			m.start()
		})
		t.Run("the same one goes on, started anew", func(t *testing.T) {
			m.procs["api-2"].kill()
			var (
				op  operation
				err error
			)
			for try := 0; ; try++ {
				tag := fmt.Sprintf("canary-%d", try)
				_, op, err = tryKill(t, m, map[string]any{
					"operation_type": "tag_add", "filter": ours, "parameters": map[string]any{"tags": []string{tag}},
				})
				if err == nil {
					break
				}
				if try == 20 {
					t.Fatalf("an operation was never caught in the middle: %v", err)
				}
			}
			m.start()
			done := awaitOperation(t, &person{t: t, d: replica{m, "api"}, token: m.token()}, op)
			if done.Status != "completed" || done.CompletedServers != servers {
				t.Errorf("operation %+v", done)
			}
			changes := query[int](t, m, `SELECT count(*)::int FROM audit_log WHERE action = 'server.update' AND after ->> 'operation' = $1 GROUP BY target`, op.ID)
			if len(changes) != servers {
				t.Errorf("%d servers were changed, want %d", len(changes), servers)
			}
			for _, n := range changes {
				if n != 1 {
					t.Errorf("a server was changed %d times", n)
				}
			}
		})
	})
}

// killInTheMiddle has an operation begin and kills the process that carries it out, when some servers are done and others
// are not; it returns which process that was.
func killInTheMiddle(t *testing.T, m *many, body map[string]any) (holder string, op operation) {
	t.Helper()
	holder, op, err := tryKill(t, m, body)
	if err != nil {
		t.Fatal(err)
	}
	return holder, op
}

func tryKill(t *testing.T, m *many, body map[string]any) (holder string, op operation, err error) {
	t.Helper()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, m.databaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	me := &person{t: t, d: replica{m, "api"}, token: m.token()}
	eventually(t, "the api takes the operation", func() error { // started anew, it says where it is a little later
		_, err := me.ask(http.MethodPost, "/operations", body, &op)
		return err
	})
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		var (
			owner         string
			pending, done int
		)
		err := conn.QueryRow(ctx, `SELECT o.lease_owner, count(*) FILTER (WHERE i.status = 'pending'), count(*) FILTER (WHERE i.status <> 'pending')
			FROM fleet_operations o JOIN fleet_operation_servers i ON i.operation_id = o.id WHERE o.id = $1 GROUP BY o.lease_owner`, op.ID).
			Scan(&owner, &pending, &done)
		if err != nil {
			t.Fatal(err)
		}
		holder, _, _ = strings.Cut(owner, "/")
		if done > 0 && pending > 0 {
			m.procs[holder].kill()
			if left := query[int](t, m, `SELECT count(*)::int FROM fleet_operation_servers WHERE operation_id = $1 AND status = 'pending'`, op.ID); left[0] == 0 {
				m.start()
				return holder, op, errors.New("it was done before the kill")
			}
			return holder, op, nil
		}
		if pending == 0 {
			return holder, op, errors.New("it was done before it could be caught")
		}
		<-ticker.C
	}
	return "", op, ctx.Err()
}

func awaitOperation(t *testing.T, p *person, op operation) operation {
	t.Helper()
	eventually(t, "the operation is over", func() error {
		if _, err := p.ask(http.MethodGet, "/operations/"+op.ID, nil, &op); err != nil {
			return err
		}
		if op.Status == "pending" || op.Status == "running" {
			return fmt.Errorf("%+v", op)
		}
		return nil
	})
	return op
}

// TestChangesReachProbers: what people change is known to those who look within a second, and a token that is rotated is
// presented from then on, while the one before still opens a server that does not know the new one yet.
func TestChangesReachProbers(t *testing.T) {
	t.Parallel()
	inSeparate(t, options{env: []string{"FLEET_HEALTH_INTERVAL=300", "FLEET_HEALTH_BATCH_SIZE=0"}}, changesReachProbers)
}

func changesReachProbers(t *testing.T, m *many) {
	t.Helper()
	var (
		wanted  atomic.Value // string
		refused atomic.Int64
		news    = make(chan time.Time, 1)
	)
	const first, second = "the-first-token", "the-second-token"
	wanted.Store(first)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+second {
			select {
			case news <- time.Now():
			default:
			}
		}
		if r.Header.Get("Authorization") != "Bearer "+wanted.Load().(string) {
			refused.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	}))
	t.Cleanup(server.Close)
	m.start()
	me := admin(t, m)
	look := func() error {
		var run struct{ Status string }
		if _, err := me.ask(http.MethodPost, "/servers/shop/health-check", nil, &run); err != nil {
			return err
		}
		if run.Status != "healthy" {
			return fmt.Errorf("it is %s", run.Status)
		}
		return nil
	}
	began := time.Now()
	me.must(http.MethodPost, "/servers", map[string]any{"name": "shop", "api_url": server.URL, "api_token": first}, nil)
	eventually(t, "the server is known", look)
	within(t, "a new server was known to the prober", time.Since(began))

	events, entries := watchServer(t, m, "shop")
	began = time.Now()
	me.must(http.MethodPost, "/servers/shop/token/rotate", map[string]any{"token": second, "overlap_seconds": 600}, nil)
	for looking := true; looking; {
		if err := look(); err != nil { // the server wants the token before, and is shown it
			t.Fatalf("in the overlap: %v", err)
		}
		select {
		case at := <-news:
			within(t, "the new token was presented", at.Sub(began))
			looking = false
		default:
			if time.Since(began) > patience {
				t.Fatal("the new token was never presented")
			}
		}
	}
	within(t, "the event token_rotated came", (<-events).Sub(began))
	within(t, "the entry of the bucket came", (<-entries).Sub(began))
	wanted.Store(second)
	before := refused.Load()
	if err := look(); err != nil {
		t.Errorf("the server knows the new token alone: %v", err)
	}
	if more := refused.Load() - before; more != 0 {
		t.Errorf("the old token was presented first, %d times", more)
	}

	me.must(http.MethodDelete, "/servers/shop", nil, nil)
	if err := look(); err == nil {
		t.Error("a server that was removed is looked at")
	}
	if gone := query[string](t, m, `SELECT name FROM managed_servers WHERE api_token_sealed IS NOT NULL`); len(gone) > 0 {
		t.Errorf("tokens are kept of %v", gone)
	}
}

// within tells how long something took; promised is a second, on a machine that does nothing else.
func within(t *testing.T, what string, took time.Duration) {
	t.Helper()
	t.Logf("%s after %s", what, took)
	if took > 5*time.Second {
		t.Errorf("%s after %s", what, took)
	}
}

// watchServer tells when the event token_rotated of a server is published, and when the probers' bucket has a new entry of
// its check health.
func watchServer(t *testing.T, m *many, name string) (events, entries <-chan time.Time) {
	t.Helper()
	conn := connect(t, m)
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	t.Cleanup(func() { stop(); watching.Wait() })
	heard, seen := make(chan time.Time, 10), make(chan time.Time, 10)
	watching.Go(func() {
		_ = conn.Subscribe(ctx, []string{bus.CatalogSubject("default", "token_rotated", name)}, func(*bus.Msg) { heard <- time.Now() })
	})
	bucket, err := conn.CatalogBucket(ctx)
	if err != nil {
		t.Fatal(err)
	}
	id := query[string](t, m, `SELECT c.id::text FROM checks c JOIN managed_servers s ON s.id = c.server_id WHERE s.name = $1 AND c.name = 'health'`, name)
	listed := make(chan struct{})
	watching.Go(func() {
		there := false
		_ = bucket.Watch(ctx, bus.CatalogKey("default", "local", id[0]), func(batch []bus.Entry, complete bool) {
			if there && len(batch) > 0 {
				seen <- time.Now()
			}
			if complete && !there {
				there = true
				close(listed)
			}
		})
	})
	<-listed
	if err := conn.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	return heard, seen
}
