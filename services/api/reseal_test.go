package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/service"
)

// TestKeyRotation: with a new key and the one before it, every token is sealed with the new one, is what it was, and the
// one before can be taken away. No server hears of a new token, for there is none.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	oldKey, newKey := service.NewSecretKey(), service.NewSecretKey()
	keyring := func(secrets service.Secrets) *catalog.Keyring {
		t.Helper()
		k, err := secrets.Keyring()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	w := newWorld(t, func(_ *Config, deps *Deps) { deps.Keyring = keyring(service.Secrets{Key: oldKey}) })
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"one","api_url":"http://one","api_token":"first-token"}`)
	w.must(http.StatusOK, w.admin, "POST", base+"/servers/one/token/rotate", `{"token":"second-token","overlap_seconds":3600}`)
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"two","api_url":"http://two","api_token":"of-two"}`)
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"none","api_url":"http://none"}`)
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"lost","api_url":"http://lost","api_token":"gone"}`)
	w.stop()
	declared := func(name string) *catalog.Server {
		t.Helper()
		found, err := w.store.DeclaredServers(t.Context(), "default", name)
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %d found, %v", name, len(found), err)
		}
		return &found[0]
	}
	// A value that was altered is opened by nobody, and holds nobody else up.
	lost := declared("lost")
	broken := *lost
	broken.Credential = &catalog.Credential{Sealed: lost.Credential.Sealed[:len(lost.Credential.Sealed)-4] + "AAAA", Hash: lost.Credential.Hash}
	plan, _ := catalog.Diff(catalog.SourceAPI, []catalog.Server{broken}, []catalog.Server{*lost})
	if _, err := w.store.ApplyCatalog(t.Context(), plan, nil); err != nil {
		t.Fatal(err)
	}
	before := declared("one")

	log := &complaints{}
	both := keyring(service.Secrets{Key: newKey, PreviousKey: oldKey})
	next, err := New(DefaultConfig(), Deps{
		Kit: &service.Kit{
			Name: "api", Instance: "next", Location: "local", Started: time.Now(), Metrics: prometheus.NewRegistry(),
			Health: service.NewHealth(), Log: slog.New(slog.NewTextHandler(log, nil)),
		},
		Conn: w.conn, Store: w.store, Keyring: both,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- next.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	w.waitFor("new seals", func() bool { return both.Current(declared("two").Credential.Sealed) })
	alone := keyring(service.Secrets{Key: newKey})
	for name, want := range map[string][2]string{"one": {"second-token", "first-token"}, "two": {"of-two", ""}} {
		server := declared(name)
		if got, err := alone.OpenToken(server.Key(), server.Credential.Sealed); err != nil || got != want[0] {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want[0])
		}
		if want[1] == "" {
			continue
		}
		if got, err := alone.OpenToken(server.Key(), server.Credential.Previous); err != nil || got != want[1] {
			t.Errorf("%s: before it %q, %v, want %q", name, got, err, want[1])
		}
	}
	after := declared("one")
	if after.Change != catalog.Changed || after.Revision != before.Revision+1 || !after.Credential.PreviousUntil.Equal(before.Credential.PreviousUntil) ||
		after.Credential.Hash != before.Credential.Hash {
		t.Errorf("one is %+v, was %+v", after, before)
	}
	for _, check := range after.Checks {
		if check.Revision != after.Revision {
			t.Errorf("probers of %s do not hear of it: revision %d", check.Name, check.Revision)
		}
	}
	w.waitFor("the word about the lost one", func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return strings.Contains(log.text.String(), "no key opens")
	})
	if left, err := w.store.StaleSeals(t.Context(), both.Prefix(), catalog.Key{}, 10); err != nil || len(left) != 1 || left[0].Name != "lost" {
		t.Errorf("left %v, %v", left, err)
	}
	var written int
	for _, entry := range mustAudit(t, w, "server.token.reseal") {
		written++
		if entry.Actor != resealActor {
			t.Errorf("entry %+v", entry)
		}
	}
	if written != 2 {
		t.Errorf("%d entries in the record, want 2", written)
	}
	// Done is done: another round changes nothing.
	next.reseal(t.Context())
	if again := declared("one"); again.Revision != after.Revision {
		t.Errorf("sealed again: revision %d", again.Revision)
	}
}
