package api

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/services/api/client"
)

// TestDocumentIsWritten: the client that is checked in is that of this very API.
func TestDocumentIsWritten(t *testing.T) {
	t.Parallel()
	want, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("client/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Error("client/openapi.json is not what the API says of itself: run go generate ./client")
	}
}

// TestGeneratedClient: who generates a client from the document can work with it.
func TestGeneratedClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, err := client.NewClientWithResponses(w.url, client.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+w.admin)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	address, key := "http://checkout.example", "key-1"
	var id string
	for range 2 {
		made, err := c.CreateServerWithResponse(ctx, &client.CreateServerParams{IdempotencyKey: &key},
			client.NewServerBody{Name: "Checkout", ApiUrl: &address, Tags: &[]string{"web"}})
		if err != nil || made.JSON201 == nil {
			t.Fatalf("%v: %s", err, made.Body)
		}
		if id == "" {
			id = made.JSON201.Id.String()
		}
		if made.JSON201.Id.String() != id || len(made.JSON201.Checks) != 2 {
			t.Errorf("made %+v", made.JSON201)
		}
	}
	region, tag := "eu", `"1"`
	changed, err := c.UpdateServerWithResponse(ctx, id, &client.UpdateServerParams{IfMatch: &tag}, client.UpdateServerInputBody{Region: &region})
	if err != nil || changed.JSON200 == nil || changed.JSON200.Region != "eu" {
		t.Fatalf("%v: %s", err, changed.Body)
	}
	late, err := c.UpdateServerWithResponse(ctx, id, &client.UpdateServerParams{IfMatch: &tag}, client.UpdateServerInputBody{Region: &region})
	if err != nil || late.ApplicationproblemJSON412 == nil {
		t.Fatalf("%v: %s", err, late.Body)
	}
	_, err = c.CreateGroupWithResponse(ctx, &client.CreateGroupParams{}, client.CreateGroupInputBody{
		Name: "eu", Selector: &client.Selector{Regions: &[]string{"eu"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	members, err := c.ListGroupServersWithResponse(ctx, "eu", &client.ListGroupServersParams{})
	if err != nil || members.JSON200 == nil {
		t.Fatalf("%v: %s", err, members.Body)
	}
	var names []string
	for _, server := range members.JSON200.Servers {
		names = append(names, server.Name)
	}
	if diff := cmp.Diff([]string{"checkout"}, names); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	nobody, err := c.GetServerWithResponse(ctx, "nobody")
	if err != nil || nobody.ApplicationproblemJSON404 == nil || *nobody.ApplicationproblemJSON404.Status != http.StatusNotFound {
		t.Errorf("%v: %s", err, nobody.Body)
	}
}
