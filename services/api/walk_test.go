package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/store"
)

// marker is in every name of the organization whose rows nobody else may see.
const marker = "zzmarker"

// walked is one operation of the document.
type walked struct {
	method, path string
	role         store.Role
	operation    map[string]any
}

// operationsOf reads the document as a stranger does, so that what is added later is walked too.
func operationsOf(t *testing.T, w *world) []walked {
	t.Helper()
	var document struct {
		Paths map[string]map[string]map[string]any
	}
	w.must(http.StatusOK, "", "GET", "/openapi.json", "").into(t, &document)
	var all []walked
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(document.Paths[path])) {
			operation := document.Paths[path][method]
			role, _ := operation[roleExtension].(string)
			all = append(all, walked{strings.ToUpper(method), path, store.Role(role), operation})
		}
	}
	if len(all) < 20 {
		t.Fatalf("only %d operations: is this the document?", len(all))
	}
	return all
}

// fill puts values into the parameters that a request cannot be without. ids are those of the foreign organization.
func (o *walked) fill(ids map[string]string) (path, body string) {
	path = o.path
	query := ""
	parameters, _ := o.operation["parameters"].([]any)
	for _, parameter := range parameters {
		p, _ := parameter.(map[string]any)
		name, _ := p["name"].(string)
		required, _ := p["required"].(bool)
		switch {
		case p["in"] == "path":
			path = strings.ReplaceAll(path, "{"+name+"}", o.idFor(name, ids))
		case p["in"] == "query" && required:
			query += "&" + name + "=" + cmp.Or(ids[strings.TrimSuffix(name, "_id")], "x")
		}
	}
	if query != "" {
		path += "?" + query[1:]
	}
	if o.operation["requestBody"] != nil {
		body = "{}"
	}
	return path, body
}

// idFor is what stands in the path: of the foreign organization where it has such a thing.
func (o *walked) idFor(name string, ids map[string]string) string {
	if id, ok := ids[strings.TrimSuffix(name, "_id")]; ok {
		return id
	}
	before, _, _ := strings.Cut(o.path, "/{"+name+"}")
	kind := strings.TrimSuffix(before[strings.LastIndexByte(before, '/')+1:], "s")
	return cmp.Or(ids[kind], "00000000-0000-4000-8000-000000000000")
}

// TestEveryRoute walks every operation of /openapi.json: without a token, with every role that is too low, and with a
// token of another organization, which finds and changes nothing of the first.
func TestEveryRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *Deps) { c.AuthFailures = 1000 })
	owner := w.token("owner", store.Admin)
	ids := map[string]string{}
	for kind, body := range map[string]string{
		"server": fmt.Sprintf(`{"name":"%s-server","api_url":"http://%s","tags":["%s"],"groups":["%s-declared"]}`, marker, marker, marker, marker),
		"group":  fmt.Sprintf(`{"name":"%s-group","selector":{}}`, marker),
		"token":  fmt.Sprintf(`{"name":"%s-token","role":"viewer"}`, marker),
	} {
		var made struct{ ID string }
		w.must(http.StatusCreated, owner, "POST", base+"/"+kind+"s", body).into(t, &made)
		ids[kind] = made.ID
	}
	before := snapshot(t, w, owner, ids)
	roles := []store.Role{store.Viewer, store.Operator, store.Admin}
	tokens, foreign := map[store.Role]string{}, map[store.Role]string{}
	for _, role := range roles {
		tokens[role], foreign[role] = w.token("owner", role), w.token("foreign", role)
	}
	for _, o := range operationsOf(t, w) {
		path, body := o.fill(ids)
		if !o.role.Valid() {
			t.Errorf("%s %s names no role", o.method, o.path)
			continue
		}
		for _, none := range []string{"", "pk_" + strings.Repeat("a", 16) + "_" + strings.Repeat("A", 52), "rubbish"} {
			if got := w.do(none, o.method, path, body); got.status != http.StatusUnauthorized || got.header.Get("Www-Authenticate") == "" {
				t.Errorf("%s %s with token %.10q: %d, want 401", o.method, path, none, got.status)
			}
		}
		for _, role := range roles {
			if !role.May(o.role) {
				if got := w.do(tokens[role], o.method, path, body); got.status != http.StatusForbidden {
					t.Errorf("%s %s as %s: %d, want 403", o.method, path, role, got.status)
				}
				continue
			}
			walkForeign(t, w, &o, foreign[role], path, body)
		}
	}
	if after := snapshot(t, w, owner, ids); after != before {
		t.Errorf("foreign tokens changed something:\n%s\n%s", before, after)
	}
}

// walkForeign asks as another organization: what has an id is not there, lists are empty of the owner's things.
func walkForeign(t *testing.T, w *world, o *walked, token, path, body string) {
	t.Helper()
	if stream, _ := o.operation[streamExtension].(bool); stream {
		return // it goes on for ever; its own test holds it against a foreign token
	}
	got := w.do(token, o.method, path, body)
	if strings.Contains(string(got.body), marker) {
		t.Errorf("%s %s shows another organization's things: %s", o.method, path, got.body)
	}
	refused := got.status == http.StatusNotFound || got.status == http.StatusUnprocessableEntity ||
		got.status == http.StatusBadRequest || got.status == http.StatusServiceUnavailable
	if strings.Contains(o.path, "{") && !refused {
		t.Errorf("%s %s: %d, want 404: %s", o.method, path, got.status, got.body)
	}
	if got.status >= http.StatusInternalServerError && got.status != http.StatusServiceUnavailable {
		t.Errorf("%s %s: %d: %s", o.method, path, got.status, got.body)
	}
}

// snapshot is what the owner has.
func snapshot(t *testing.T, w *world, token string, ids map[string]string) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"/servers/" + ids["server"], "/groups", "/groups/" + ids["group"] + "/servers"} {
		var body any
		w.must(http.StatusOK, token, "GET", base+path, "").into(t, &body)
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
