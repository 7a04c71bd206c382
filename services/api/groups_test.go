package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// members are the names of a group's servers.
func members(t *testing.T, w *world, group string) string {
	t.Helper()
	var list serverList
	w.must(http.StatusOK, w.admin, "GET", base+"/groups/"+group+"/servers?limit=500", "").into(t, &list)
	var names []string
	for _, server := range list.Servers {
		names = append(names, server.Name)
	}
	if list.Total != len(names) {
		t.Errorf("%s: total %d of %d", group, list.Total, len(names))
	}
	return strings.Join(names, " ")
}

// TestSelectors: a selector is really evaluated, each part of it and all together, and follows every change.
func TestSelectors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, body := range []string{
		`"tags":["web","blue"],"region":"eu","environment":"prod"`,
		`"tags":["web"],"region":"us","environment":"prod","status":"maintenance"`,
		`"tags":["db","blue"],"region":"eu","environment":"test"`,
	} {
		w.must(http.StatusCreated, w.admin, "POST", base+"/servers", fmt.Sprintf(`{"name":"s%d","api_url":"http://a",%s}`, i, body))
	}
	w.declare(catalog.SourceEnv, catalog.Server{Name: "env", Checks: []catalog.Check{{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://a"}}}})
	for name, test := range map[string]struct{ selector, want string }{
		"all":           {`{}`, "env s0 s1 s2"},
		"tags-any":      {`{"tags_any":["db","web"]}`, "s0 s1 s2"},
		"tags-all":      {`{"tags_all":["web","blue"]}`, "s0"},
		"tags-both":     {`{"tags_all":["blue"],"tags_any":["db","x"]}`, "s2"},
		"regions":       {`{"regions":["us","asia"]}`, "s1"},
		"environments":  {`{"environments":["prod"]}`, "s0 s1"},
		"status":        {`{"status":["maintenance"]}`, "s1"},
		"health-status": {`{"health_status":["unknown"]}`, "env s0 s1 s2"},
		"unhealthy":     {`{"health_status":["critical","unreachable"]}`, ""},
		"together":      {`{"tags_any":["web"],"regions":["eu"],"environments":["prod"],"status":["active"],"health_status":["unknown"]}`, "s0"},
		"nobody":        {`{"tags_any":["none"]}`, ""},
	} {
		w.must(http.StatusCreated, w.admin, "POST", base+"/groups", fmt.Sprintf(`{"name":%q,"selector":%s}`, name, test.selector))
		if got := members(t, w, name); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		var list serverList
		w.must(http.StatusOK, w.admin, "GET", base+"/servers?group="+name, "").into(t, &list)
		if want := len(strings.Fields(test.want)); list.Count != want {
			t.Errorf("list by group %s: %d, want %d", name, list.Count, want)
		}
	}
	w.must(http.StatusOK, w.admin, "PATCH", base+"/servers/s1", `{"region":"eu"}`)
	w.must(http.StatusNoContent, w.admin, "DELETE", base+"/servers/s0", "")
	if got := members(t, w, "regions") + "|" + members(t, w, "all"); got != "|env s1 s2" {
		t.Errorf("after a change %q", got)
	}
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/groups", `{"name":"x","selector":{"status":["asleep"]}}`)
	w.must(http.StatusUnprocessableEntity, w.admin, "POST", base+"/groups", `{"name":"x","selector":{"label":["a"]}}`)
}

// TestGroupsOfTheSourceSystem: its bodies work, and its criteria are evaluated now.
func TestGroupsOfTheSourceSystem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var server ServerDetail
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", seedBody).into(t, &server)
	var group Group
	created := w.must(http.StatusCreated, w.admin, "POST", base+"/groups",
		`{"name":"Web servers","description":"d","color":"#3366ff","tags":["web"],"regions":["eu-west"],"environments":["production"]}`)
	created.into(t, &group)
	want := &Selector{TagsAny: []string{"web"}, Regions: []string{"eu-west"}, Environments: []string{"production"}}
	if diff := cmp.Diff(want, group.Selector); diff != "" || group.Members != 1 {
		t.Errorf("%d members, selector (-want +got):\n%s", group.Members, diff)
	}
	if got := created.header.Get("Location"); got != base+"/groups/"+group.ID {
		t.Errorf("location %q", got)
	}
	w.must(http.StatusConflict, w.admin, "POST", base+"/groups", `{"name":"Web servers"}`)

	var static Group
	w.must(http.StatusCreated, w.admin, "POST", base+"/groups", `{"name":"static"}`).into(t, &static)
	member := fmt.Sprintf(`{"server_id":%q,"group_id":%q}`, server.ID, static.ID)
	w.must(http.StatusNoContent, w.admin, "POST", base+"/groups/members", member)
	w.must(http.StatusNoContent, w.admin, "POST", base+"/groups/members", member)
	w.must(http.StatusOK, w.admin, "GET", base+"/servers/"+server.ID, "").into(t, &server)
	if got := members(t, w, "static") + " " + strings.Join(server.Groups, " "); got != "checkout-eu static" || server.Revision != 2 {
		t.Errorf("member %q, revision %d", got, server.Revision)
	}
	remove := fmt.Sprintf("%s/groups/members?server_id=%s&group_id=%s", base, server.ID, static.ID)
	w.must(http.StatusNoContent, w.admin, "DELETE", remove, "")
	w.must(http.StatusNotFound, w.admin, "DELETE", remove, "")
	w.must(http.StatusNotFound, w.admin, "POST", base+"/groups/members", `{"server_id":"none","group_id":"static"}`)
	w.must(http.StatusNotFound, w.admin, "PUT", base+"/groups/none/servers/checkout-eu", "")
}

// TestForeignSourcesInGroups: people put servers of any source into their groups, and no edit of the file takes them out.
func TestForeignSourcesInGroups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	filed := func(region string) catalog.Server {
		return catalog.Server{Name: "filed", Region: region, Groups: []string{"declared"}, Checks: []catalog.Check{
			{Name: "health", HTTP: &picketv1.HTTPSpec{Url: "http://a"}},
		}}
	}
	w.declare(catalog.SourceFile, filed("a"))
	w.must(http.StatusCreated, w.admin, "POST", base+"/groups", `{"name":"mine"}`)
	w.must(http.StatusNoContent, w.admin, "PUT", base+"/groups/mine/servers/filed", "")
	w.declare(catalog.SourceFile, filed("b"))
	if got := members(t, w, "mine") + " " + members(t, w, "declared"); got != "filed filed" {
		t.Errorf("members %q", got)
	}
	w.must(http.StatusNoContent, w.admin, "DELETE", base+"/groups/mine/servers/filed", "")
	w.must(http.StatusNoContent, w.admin, "DELETE", base+"/groups/mine", "")
	w.declare(catalog.SourceFile, catalog.Server{Name: "filed", Checks: filed("b").Checks})
	if got := members(t, w, "declared"); got != "" {
		t.Errorf("the file took it out, and it is still in: %q", got)
	}
	w.must(http.StatusNoContent, w.admin, "DELETE", base+"/groups/declared", "")
}

func TestUpdateGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(http.StatusCreated, w.admin, "POST", base+"/groups", `{"name":"a","description":"d","selector":{"regions":["eu"]}}`)
	w.must(http.StatusCreated, w.admin, "POST", base+"/groups", `{"name":"b"}`)
	w.must(http.StatusCreated, w.admin, "POST", base+"/servers", `{"name":"s","api_url":"http://a","groups":["a"]}`)
	got := w.must(http.StatusOK, w.admin, "PATCH", base+"/groups/a", `{"name":"Ä new","selector":null,"color":"#000000"}`, "If-Match", `"1"`)
	var group Group
	got.into(t, &group)
	if group.Name != "Ä new" || group.Selector != nil || group.Description != "d" || group.Color != "#000000" || got.header.Get("ETag") != `"2"` {
		t.Errorf("group %+v", group)
	}
	var server ServerDetail
	w.must(http.StatusOK, w.admin, "GET", base+"/servers/s", "").into(t, &server)
	if diff := cmp.Diff([]string{"Ä new"}, server.Groups); diff != "" || server.Revision != 2 {
		t.Errorf("revision %d, groups (-want +got):\n%s", server.Revision, diff)
	}
	w.must(http.StatusPreconditionFailed, w.admin, "PATCH", base+"/groups/"+group.ID, `{"color":"#ffffff"}`, "If-Match", `"1"`)
	w.must(http.StatusConflict, w.admin, "PATCH", base+"/groups/"+group.ID, `{"name":"b"}`)
	w.must(http.StatusUnprocessableEntity, w.admin, "PATCH", base+"/groups/"+group.ID, `{"color":"red"}`)
	w.must(http.StatusPreconditionFailed, w.admin, "DELETE", base+"/groups/"+group.ID, "", "If-Match", `"1"`)
	w.must(http.StatusNoContent, w.admin, "DELETE", base+"/groups/"+group.ID, "")
}
