package api

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
)

// TestRateLimit: a token that asks too often is told when to come back; others are not its victims.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *Deps) { c.RateLimit = 1 })
	greedy, modest := w.token("default", store.Viewer), w.token("default", store.Viewer)
	var refused answer
	for range 10 {
		if got := w.do(greedy, "GET", base+"/tokens/current", ""); got.status == http.StatusTooManyRequests {
			refused = got
			break
		}
	}
	if seconds, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || seconds < 1 {
		t.Fatalf("never refused, or not told for how long: %d %v", refused.status, refused.header)
	}
	w.must(http.StatusOK, modest, "GET", base+"/tokens/current", "")
}

// TestFailedTokens: who tries tokens has to wait; who shares the address and has a good one has not.
func TestFailedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *Deps) { c.AuthFailures = 3 })
	good := w.token("default", store.Viewer)
	w.must(http.StatusOK, good, "GET", base+"/tokens/current", "")
	statuses := map[int]int{}
	for range 8 {
		statuses[w.do(store.NewTokenSecret().Reveal(), "GET", base+"/tokens/current", "").status]++
	}
	if statuses[http.StatusUnauthorized] != 3 || statuses[http.StatusTooManyRequests] != 5 {
		t.Errorf("answers %v, want 3 of 401 and then 429", statuses)
	}
	// Who is known costs nothing, and is not kept waiting for what others do.
	w.must(http.StatusOK, good, "GET", base+"/tokens/current", "")
}

// TestTokensElsewhere: a token counts in the header alone, for addresses end in logs.
func TestTokensElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(http.StatusUnauthorized, "", "GET", base+"/tokens/current?access_token="+w.admin, "")
	w.must(http.StatusUnauthorized, "", "GET", base+"/tokens/current", "", "Authorization", "Basic "+w.admin)
	w.must(http.StatusOK, "", "GET", base+"/tokens/current", "", "Authorization", "bearer "+w.admin)
	changed := w.admin[:len(w.admin)-1] + "0"
	w.must(http.StatusUnauthorized, changed, "GET", base+"/tokens/current", "")
}

// TestProblems: every refusal is a problem that names the request and repeats nothing that was sent.
func TestProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *Deps) { c.MaxBodyBytes = 4096 })
	for _, test := range []struct {
		status             int
		method, path, body string
	}{
		{http.StatusNotFound, "GET", "/nowhere", ""},
		{http.StatusNotFound, "GET", base + "/nowhere", ""},
		{http.StatusMethodNotAllowed, "DELETE", base + "/audit", ""},
		{http.StatusRequestEntityTooLarge, "POST", base + "/servers", `{"name":"` + strings.Repeat("a", 5000) + `"}`},
		{http.StatusUnprocessableEntity, "POST", base + "/servers", `{"name":"a","api_token":5,"description":"hush"}`},
	} {
		got := w.must(test.status, w.admin, test.method, test.path, test.body, requestIDHeader, "my-request-1")
		if got.header.Get("Content-Type") != "application/problem+json" || got.header.Get(requestIDHeader) != "my-request-1" ||
			!strings.Contains(string(got.body), "urn:picket:request:my-request-1") || strings.Contains(string(got.body), "hush") {
			t.Errorf("%s %s: %v: %s", test.method, test.path, got.header, got.body)
		}
		if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s %s: headers %v", test.method, test.path, got.header)
		}
	}
	if got := w.do(w.admin, "GET", base+"/audit", "", requestIDHeader, "forged id\twith more"); strings.Contains(got.header.Get(requestIDHeader), "forged") {
		t.Error("takes any request id")
	}
	if got := w.must(http.StatusOK, "", "GET", "/docs", ""); !strings.Contains(string(got.body), base+"/servers/{id}") ||
		strings.Contains(string(got.body), "://unpkg") || strings.Contains(string(got.body), "<script") {
		t.Errorf("docs: %.300s", got.body)
	}
}

// TestDatabaseAway: a database that accepts and never answers costs nobody more than two seconds, those who wait already
// included, and all is well when it is back.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	database := migrated.Postgres(t)
	proxy := embeddedtest.FaultProxy(t, database.Server)
	w := newWorldOn(t, database.Via(proxy.Addr()))
	w.must(http.StatusOK, w.admin, "GET", base+"/servers", "")
	proxy.Freeze()
	frozen := time.Now()
	got := w.do(w.admin, "GET", base+"/servers", "")
	if took := time.Since(frozen); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || took > 2*time.Second {
		t.Errorf("%d after %s: %s", got.status, took, got.body)
	}
	again := time.Now()
	got = w.do(w.admin, "GET", base+"/servers", "")
	if took := time.Since(again); got.status != http.StatusServiceUnavailable || took > time.Second/2 {
		t.Errorf("%d after %s: %s", got.status, took, got.body)
	}
	proxy.Thaw()
	w.waitFor("an answer", func() bool { return w.do(w.admin, "GET", base+"/servers", "").status == http.StatusOK })
}
