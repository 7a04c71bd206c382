package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// seedBody is what the source system's clients send to register a server.
const seedBody = `{"name":"Checkout EU","hostname":"checkout.example","api_url":"https://checkout.example/base/",
	"api_token":"presented-to-checkout","description":"sells","region":"eu-west","environment":"production",
	"tags":["web","shop"],"metadata":{"rack":7,"owner":{"team":"sre"}}}`

func checkNamed(t *testing.T, server ServerDetail, name string) Check {
	t.Helper()
	for _, check := range server.Checks {
		if check.Name == name {
			return check
		}
	}
	t.Fatalf("%s has no check %s", server.Name, name)
	return Check{}
}

// TestRegisterAsTheSourceSystemDid: its body works as it is and makes both checks.
func TestRegisterAsTheSourceSystemDid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	created := w.must(http.StatusCreated, w.admin, "POST", base+"/servers", seedBody)
	var server ServerDetail
	created.into(t, &server)
	if server.Name != "checkout-eu" || server.DisplayName != "Checkout EU" || server.Status != "active" ||
		server.HealthStatus != "unknown" || server.ManagedBy != "api" || !server.HasToken || server.Organization != "default" {
		t.Errorf("server %+v", server.Server)
	}
	if diff := cmp.Diff([]string{"shop", "web"}, server.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"rack": 7.0, "owner": map[string]any{"team": "sre"}}, server.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	health, metrics := checkNamed(t, server, "health"), checkNamed(t, server, "metrics")
	if health.Kind != "http" || health.URL != "https://checkout.example/base/health" || health.Interval != "30s" || !health.ServerToken {
		t.Errorf("health %+v", health)
	}
	if metrics.Kind != "metrics" || metrics.URL != "https://checkout.example/base/api/v1/metrics/current" || metrics.Interval != "1m" || !metrics.ServerToken {
		t.Errorf("metrics %+v", metrics)
	}
	location := created.header.Get("Location")
	if location != base+"/servers/"+server.ID || created.header.Get("ETag") != `"1"` {
		t.Errorf("location %q, etag %q", location, created.header.Get("ETag"))
	}
	for _, path := range []string{location, base + "/servers/checkout-eu"} {
		var again ServerDetail
		w.must(http.StatusOK, w.token("default", store.Viewer), "GET", path, "").into(t, &again)
		if diff := cmp.Diff(server, again); diff != "" {
			t.Errorf("%s (-created +read):\n%s", path, diff)
		}
	}
	if strings.Contains(string(created.body), "presented-to") {
		t.Error("the answer holds the token")
	}
	if id, _, err := w.store.ServerByToken(t.Context(), "default", "presented-to-checkout"); err != nil || id != server.ID {
		t.Errorf("looked up %q, %v", id, err)
	}
	w.must(http.StatusConflict, w.admin, "POST", base+"/servers", seedBody)
}

// TestRegisterFaults: what YAML refuses is refused here, by the name of the member, all of it at once.
func TestRegisterFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, test := range map[string]struct{ body, want string }{
		"no health":        {`{"name":"a"}`, "health"},
		"no slug":          {`{"name":"???","api_url":"http://a"}`, "body.name"},
		"userinfo":         {`{"name":"a","api_url":"http://u:p@a"}`, "body.api_url"},
		"timeout":          {`{"name":"a","checks":[{"name":"health","url":"http://a","interval":"5s","timeout":"5s"}]}`, "body.checks[0].timeout"},
		"unknown member":   {`{"name":"a","api_url":"http://a","colour":"red"}`, "body.colour"},
		"unknown in check": {`{"name":"a","checks":[{"name":"health","url":"http://a","colour":"red"}]}`, "body.checks[0].colour"},
		"other kind's":     {`{"name":"a","checks":[{"name":"health","kind":"tcp","url":"http://a"}]}`, "body.checks[0].url"},
		"reported":         {`{"name":"a","checks":[{"name":"health","kind":"reported"}]}`, "body.checks[0].kind"},
		"two of a name":    {`{"name":"a","checks":[{"name":"health","url":"http://a"},{"name":"health","url":"http://b"}]}`, "body.checks[1].name"},
		"bad expression":   {`{"name":"a","checks":[{"name":"health","url":"http://a","expect_body":"("}]}`, "body.checks[0].expect_body"},
		"our environment":  {`{"name":"a","checks":[{"name":"health","url":"http://a","headers":{"X":["secret:env:PICKET_SECRET_X"]}}]}`, "body.checks[0].headers.X"},
		"our files":        {`{"name":"a","checks":[{"name":"health","url":"http://a","tls":{"ca_file":"/etc/passwd"}}]}`, "body.checks[0].tls"},
		"token":            {`{"name":"a","api_url":"http://a","api_token":"a\r\nb"}`, "body.api_token"},
		"metadata":         {`{"name":"a","api_url":"http://a","metadata":{"a":"\u0000"}}`, "body.metadata"},
	} {
		got := w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/servers", test.body)
		if !strings.Contains(string(got.body), test.want) || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s: %s", name, got.header.Get("Content-Type"), got.body)
		}
	}
	w.must(http.StatusBadRequest, w.admin, "POST", base+"/servers", `{"name":`)
	w.must(http.StatusNotFound, w.admin, "GET", base+"/servers/a", "")
}

// TestFullCheckRoundTrip: what is read can be sent back and changes nothing.
func TestFullCheckRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	created := w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"full","checks":[
		{"name":"health","url":"https://a/h","method":"POST","headers":{"X-A":["1","2"],"Accept":["a"]},"body":"{}",
		 "expect_status":["2xx","404"],"expect_body":"ok","expect_json":[{"path":"$.a","equals":{"b":[1,"x"]}},{"path":"$.c"}],
		 "expect_headers":{"X-B":"^c"},"max_latency":"1.5s","min_certificate_days":14,"follow_redirects":true,
		 "connection":"fresh","tls":{"server_name":"b","insecure_skip_verify":true},"interval":"10s","timeout":"2s",
		 "locations":["eu","us"],"priority":5,"enabled":false,
		 "alerts":{"critical_after":3,"unreachable_for":"5m","quorum":2,"close_after":4,"degraded_after":5,"unreachable_after":6}},
		{"name":"db","kind":"tcp","address":"a:5432","send":"x","expect":"y","use_tls":true,"max_latency":"100ms"},
		{"name":"figures","kind":"metrics","url":"http://a/m","format":"prometheus","mapping":"node_exporter",
		 "rules":{"queue":{"series":"queue_length{name=\"a\"}","aggregate":"max","scale":0.5}}}]}`)
	var server ServerDetail
	created.into(t, &server)
	patch, err := json.Marshal(map[string]any{"checks": server.Checks})
	if err != nil {
		t.Fatal(err)
	}
	var again ServerDetail
	w.must(http.StatusOK, w.admin, "PATCH", base+"/servers/full", string(patch)).into(t, &again)
	if diff := cmp.Diff(server, again); diff != "" {
		t.Errorf("(-created +sent back):\n%s", diff)
	}
	var viewed ServerDetail
	w.must(http.StatusOK, w.token("default", store.Operator), "GET", base+"/servers/full", "").into(t, &viewed)
	if got := checkNamed(t, viewed, "health").Headers["X-A"]; cmp.Diff([]string{hidden, hidden}, got) != "" {
		t.Errorf("an operator reads headers %v", got)
	}
}

func TestUpdateServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var server ServerDetail
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", seedBody).into(t, &server)
	path := base + "/servers/" + server.ID

	changed := w.must(http.StatusOK, w.admin, "PATCH", path, `{"description":null,"region":"us","status":"maintenance",
		"tags":["b","a","a"],"metadata":{"rack":null,"owner":{"on_call":"x"}}}`, "If-Match", `"1"`)
	server = ServerDetail{} // or its maps would be merged with what is read
	changed.into(t, &server)
	if server.Description != "" || server.Region != "us" || server.Status != "maintenance" || server.Environment != "production" || server.Revision != 2 {
		t.Errorf("server %+v", server.Server)
	}
	if diff := cmp.Diff(map[string]any{"owner": map[string]any{"team": "sre", "on_call": "x"}}, server.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, server.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	w.must(http.StatusPreconditionFailed, w.admin, "PATCH", path, `{"region":"x"}`, "If-Match", `"1"`)
	w.must(http.StatusOK, w.admin, "PATCH", path, `{"region":"us"}`, "If-Match", `"1", "2"`)
	if same := w.must(http.StatusOK, w.admin, "GET", path, ""); same.header.Get("ETag") != `"2"` {
		t.Errorf("a change of nothing made revision %s", same.header.Get("ETag"))
	}
	w.must(http.StatusOK, w.admin, "PATCH", path, `{"api_url":"http://new.example","api_token":"presented-to-new"}`).into(t, &server)
	if got := checkNamed(t, server, "health").URL; got != "http://new.example/health" {
		t.Errorf("health looks at %s", got)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "PATCH", path, `{"status":"asleep"}`)
	w.must(http.StatusUnprocessableEntity, w.admin, "PATCH", path, `{"api_url":null}`)
	w.must(http.StatusPreconditionFailed, w.admin, "DELETE", path, "", "If-Match", `"1"`)
	w.must(http.StatusNoContent, w.admin, "DELETE", path, "", "If-Match", `"3"`)
	w.must(http.StatusNotFound, w.admin, "GET", path, "")
	w.must(http.StatusNotFound, w.admin, "DELETE", path, "")
	var back ServerDetail
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"checkout-eu","api_url":"http://a"}`).into(t, &back)
	if back.ID != server.ID || back.HasToken {
		t.Errorf("a name that returns has id %s and token %t", back.ID, back.HasToken)
	}

	var log auditList
	record := w.must(http.StatusOK, w.admin, "GET", base+"/audit?target_kind=server&target=checkout-eu", "")
	record.into(t, &log)
	var actions []string
	for _, entry := range log.Entries {
		actions = append(actions, entry.Action)
		if entry.Actor == "" || entry.RequestID == "" || entry.Remote == "" {
			t.Errorf("entry without who: %+v", entry)
		}
	}
	if diff := cmp.Diff([]string{"server.create", "server.delete", "server.update", "server.update", "server.create"}, actions); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if strings.Contains(string(record.body), "presented-to") || strings.Contains(string(record.body), "v1:") {
		t.Error("the record holds a token")
	}
}

// TestOtherSources: what a file or a variable declares is changed there.
func TestOtherSources(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.declare(catalog.SourceFile, catalog.Server{
		Name: "filed", Groups: []string{"payments"}, Checks: []catalog.Check{{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://a"}}},
	})
	for _, r := range []struct{ method, path, body string }{
		{"PATCH", "/servers/filed", `{"region":"x"}`},
		{"DELETE", "/servers/filed", ""},
		{"POST", "/servers/filed/token/rotate", `{}`},
		{"POST", "/servers", `{"name":"filed","api_url":"http://a"}`},
		{"DELETE", "/groups/payments", ""},
		{"PATCH", "/groups/payments", `{"name":"other"}`},
		{"DELETE", "/groups/payments/servers/filed", ""},
	} {
		if got := w.must(http.StatusConflict, w.admin, r.method, base+r.path, r.body); !strings.Contains(string(got.body), "file") {
			t.Errorf("%s %s does not say whose it is: %s", r.method, r.path, got.body)
		}
	}
	var group Group
	w.must(http.StatusOK, w.admin, "PATCH", base+"/groups/payments", `{"description":"what sells"}`).into(t, &group)
	if group.Members != 1 || group.ManagedBy != "file" {
		t.Errorf("group %+v", group)
	}
}

func TestListServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 7 {
		w.must(http.StatusCreated, w.admin, "POST", base+"/servers", fmt.Sprintf(
			`{"name":"s%d","api_url":"http://a","region":"r%d","tags":["all","t%d"],"status":"%s","description":"50%% of s%d"}`,
			i, i%2, i%3, []string{"active", "maintenance"}[i%2], i))
	}
	names := func(query string) string {
		var list serverList
		w.must(http.StatusOK, w.admin, "GET", base+"/servers"+query, "").into(t, &list)
		var names []string
		for _, server := range list.Servers {
			names = append(names, server.Name)
		}
		if list.Count != len(names) {
			t.Errorf("%s: count %d of %d", query, list.Count, len(names))
		}
		return fmt.Sprint(strings.Join(names, " "), " of ", list.Total)
	}
	for query, want := range map[string]string{
		"":                               "s0 s1 s2 s3 s4 s5 s6 of 7",
		"?limit=2":                       "s0 s1 of 7",
		"?limit=2&offset=5":              "s5 s6 of 7",
		"?region=r1":                     "s1 s3 s5 of 3",
		"?status=maintenance&tags=t0":    "s3 of 1",
		"?tags=all,t1":                   "s1 s4 of 2",
		"?health_status=unknown&limit=1": "s0 of 7",
		"?health_status=healthy":         " of 0",
		"?q=50%25":                       "s0 s1 s2 s3 s4 s5 s6 of 7",
		"?q=5__":                         " of 0",
		"?q=OF%20S3":                     "s3 of 1",
		"?environment=nowhere&region=r1": " of 0",
	} {
		if got := names(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	var seen []string
	next := ""
	for page := 0; page == 0 || next != ""; page++ {
		var list serverList
		w.must(http.StatusOK, w.admin, "GET", base+"/servers?limit=3&cursor="+next, "").into(t, &list)
		for _, server := range list.Servers {
			seen = append(seen, server.Name)
		}
		if next = list.Next; page == 0 {
			// One that comes or goes meanwhile moves no other from page to page.
			w.must(http.StatusNoContent, w.admin, "DELETE", base+"/servers/s0", "")
		}
	}
	if got := strings.Join(seen, " "); got != "s0 s1 s2 s3 s4 s5 s6" {
		t.Errorf("by cursor: %s", got)
	}
	for _, bad := range []string{"?limit=0", "?limit=501", "?offset=-1", "?status=x", "?regoin=r1", "?cursor=x"} {
		w.must(http.StatusUnprocessableEntity, w.admin, "GET", base+"/servers"+bad, "")
	}
	w.must(http.StatusNotFound, w.admin, "GET", base+"/servers?group=none", "")
}

// TestIdempotency: of the same request sent many times at once, one makes the server and all answer with it.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var (
		mu    sync.Mutex
		ids   = map[string]int{}
		group sync.WaitGroup
	)
	for range 8 {
		group.Go(func() {
			got := w.do(w.admin, "POST", base+"/servers", seedBody, "Idempotency-Key", "once")
			var server ServerDetail
			if err := json.Unmarshal(got.body, &server); err != nil || got.status != http.StatusCreated {
				t.Errorf("%d: %s", got.status, got.body)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[server.ID]++
		})
	}
	group.Wait()
	if len(ids) != 1 {
		t.Errorf("servers %v", ids)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/servers", `{"name":"other","api_url":"http://a"}`, "Idempotency-Key", "once")
	// A key belongs to the organization.
	w.must(http.StatusCreated, w.token("other", store.Admin), "POST", base+"/servers", `{"name":"other","api_url":"http://a"}`, "Idempotency-Key", "once")
}

// TestConcurrentEdits: edits that overtake each other all happen.
func TestConcurrentEdits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"a","api_url":"http://a"}`)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if got := w.do(w.admin, "PATCH", base+"/servers/a", fmt.Sprintf(`{"metadata":{"k%d":1}}`, i)); got.status != http.StatusOK {
				t.Errorf("%d: %s", got.status, got.body)
			}
		})
	}
	group.Wait()
	var server ServerDetail
	w.must(http.StatusOK, w.admin, "GET", base+"/servers/a", "").into(t, &server)
	if len(server.Metadata) != 4 || server.Revision != 5 {
		t.Errorf("revision %d, metadata %v", server.Revision, server.Metadata)
	}
}

func TestRotateServerToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var server ServerDetail
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", seedBody).into(t, &server)
	path := base + "/servers/checkout-eu/token/rotate"
	var rotated rotatedServerToken
	w.must(http.StatusOK, w.admin, "POST", path, `{"overlap_seconds":60}`).into(t, &rotated)
	if len(rotated.Token) < 32 || rotated.PreviousUntil == nil {
		t.Fatalf("rotated %+v", rotated)
	}
	stored, err := w.store.DeclaredServers(t.Context(), "default", "checkout-eu")
	if err != nil {
		t.Fatal(err)
	}
	credential := stored[0].Credential
	for sealed, want := range map[string]string{credential.Sealed: rotated.Token, credential.Previous: "presented-to-checkout"} {
		if got, err := w.api.keyring.OpenToken(stored[0].Key(), sealed); err != nil || got != want {
			t.Errorf("sealed %q, %v, want %q", got, err, want)
		}
	}
	if stored[0].Change != catalog.TokenRotated || stored[0].Revision != 2 {
		t.Errorf("change %s, revision %d", stored[0].Change, stored[0].Revision)
	}
	for _, check := range stored[0].Checks {
		if check.Revision != 2 {
			t.Errorf("probers of %s do not hear of it: revision %d", check.Name, check.Revision)
		}
	}
	if id, _, err := w.store.ServerByToken(t.Context(), "default", rotated.Token); err != nil || id != server.ID {
		t.Errorf("looked up %q, %v", id, err)
	}
	var given rotatedServerToken
	w.must(http.StatusOK, w.admin, "POST", path, `{"token":"my-own","overlap_seconds":0}`).into(t, &given)
	if given.Token != "" || given.PreviousUntil != nil {
		t.Errorf("rotated %+v", given)
	}
	record := w.must(http.StatusOK, w.admin, "GET", base+"/audit?action=server.token.rotate", "")
	if text := string(record.body); strings.Contains(text, rotated.Token) || strings.Contains(text, "my-own") || strings.Contains(text, "v1:") {
		t.Errorf("the record holds a token: %s", text)
	}
}

// TestWithoutKey: nothing is kept that cannot be sealed, and it is said what is missing.
func TestWithoutKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withoutKey)
	got := w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/servers", seedBody)
	if !strings.Contains(string(got.body), "PICKET_SECRET_KEY") {
		t.Errorf("problem %s", got.body)
	}
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"a","api_url":"http://a"}`)
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/servers/a/token/rotate", `{}`)
}

func TestSlug(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"Checkout EU": "checkout-eu", "a": "a", "--a--": "a", "Ünïcode 1": "n-code-1", "???": "", "a_b": "a_b",
		strings.Repeat("x", 80): strings.Repeat("x", 63), strings.Repeat("x", 62) + " y": strings.Repeat("x", 62),
	} {
		if got := slug(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
