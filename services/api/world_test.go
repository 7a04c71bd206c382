package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
)

// patience is how long a test waits for what must come; nothing is expected to take a tenth of it.
const patience = 60 * time.Second

var migrated = embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
	s, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
})

// world is a database, a NATS server and an api on both, whose every answer is held against its own document.
type world struct {
	t     *testing.T
	store *store.Store
	conn  *bus.Conn
	api   *Service
	url   string
	// admin is a token of the organization default.
	admin string
	stop  func()
}

type worldOption func(*Config, *Deps)

func withoutKey(_ *Config, deps *Deps) { deps.Keyring = nil }

func newWorld(t *testing.T, options ...worldOption) *world {
	t.Helper()
	return newWorldOn(t, migrated.Postgres(t).URL, options...)
}

func newWorldOn(t *testing.T, database string, options ...worldOption) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	if w.store, err = store.Open(t.Context(), store.Options{URL: database}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	w.conn, err = bus.Connect(bus.Options{URL: embeddedtest.NATS(t), Name: "api", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.conn.Close)
	keyring, err := service.Secrets{Key: service.NewSecretKey()}.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	w.admin = store.NewTokenSecret().Reveal()
	config.AdminToken = w.admin
	deps := Deps{
		Kit: &service.Kit{
			Name: "api", Instance: "test", Location: "local", Started: time.Now(),
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry(), Health: service.NewHealth(),
		},
		Conn: w.conn, Store: w.store, Keyring: keyring,
	}
	for _, option := range options {
		option(&config, &deps)
	}
	if w.api, err = New(config, deps); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.api.Run(ctx) }()
	server := httptest.NewServer(newContract(t, w.api.Handler()))
	w.url = server.URL
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		server.Close()
	})
	t.Cleanup(w.stop)
	secret, err := store.ParseTokenSecret(w.admin)
	if err != nil {
		t.Fatal(err)
	}
	w.waitFor("the first admin's token", func() bool {
		_, err := w.store.LookupToken(t.Context(), secret.ID)
		return err == nil && w.do("", "GET", base+"/tokens/current", "").status == http.StatusUnauthorized
	})
	return w
}

// waitFor polls what other processes and goroutines bring about.
func (w *world) waitFor(what string, done func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			w.t.Fatalf("%s did not come", what)
		}
	}
}

// token makes a token of an organization, which is made too.
func (w *world) token(org string, role store.Role) string {
	w.t.Helper()
	if err := w.store.AddOrganization(w.t.Context(), org, org); err != nil {
		w.t.Fatal(err)
	}
	secret := store.NewTokenSecret()
	_, err := w.store.CreateToken(w.t.Context(), store.Token{
		ID: secret.ID, Org: org, Name: "test " + string(role), Role: role, Hash: secret.Hash(),
	}, store.Audit{Org: org, Actor: "test", Action: "token.create", TargetKind: "token"})
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal()
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// into reads the body.
func (a answer) into(t *testing.T, to any) {
	t.Helper()
	if err := json.Unmarshal(a.body, to); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

// do sends a request; headers are pairs.
func (w *world) do(token, method, path, body string, headers ...string) answer {
	w.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil {
		w.t.Fatal(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: text.Bytes()}
}

// must is do with the status that it has to have.
func (w *world) must(status int, token, method, path, body string, headers ...string) answer {
	w.t.Helper()
	got := w.do(token, method, path, body, headers...)
	if got.status != status {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, got.status, status, got.body)
	}
	return got
}

// declare puts servers of another source into the catalog.
func (w *world) declare(source catalog.Source, servers ...catalog.Server) {
	w.t.Helper()
	loaded, err := w.store.LoadCatalog(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range servers {
		servers[i].Source = source
		servers[i].Complete(catalog.Defaults{})
	}
	plan, conflicts := catalog.Diff(source, servers, loaded.Servers)
	if len(conflicts) > 0 {
		w.t.Fatal(conflicts)
	}
	if _, err := w.store.ApplyCatalog(w.t.Context(), plan, nil); err != nil {
		w.t.Fatal(err)
	}
}
