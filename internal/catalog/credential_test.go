package catalog

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func tokenKeyring(t *testing.T) *Keyring {
	t.Helper()
	keyring, err := NewKeyring(bytes.Repeat([]byte{7}, SealKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return keyring
}

// TestSealToken: a token opens for its own server and nowhere else, the one before with it for as long as was said.
func TestSealToken(t *testing.T) {
	t.Parallel()
	keyring := tokenKeyring(t)
	server := Key{Org: "shop", Name: "checkout"}
	first := keyring.SealToken(server, "one", nil, time.Time{})
	if first.Previous != "" || !first.PreviousUntil.IsZero() {
		t.Errorf("the first token has one before it: %+v", first)
	}
	until := time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)
	second := keyring.SealToken(server, "two", first, until)
	for sealed, want := range map[string]string{second.Sealed: "two", second.Previous: "one"} {
		if got, err := keyring.OpenToken(server, sealed); err != nil || got != want {
			t.Errorf("opened %q, %v, want %q", got, err, want)
		}
		if _, err := keyring.OpenToken(Key{Org: "other", Name: "checkout"}, sealed); !errors.Is(err, ErrSeal) {
			t.Errorf("opened for another organization: %v", err)
		}
	}
	if third := keyring.SealToken(server, "three", second, time.Time{}); third.Previous != "" {
		t.Error("a token that was to end at once is still presented")
	}
	if first.Hash != HashToken("one") || len(first.Hash) != 64 {
		t.Errorf("hash %q", first.Hash)
	}
}

func TestTokenFault(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"x", "pk_a_b", "eyJ.eyJ.sig-_~+/=", strings.Repeat("a", MaxToken)} {
		if fault := TokenFault(good); fault != "" {
			t.Errorf("%.20q %s", good, fault)
		}
	}
	for _, bad := range []string{"", "a b", "a\r\nX: y", "ü", "a\x00", strings.Repeat("a", MaxToken+1)} {
		if TokenFault(bad) == "" {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

// TestScheduledCredential: only checks that present the token carry it.
func TestScheduledCredential(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)
	server := Server{
		Name: "a", Credential: &Credential{Sealed: "new", Hash: "h", Previous: "old", PreviousUntil: until},
		Checks: []Check{
			{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://a/health", ServerToken: true}},
			{Name: "metrics", Metrics: &picketv1.MetricsSpec{Url: "http://a/metrics", ServerToken: true}},
			{Name: "other", HTTP: &picketv1.HTTPSpec{Url: "http://elsewhere/"}},
		},
	}
	server.Complete(Defaults{})
	want := map[string]bool{"health": true, "metrics": true}
	for i := range server.Checks {
		check := &server.Checks[i]
		check.Schedules = []Schedule{{Interval: check.Interval, Locations: check.Locations}}
		form := server.Scheduled(check, time.Now())[DefaultLocation]
		if got := form.GetCredential(); (got != nil) != want[check.Name] {
			t.Errorf("%s carries %v", check.Name, got)
		} else if got != nil && (got.Sealed != "new" || got.Previous != "old" || !got.PreviousUntil.AsTime().Equal(until)) {
			t.Errorf("%s carries %v", check.Name, got)
		}
	}
	if text := server.CatalogChange().String(); strings.Contains(text, "new") || strings.Contains(text, "old") {
		t.Errorf("the event that everybody may read holds the token: %s", text)
	}
}

// TestDiffCredential: a new token is a change of the checks that present it and of nothing else.
func TestDiffCredential(t *testing.T) {
	t.Parallel()
	have := Server{
		Name: "a", Source: SourceAPI, Credential: &Credential{Sealed: "old", Hash: "o"},
		Checks: []Check{
			{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://a/health", ServerToken: true}},
			{Name: "other", HTTP: &picketv1.HTTPSpec{Url: "http://elsewhere/"}},
		},
	}
	have.Complete(Defaults{})
	want := have
	want.Credential = &Credential{Sealed: "new", Hash: "n"}
	plan, _ := Diff(SourceAPI, []Server{want}, []Server{have})
	if len(plan.Change) != 1 {
		t.Fatalf("plan %+v", plan)
	}
	change := plan.Change[0]
	if !change.Credential || change.Self || change.Lifecycle || len(change.Gone) > 0 {
		t.Errorf("change %+v", change)
	}
	if diff := cmp.Diff([]string{"health"}, change.Checks); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

func TestParseChecks(t *testing.T) {
	t.Parallel()
	checks, err := ParseChecks([]byte(`[
		{"name":"health","url":"https://a/health","interval":"10s","headers":{"X-A":["1","2"]},"server_token":true,
		 "expect_json":[{"path":"$.a","equals":"ok"}],"alerts":{"critical_after":4}},
		{"name":"db","kind":"tcp","address":"a:5432","enabled":false,"locations":["eu"]},
		{"name":"figures","kind":"metrics","url":"http://a/m","format":"json","server_token":true}]`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Check{
		{
			Name: "health", Interval: 10 * time.Second, Alerts: &picketv1.AlertRules{CriticalAfter: 4},
			HTTP: &picketv1.HTTPSpec{
				Url: "https://a/health", ServerToken: true,
				Headers:    []*picketv1.Header{{Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}},
				ExpectJson: []*picketv1.JSONPathAssertion{{Path: "$.a", Equals: `"ok"`}},
			},
		},
		{Name: "db", Disabled: true, Locations: []string{"eu"}, TCP: &picketv1.TCPSpec{Address: "a:5432"}},
		{Name: "figures", Metrics: &picketv1.MetricsSpec{Url: "http://a/m", Format: "json", ServerToken: true}},
	}
	if diff := cmp.Diff(want, checks, protocmp.Transform()); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	_, err = ParseChecks([]byte(`[{"name":"a","colour":1,"interval":"x"}]`))
	faults, ok := errors.AsType[Faults](err)
	if !ok || len(faults) != 2 || faults[0].Path != "checks[0].colour" || faults[1].Path != "checks[0].interval" || faults[0].Line != 0 {
		t.Errorf("faults %#v", faults)
	}
	// Only the API knows of tokens of servers: a file refers to its secrets.
	if _, err := Parse("f", []byte("servers: [{name: a, checks: [{name: health, url: 'http://a', server_token: true}]}]"), Defaults{}); err == nil {
		t.Error("a file may say server_token")
	}
}

// TestParseAttributes: what people want to know of a server besides.
func TestParseAttributes(t *testing.T) {
	t.Parallel()
	file, err := Parse("f", []byte("servers:\n- name: a\n  url: http://a\n  description: |\n    two\n    lines\n"+
		"  hostname: a.example\n  version: '1.2'\n  metadata: {rack: 7, owner: {team: sre}}\n"), Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	got := file.Servers[0]
	if got.Description != "two\nlines\n" || got.Hostname != "a.example" || got.Version != "1.2" {
		t.Errorf("got %+v", got)
	}
	if diff := cmp.Diff(map[string]any{"rack": 7.0, "owner": map[string]any{"team": "sre"}}, got.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"metadata: 5", "metadata: [1]", "metadata: {a: .nan}", `description: "\x00"`, "hostname: {}"} {
		if _, err := Parse("f", []byte("servers:\n- name: a\n  url: http://a\n  "+bad+"\n"), Defaults{}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
