package probe

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// gate is a target that lets some tokens in and remembers all that it was shown.
type gate struct {
	mu    sync.Mutex
	knows string
	shown []string
	delay time.Duration
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("Authorization")
	g.mu.Lock()
	g.shown = append(g.shown, token)
	known := g.knows
	g.mu.Unlock()
	if g.delay > 0 {
		select {
		case <-time.After(g.delay):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if token != "Bearer "+known {
		w.WriteHeader(map[bool]int{true: http.StatusForbidden, false: http.StatusUnauthorized}[token != ""])
	}
	_, _ = fmt.Fprint(w, `{"status":"ok"}`)
}

func (g *gate) takeShown() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	shown := g.shown
	g.shown = nil
	return shown
}

func compileBearer(t *testing.T, spec *picketv1.HTTPSpec, bearer credential.Bearer) (Prober, error) {
	t.Helper()
	spec.ServerToken = true
	return New(&picketv1.Check{Name: "health", Kind: "http", Spec: &picketv1.Check_Http{Http: spec}},
		Options{Pool: newPool(t, PoolOptions{}), Bearer: bearer})
}

func bearerOf(token, previous string, until time.Time) credential.Bearer {
	return credential.Bearer{Token: token, Previous: previous, PreviousUntil: until}
}

func mustBearer(t *testing.T, spec *picketv1.HTTPSpec, bearer credential.Bearer) Prober {
	t.Helper()
	p, err := compileBearer(t, spec, bearer)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The new token first; the one before only when that is refused, once, and only
// while it holds.
func TestBearer(t *testing.T) {
	t.Parallel()
	ahead, past := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	tests := []struct {
		name   string
		knows  string
		bearer credential.Bearer
		status string
		shown  []string
	}{
		{"known", "new", bearerOf("new", "old", ahead), "healthy", []string{"Bearer new"}},
		{"not known yet", "old", bearerOf("new", "old", ahead), "healthy", []string{"Bearer new", "Bearer old"}},
		{"neither", "other", bearerOf("new", "old", ahead), "degraded", []string{"Bearer new", "Bearer old"}},
		{"overlap over", "old", bearerOf("new", "old", past), "degraded", []string{"Bearer new"}},
		{"none before", "old", credential.Bearer{Token: "new"}, "degraded", []string{"Bearer new"}},
		{"the same before", "old", bearerOf("new", "new", ahead), "degraded", []string{"Bearer new"}},
		{"nothing to present", "old", credential.Bearer{}, "degraded", []string{""}},
	}
	for _, tt := range tests {
		for _, connection := range []string{"keep-alive", "fresh"} {
			t.Run(tt.name+" "+connection, func(t *testing.T) {
				t.Parallel()
				target := &gate{knows: tt.knows}
				server := serve(t, target.ServeHTTP)
				p := mustBearer(t, &picketv1.HTTPSpec{Url: server.URL, Connection: connection, Method: "POST", Body: "x"}, tt.bearer)
				for range 2 {
					r := within(t, p, patient)
					if got := health.Word(r.GetStatus()); got != tt.status {
						t.Errorf("got %v", r)
					}
					if shown := target.takeShown(); !slices.Equal(shown, tt.shown) {
						t.Errorf("shown %q, want %q", shown, tt.shown)
					}
				}
			})
		}
	}
}

// Both requests share one timeout.
func TestBearerWithinOneTimeout(t *testing.T) {
	t.Parallel()
	target := &gate{knows: "old", delay: 400 * time.Millisecond}
	server := serve(t, target.ServeHTTP)
	p := mustBearer(t, &picketv1.HTTPSpec{Url: server.URL}, bearerOf("new", "old", time.Now().Add(time.Hour)))
	wantResult(t, within(t, p, 600*time.Millisecond), "unreachable", health.ReasonTimeout)
	if shown := target.takeShown(); !slices.Equal(shown, []string{"Bearer new", "Bearer old"}) {
		t.Errorf("shown %q", shown)
	}
}

// A token is for the server that the check names and nobody else, whichever of
// the two it is.
func TestBearerStaysWithItsHost(t *testing.T) {
	t.Parallel()
	other := &gate{}
	away := serve(t, other.ServeHTTP)
	target := &gate{knows: "old"}
	mux := http.NewServeMux()
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, away.URL, http.StatusFound) })
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) })
	mux.Handle("/", target)
	server := serve(t, mux.ServeHTTP)
	bearer := bearerOf("new", "old", time.Now().Add(time.Hour))
	within(t, mustBearer(t, &picketv1.HTTPSpec{Url: server.URL + "/away", FollowRedirects: true}, bearer), patient)
	if shown := other.takeShown(); len(shown) == 0 || slices.ContainsFunc(shown, func(s string) bool { return s != "" }) {
		t.Errorf("another host was shown %q", shown)
	}
	r := within(t, mustBearer(t, &picketv1.HTTPSpec{Url: server.URL + "/near", FollowRedirects: true}, bearer), patient)
	wantResult(t, r, "healthy", "")
}

func TestBearerThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]*picketv1.HTTPSpec{
		"sn\r\neaky": {Url: "http://127.0.0.1"},
		"geheim-π":   {Url: "http://127.0.0.1"},
		"secret":     {Url: "http://127.0.0.1", Headers: []*picketv1.Header{{Name: "authorization", Value: "Basic x"}}},
	} {
		_, err := compileBearer(t, spec, credential.Bearer{Token: name})
		var field *health.FieldError
		if !errors.As(err, &field) || field.Field != "server_token" {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), name) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	b := bearerOf("secret", "older", time.Now())
	if text := fmt.Sprintf("%v %+v %#v %+v", b, b, b, Options{Bearer: b}); strings.Contains(text, "secret") || strings.Contains(text, "older") {
		t.Errorf("printed: %s", text)
	}
}
