package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/store"
)

// TestTokenLife: created, used, rotated with an overlap, revoked; each for the record, none with its secret.
func TestTokenLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var made NewToken
	created := w.must(http.StatusCreated, w.admin, "POST", base+"/tokens", `{"name":"ci","role":"operator","expires_in_seconds":3600}`)
	created.into(t, &made)
	if got := created.header.Get("Location"); got != base+"/tokens/"+made.ID {
		t.Errorf("location %q", got)
	}
	if made.State != "active" || made.ExpiresAt == nil || time.Until(*made.ExpiresAt) > time.Hour {
		t.Errorf("made %+v", made)
	}
	w.must(http.StatusOK, made.Secret, "GET", base+"/tokens/current", "")
	w.must(http.StatusForbidden, made.Secret, "GET", base+"/tokens", "")

	var next NewToken
	w.must(http.StatusCreated, w.admin, "POST", base+"/tokens/"+made.ID+"/rotate", `{"overlap_seconds":600}`).into(t, &next)
	if next.RotatedFrom != made.ID || next.Role != store.Operator || next.Name != "ci" || next.Secret == made.Secret {
		t.Errorf("rotated %+v", next)
	}
	w.must(http.StatusOK, made.Secret, "GET", base+"/tokens/current", "")
	w.must(http.StatusOK, next.Secret, "GET", base+"/tokens/current", "")
	w.must(http.StatusNoContent, w.admin, "DELETE", base+"/tokens/"+next.ID, "")
	w.must(http.StatusUnauthorized, next.Secret, "GET", base+"/tokens/current", "")
	w.must(http.StatusConflict, w.admin, "POST", base+"/tokens/"+next.ID+"/rotate", `{}`)

	var last NewToken
	w.must(http.StatusCreated, w.admin, "POST", base+"/tokens/"+made.ID+"/rotate", `{"overlap_seconds":0}`).into(t, &last)
	w.must(http.StatusUnauthorized, made.Secret, "GET", base+"/tokens/current", "")
	w.must(http.StatusOK, last.Secret, "GET", base+"/tokens/current", "")

	var log auditList
	record := w.must(http.StatusOK, w.admin, "GET", base+"/audit?target_kind=token", "")
	record.into(t, &log)
	var actions []string
	for _, entry := range log.Entries {
		actions = append(actions, entry.Action)
	}
	if got := strings.Join(actions, " "); got != "token.rotate token.revoke token.rotate token.create token.create" {
		t.Errorf("record %s", got)
	}
	for _, token := range []NewToken{made, next, last} {
		_, secret, _ := strings.Cut(token.Secret, token.ID+"_")
		if strings.Contains(string(record.body), secret) {
			t.Errorf("the record holds the secret of %s", token.ID)
		}
	}
}

// TestRevokedEverywhere: another replica, which has just taken the token, refuses it within two seconds.
func TestRevokedEverywhere(t *testing.T) {
	t.Parallel()
	database := migrated.Postgres(t).URL
	w, other := newWorldOn(t, database), newWorldOn(t, database)
	token := w.token("default", store.Viewer)
	other.must(http.StatusOK, token, "GET", base+"/tokens/current", "")
	id, _, _ := strings.Cut(strings.TrimPrefix(token, "pk_"), "_")
	w.must(http.StatusNoContent, other.admin, "DELETE", base+"/tokens/"+id, "")
	revoked := time.Now()
	other.waitFor("refusal", func() bool {
		return other.do(token, "GET", base+"/tokens/current", "").status == http.StatusUnauthorized
	})
	if took := time.Since(revoked); took > 2*time.Second {
		t.Errorf("refused after %s", took)
	}
}

// TestTokenRoles: nobody makes more than they are.
func TestTokenRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, role := range []store.Role{store.Viewer, store.Operator} {
		w.must(http.StatusForbidden, w.token("default", role), "POST", base+"/tokens", `{"name":"x","role":"viewer"}`)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/tokens", `{"name":"x","role":"emperor"}`)
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/tokens", `{"name":"x","role":"viewer","expires_at":"2020-01-01T00:00:00Z"}`)
}

// TestListTokensByCursor: every token is on exactly one page.
func TestListTokensByCursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 4 {
		w.token("default", store.Viewer)
	}
	seen := map[string]bool{}
	next := ""
	for pages := 0; pages == 0 || next != ""; pages++ {
		var list tokenList
		w.must(http.StatusOK, w.admin, "GET", base+"/tokens?limit=2&cursor="+next, "").into(t, &list)
		for _, token := range list.Tokens {
			if seen[token.ID] {
				t.Errorf("%s twice", token.ID)
			}
			seen[token.ID] = true
		}
		next = list.Next
	}
	if len(seen) != 5 {
		t.Errorf("%d tokens, want 5", len(seen))
	}
	for _, bad := range []string{"x", "!!!", cursor("servers", "a"), cursor("tokens", 5), strings.Repeat("a", 5000)} {
		w.must(http.StatusUnprocessableEntity, w.admin, "GET", base+"/tokens?cursor="+bad, "")
	}
}
