package api

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/picketd/picket/internal/store"
)

// complaints collects what is logged as an error: a fault of ours.
type complaints struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *complaints) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *complaints) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.text.Reset()
	return c.text.String()
}

func (c *complaints) option(_ *Config, deps *Deps) {
	deps.Kit.Log = slog.New(slog.NewTextHandler(c, &slog.HandlerOptions{Level: slog.LevelError}))
}

// TestHostileRequests: whatever is sent is refused as what it is, fills no log with errors, and changes nothing.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	log := &complaints{}
	w := newWorld(t, log.option)
	server := w.register("checkout")
	one := "/servers/" + server.ID
	deep := `{"name":"deep","metadata":{"a":` + strings.Repeat(`{"a":`, 9000) + `1` + strings.Repeat("}", 9000) + `}}`
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, _ = zip.Write([]byte(`{"name":"packed"}`))
	_ = zip.Close()
	const unprocessable = http.StatusUnprocessableEntity
	for _, test := range []struct {
		status             int
		method, path, body string
		headers            []string
	}{
		{unprocessable, "GET", "/servers?q=%00", "", nil},
		{unprocessable, "GET", "/servers?region=%00", "", nil},
		{unprocessable, "GET", "/servers?region=%ff%fe", "", nil},
		{unprocessable, "GET", "/servers?tags=a,%00", "", nil},
		{unprocessable, "GET", "/servers/a%00b", "", nil},
		{unprocessable, "GET", "/servers/%ff", "", nil},
		{unprocessable, "GET", "/groups/%00", "", nil},
		{unprocessable, "GET", "/servers/a%00b/health-history", "", nil},
		{unprocessable, "DELETE", "/tokens/%00", "", nil},
		{unprocessable, "GET", "/audit?target=%00", "", nil},
		{unprocessable, "GET", "/alerts?kind=%00", "", nil},
		{unprocessable, "GET", "/servers?cursor=" + cursor("servers", "\x00"), "", nil},
		{unprocessable, "GET", "/groups?cursor=" + cursor("groups", "a\x00"), "", nil},
		{unprocessable, "GET", "/servers?cursor=" + cursor("groups", "a"), "", nil},
		{unprocessable, "GET", "/servers?cursor=" + strings.Repeat("A", 3000), "", nil},
		{http.StatusOK, "GET", one + "/health-history?cursor=" + cursor("health-history", int64(1)<<62, server.ID, "local"), "", nil},
		{unprocessable, "GET", one + "/health-history?cursor=" + cursor("health-history", 5, server.ID, "\x00"), "", nil},
		{http.StatusOK, "GET", one + "/metrics?cursor=" + cursor("server-metrics-1m", int64(1)<<62, server.ID, "local"), "", nil},
		{unprocessable, "GET", "/alerts?cursor=" + cursor("alerts", int64(-1)<<62, server.ID), "", nil},
		{http.StatusOK, "GET", "/operations?cursor=" + cursor("operations", int64(1)<<62, server.ID), "", nil},
		{unprocessable, "GET", "/system-metrics?cursor=" + cursor("system-metrics", int64(1)<<62, 1), "", nil},
		{unprocessable, "GET", "/servers?limit=0", "", nil},
		{unprocessable, "GET", "/servers?limit=-1", "", nil},
		{unprocessable, "GET", "/servers?limit=99999999999999999999", "", nil},
		{unprocessable, "GET", "/servers?limit=NaN", "", nil},
		{unprocessable, "GET", "/servers?offset=-1", "", nil},
		{unprocessable, "GET", "/servers?nope=1", "", nil},
		{unprocessable, "GET", one + "/metrics?period=2m", "", nil},
		{unprocessable, "GET", one + "/metrics?start_time=2026-01-02T00:00:00Z&end_time=2026-01-01T00:00:00Z", "", nil},
		{unprocessable, "GET", one + "/metrics?start_time=yesterday", "", nil},
		{unprocessable, "GET", "/audit?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "", nil},
		{unprocessable, "GET", "/alerts?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "", nil},
		{http.StatusOK, "GET", "/cost?from=" + url.QueryEscape("2026-01-02T01:00:00+14:00"+"") + "&to=2026-01-05T00:00:00Z", "", nil},
		{http.StatusOK, "GET", "/servers?q=" + url.QueryEscape(`%_\'; DROP TABLE managed_servers; --`), "", nil},
		{http.StatusOK, "GET", "/servers?tags=" + url.QueryEscape(`{"a","b"}`), "", nil},
		{http.StatusMethodNotAllowed, "OPTIONS", "/servers", "", nil},
		{http.StatusMethodNotAllowed, "PUT", "/servers", "{}", nil},
		{unprocessable, "GET", "/servers/" + strings.Repeat("a", 8000), "", nil},
		{http.StatusUnsupportedMediaType, "POST", "/servers", packed.String(), []string{"Content-Encoding", "gzip"}},
		{http.StatusUnsupportedMediaType, "POST", "/servers", `{"name":"a"}`, []string{"Content-Type", "text/plain"}},
		{http.StatusBadRequest, "POST", "/servers", `{"name":"a"`, nil},
		{http.StatusBadRequest, "POST", "/servers", `{"name":"a"} {"name":"b"}`, nil},
		{unprocessable, "POST", "/servers", deep, nil},
		{unprocessable, "POST", "/servers", `{"name":"n","metadata":{"a":"\u0000"}}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"n","description":"\u0000"}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"n","NAME":"m"}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"n","checks":[{"name":"c","url":"http://a","priority":1e20}]}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"n","checks":[{"name":"c","url":"http://a","interval":"-5s"}]}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"n","checks":[{"name":"c","url":"file:///etc/passwd"}]}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"日本"}`, nil},
		{unprocessable, "POST", "/groups", `{"name":"g\u0000"}`, nil},
		{unprocessable, "POST", "/groups", `{"name":"g","description":"\u0000"}`, nil},
		{unprocessable, "POST", "/groups", `{"name":"g","selector":{"tags_all":["\u0000"]}}`, nil},
		{unprocessable, "POST", "/tokens", `{"name":"\u0000","role":"viewer"}`, nil},
		{unprocessable, "POST", "/tokens", `{"name":"a","role":"owner"}`, nil},
		{unprocessable, "POST", "/tokens", `{"name":"a","role":"viewer","expires_in_seconds":-1}`, nil},
		{unprocessable, "POST", "/tokens", `{"name":"a","role":"viewer","expires_in_seconds":1e300}`, nil},
		{unprocessable, "POST", "/operations", `{"operation_type":"check_now","filter":{"region":"\u0000"}}`, nil},
		{unprocessable, "POST", "/operations", `{"operation_type":"tag_add","filter":{},"parameters":{"tags":["\u0000"]}}`, nil},
		{unprocessable, "POST", "/exports", `{"export_type":"servers","filters":{"servers":["\u0000"]}}`, nil},
		{unprocessable, "POST", "/exports", `{"export_type":"servers","filters":{"tags":["\u0000"]}}`, nil},
		{unprocessable, "POST", "/exports", `{"export_type":"servers","callback_url":"http://a/\u0000"}`, nil},
		{unprocessable, "POST", "/servers", `{"name":"idem"}`, []string{"Idempotency-Key", "a\xffb"}},
		{unprocessable, "POST", "/exports", `{"export_type":"servers"}`, []string{"Idempotency-Key", "a\xffb"}},
		{unprocessable, "POST", "/operations", `{"operation_type":"check_now","filter":{}}`, []string{"Idempotency-Key", "a\xffb"}},
		{unprocessable, "PATCH", one, `{"display_name":"` + strings.Repeat("a", 300) + `"}`, nil},
		{unprocessable, "PATCH", one, `{"name":"other"}`, nil},
		{unprocessable, "PATCH", one, `[]`, nil},
		{http.StatusPreconditionFailed, "PATCH", one, `{"region":"x"}`, []string{"If-Match", `"99999999999999999999"`}},
		{http.StatusPreconditionFailed, "PATCH", one, `{"region":"x"}`, []string{"If-Match", `W/"1"`}},
		{http.StatusBadRequest, "PATCH", one, ``, nil},
	} {
		got := w.do(w.admin, test.method, base+test.path, test.body, test.headers...)
		name := fmt.Sprintf("%s %.80s %.80s", test.method, test.path, test.body)
		if got.status != test.status {
			t.Errorf("%s: %d, want %d: %.300s", name, got.status, test.status, got.body)
		}
		if said := log.take(); said != "" {
			t.Errorf("%s: logged %.400s", name, said)
		}
	}
	// Tokens and bodies that may be left out, and keys of others.
	w.must(http.StatusOK, w.admin, "POST", base+one+"/token/rotate", "")
	made := w.must(http.StatusCreated, w.admin, "POST", base+"/tokens", `{"name":"t","role":"admin"}`)
	var token NewToken
	made.into(t, &token)
	w.must(http.StatusCreated, w.admin, "POST", base+"/tokens/"+token.ID+"/rotate", "")
	for _, path := range []string{"/groups", "/exports"} {
		body := map[string]string{"/groups": `{"name":"mine"}`, "/exports": `{"export_type":"servers"}`}[path]
		w.do(w.admin, "POST", base+path, body, "Idempotency-Key", "shared"+path)
		if got := w.do(token.Secret, "POST", base+path, body, "Idempotency-Key", "shared"+path); got.status != unprocessable {
			t.Errorf("%s: the key of another token: %d: %s", path, got.status, got.body)
		}
	}
	// The platform is nobody's tenant.
	w.must(http.StatusNotFound, w.token("tenant", store.Admin), "GET", base+"/workers/status", "")
	var list serverList
	w.must(http.StatusOK, w.admin, "GET", base+"/servers", "").into(t, &list)
	if list.Count != 1 {
		t.Errorf("%d servers now", list.Count)
	}
}

// TestTokenGoesNowhereElse: the token that is kept for a server is never sent to another place than those that were named
// together with it, whoever asks.
func TestTokenGoesNowhereElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers",
		`{"name":"checkout","api_url":"https://checkout.example","api_token":"kept-and-never-shown"}`)
	const one, unprocessable = base + "/servers/checkout", http.StatusUnprocessableEntity
	for _, thief := range []string{
		`{"api_url":"https://thief.example"}`, `{"api_url":"http://checkout.example"}`, `{"api_url":"https://checkout.example:8443"}`,
		`{"checks":[{"name":"health","url":"https://thief.example/health","server_token":true}]}`,
		`{"checks":[{"name":"more","kind":"metrics","url":"https://thief.example/metrics","server_token":true}]}`,
		`{"checks":[{"name":"health","url":"https://checkout.example/health","server_token":true,"tls":{"insecure_skip_verify":true}}]}`,
		`{"checks":[{"name":"health","url":"https://checkout.example/health","server_token":true,"tls":{"server_name":"thief.example"}}]}`,
	} {
		if got := w.must(unprocessable, w.admin, "PATCH", one, thief); !strings.Contains(string(got.body), "body.api_token") {
			t.Errorf("%s: %s", thief, got.body)
		}
	}
	for _, honest := range []string{
		`{"api_url":"https://CHECKOUT.example:443/v2"}`,
		`{"checks":[{"name":"health","url":"https://checkout.example/other","server_token":true},{"name":"page","url":"https://www.example"}]}`,
		`{"api_url":"https://new.example","checks":[{"name":"health","url":"https://new.example/health","server_token":true}],"api_token":"the-new-one"}`,
	} {
		w.must(http.StatusOK, w.admin, "PATCH", one, honest)
	}
	stored, err := w.store.DeclaredServers(t.Context(), "default", "checkout")
	if err != nil {
		t.Fatal(err)
	}
	credential := stored[0].Credential
	if got, err := w.api.keyring.OpenToken(stored[0].Key(), credential.Sealed); err != nil || got != "the-new-one" || credential.Previous != "" {
		t.Errorf("presented to the new address: %q, before it %q, %v", got, credential.Previous, err)
	}
	// One without a token may be anywhere, and one that comes back under its name has none of its earlier life.
	w.must(http.StatusOK, w.admin, "PATCH", one, `{"api_token":null}`)
	w.must(http.StatusOK, w.admin, "PATCH", one, `{"api_url":"https://third.example"}`)
	w.must(http.StatusOK, w.admin, "PATCH", one, `{"api_token":"again"}`)
	var before, after ServerDetail
	w.must(http.StatusOK, w.admin, "GET", one, "").into(t, &before)
	w.must(http.StatusNoContent, w.admin, "DELETE", one, "")
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"checkout","api_url":"https://thief.example"}`).into(t, &after)
	if after.HasToken || after.ID != before.ID || after.Revision <= before.Revision {
		t.Errorf("came back as %+v, was %+v", after.Server, before.Server)
	}
}

func mustAudit(t *testing.T, w *world, action string) []store.AuditRow {
	t.Helper()
	rows, err := w.store.AuditLog(t.Context(), store.AuditQuery{Org: "default", Action: action, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
