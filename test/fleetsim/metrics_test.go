package fleetsim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/test/fleetsim"
)

// ask sends a GET with a token, if there is one.
func ask(t *testing.T, c *http.Client, url, token string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestFiguresAreKnown(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{Servers: 3, Keep: 2})
	c := client(t)
	var last int64
	for i := range 3 {
		before := time.Now().UnixMilli()
		response, body := get(t, c, fleet.MetricsURL(2))
		if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%d: %s", response.StatusCode, body)
		}
		var all map[string]any
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		at, _ := all[fleetsim.SampledAt].(float64)
		last = int64(at)
		if last < before || last > time.Now().UnixMilli() {
			t.Errorf("answer %d is of %d", i, last)
		}
		want := map[string]any{}
		for name, value := range fleetsim.Figures(2, last) {
			want[name] = value
		}
		if err := json.Unmarshal([]byte(fleetsim.Extra(2)), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, all); diff != "" {
			t.Error(diff)
		}
	}
	report := fleet.Report()
	if s := report.Servers[2]; s.Shown != 3 || len(s.Sampled) != 2 || s.Sampled[1] != last || !slices.IsSorted(s.Sampled) {
		t.Errorf("shown %d, sampled %v, the last at %d", s.Shown, s.Sampled, last)
	}
	if report.Requests != 0 || report.NeverAsked != 3 {
		t.Errorf("%d requests for figures count as looks at health", report.Requests)
	}
	if cmp.Equal(fleetsim.Figures(1, last), fleetsim.Figures(2, last)) || fleetsim.Figures(2, last+1000)["network_rx_bytes"] <= fleetsim.Figures(2, last)["network_rx_bytes"] {
		t.Error("servers are alike, or time stands still")
	}
}

func TestMetricsMisbehave(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{Servers: 1})
	c := client(t)
	for mode, check := range map[fleetsim.MetricsMode]func(r *http.Response) bool{
		fleetsim.BadType: func(r *http.Response) bool {
			var all map[string]any
			_, isText := func() (string, bool) {
				if err := json.NewDecoder(r.Body).Decode(&all); err != nil {
					return "", false
				}
				text, ok := all["cpu_percent"].(string)
				return text, ok
			}()
			return isText
		},
		fleetsim.GarbageMetrics: func(r *http.Response) bool {
			body, err := io.ReadAll(r.Body)
			return err == nil && len(body) > 0 && !json.Valid(body)
		},
		fleetsim.NoMetrics: func(r *http.Response) bool { return r.StatusCode == http.StatusNotFound },
		fleetsim.HugeMetrics: func(r *http.Response) bool {
			n, err := io.CopyN(io.Discard, r.Body, 32<<20)
			return err == nil && n == 32<<20
		},
		fleetsim.HangingMetrics: func(r *http.Response) bool {
			_, err := io.ReadAll(r.Body)
			return err != nil
		},
	} {
		fleet.SetMetrics(0, mode)
		patience := *c
		patience.Timeout = 500 * time.Millisecond
		if mode == fleetsim.HugeMetrics {
			patience.Timeout = 10 * time.Second
		}
		if !check(ask(t, &patience, fleet.MetricsURL(0), "")) {
			t.Errorf("%s does not", mode)
		}
		if response, _ := get(t, c, fleet.URL(0)); response.StatusCode != http.StatusOK {
			t.Errorf("%s harms its health", mode)
		}
	}
	if shown := fleet.Report().Servers[0].Shown; shown != 0 {
		t.Errorf("%d of these are said to be good", shown)
	}
	// A server that is gone shows nothing either.
	fleet.SetMetrics(0, fleetsim.GoodMetrics)
	fleet.Set(0, fleetsim.Resetting)
	if _, err := c.Get(fleet.MetricsURL(0)); err == nil {
		t.Error("a server that resets shows its figures")
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{Servers: 1, Tokens: []string{"old"}})
	c := client(t)
	code := func(url, token string) int { return ask(t, c, url, token).StatusCode }
	for _, url := range []string{fleet.URL(0), fleet.MetricsURL(0)} {
		if code(url, "old") != 200 || code(url, "new") != 401 || code(url, "") != 401 {
			t.Errorf("%s takes the wrong token", url)
		}
	}
	fleet.SetTokens("old", "new")
	if code(fleet.URL(0), "old") != 200 || code(fleet.URL(0), "new") != 200 {
		t.Error("the overlap is none")
	}
	fleet.SetTokens()
	if code(fleet.URL(0), "") != 200 {
		t.Error("a token is wanted still")
	}
	if n := fleet.Report().Refused; n != 4 {
		t.Errorf("%d refused", n)
	}
}

func TestMetricsAreDeclaredAndControlled(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{Servers: 2})
	admin := httptest.NewServer(fleet.Admin())
	t.Cleanup(admin.Close)
	c := client(t)
	_, config := get(t, c, admin.URL+"/config?interval=5s&metrics=90s")
	file, err := catalog.Parse("picket.yaml", config, catalog.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	check := file.Servers[1].Checks[1]
	if check.Name != catalog.MetricsCheck || check.Interval != 90*time.Second || check.Metrics.GetUrl() != fleet.MetricsURL(1) {
		t.Errorf("%+v", check)
	}
	if _, config := get(t, c, admin.URL+"/config"); bytes.Contains(config, []byte("metrics")) {
		t.Error("figures are declared though nobody asked")
	}
	post := func(path string) error {
		response, err := c.Post(admin.URL+path, "", nil)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNoContent {
			return errors.New(response.Status)
		}
		return nil
	}
	if err := errors.Join(post("/servers/1?metrics=none"), post("/tokens?token=a&token=b")); err != nil {
		t.Error(err)
	}
	if got := ask(t, c, fleet.MetricsURL(1), "b").StatusCode; got != http.StatusNotFound {
		t.Errorf("answered %d", got)
	}
	if post("/servers/1?metrics=perhaps") == nil || post("/servers/1") == nil || post("/servers/7?metrics=none") == nil {
		t.Error("nonsense was accepted")
	}
}
