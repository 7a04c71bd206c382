package fleetsim_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/fleetsim"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

func start(t testing.TB, opts fleetsim.Options) *fleetsim.Fleet {
	t.Helper()
	fleet, err := fleetsim.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fleet.Stop(); err != nil {
			t.Error(err)
		}
	})
	return fleet
}

func client(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

// What a server is told to be is what Picket's own mapping makes of its answer, in every format.
func TestAnswersMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	expectations, err := health.Compile(&picketv1.HTTPSpec{})
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []fleetsim.Format{fleetsim.Pulse, fleetsim.OpsCenter, fleetsim.IETF} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			fleet := start(t, fleetsim.Options{Servers: 3, Format: format})
			c := client(t)
			for behaviour, want := range map[fleetsim.Behaviour]picketv1.Status{
				fleetsim.Healthy:  picketv1.Status_STATUS_HEALTHY,
				fleetsim.Degraded: picketv1.Status_STATUS_DEGRADED,
				fleetsim.Critical: picketv1.Status_STATUS_CRITICAL,
				fleetsim.Flipping: picketv1.Status_STATUS_HEALTHY, // its first turn
			} {
				fleet.Set(1, behaviour)
				response, body := get(t, c, fleet.URL(1))
				if !json.Valid(body) {
					t.Errorf("%v: body is not JSON: %q", behaviour, body)
				}
				outcome := expectations.HTTP(health.Response{Code: response.StatusCode, Header: response.Header, Body: body})
				if outcome.Status != want {
					t.Errorf("%v reads as %v: %d %s", behaviour, outcome.Status, response.StatusCode, body)
				}
			}
			if format != fleetsim.OpsCenter {
				if _, body := get(t, c, fleet.URL(2)); !strings.Contains(string(body), `"`+fleet.Name(2)+`"`) {
					t.Errorf("%s does not name itself: %s", fleet.Name(2), body)
				}
			}
		})
	}
}

func TestSharesAreSpread(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{
		Servers: 2000, Degraded: 0.05, Critical: 0.02, Hanging: 0.1, Resetting: 0.01, Flipping: 0.05,
	})
	for from := 0; from < fleet.Len(); from += 500 {
		counts := map[fleetsim.Behaviour]int{}
		for i := range 500 {
			counts[fleet.Behaviour(from+i)]++
		}
		for behaviour, want := range map[fleetsim.Behaviour]int{
			fleetsim.Healthy: 385, fleetsim.Degraded: 25, fleetsim.Critical: 10, fleetsim.Hanging: 50, fleetsim.Resetting: 5, fleetsim.Flipping: 25,
		} {
			if off := counts[behaviour] - want; off < -4 || off > 4 {
				t.Errorf("servers from %d: %d are %v, want about %d", from, counts[behaviour], behaviour, want)
			}
		}
	}
}

func TestOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]fleetsim.Options{
		"no servers":     {},
		"too many":       {Servers: fleetsim.MaxServers + 1},
		"shares above 1": {Servers: 1, Degraded: 0.6, Hanging: 0.6},
		"negative share": {Servers: 1, Degraded: -0.1},
		"format":         {Servers: 1, Format: "xml"},
		"flips":          {Servers: 1, FlipEvery: -1},
		"keep":           {Servers: 1, Keep: -1},
	} {
		if fleet, err := fleetsim.Start(t.Context(), opts); err == nil {
			t.Errorf("%s: started", name)
			_ = fleet.Stop()
		}
	}
}

// Each server has an address, counts for itself, and answers nobody from outside.
func TestServersAreApart(t *testing.T) {
	t.Parallel()
	const n = 600 // more than the last byte of an address holds
	fleet := start(t, fleetsim.Options{Servers: n, Keep: 2})
	c := client(t)
	for i, times := range map[int]int{0: 1, 255: 2, n - 1: 3} {
		for range times {
			get(t, c, fleet.URL(i))
		}
	}
	report := fleet.Report()
	addresses := map[string]bool{}
	for i, server := range report.Servers {
		addresses[server.Address] = true
		want := map[int]uint64{0: 1, 255: 2, n - 1: 3}[i]
		if server.Requests != want {
			t.Errorf("%s has %d requests, want %d", server.Name, server.Requests, want)
		}
		if len(server.Recent) != min(int(want), 2) {
			t.Errorf("%s: %d arrivals remembered of %d", server.Name, len(server.Recent), want)
		}
	}
	if len(addresses) != n {
		t.Errorf("%d addresses for %d servers", len(addresses), n)
	}
	if report.Requests != 6 || report.NeverAsked != n-3 || report.AllAskedSeconds != 0 {
		t.Errorf("report says %d requests, %d never asked, all asked after %v", report.Requests, report.NeverAsked, report.AllAskedSeconds)
	}
	last := report.Servers[n-1]
	if !last.First.Before(last.Recent[0]) || !last.Recent[0].Before(last.Recent[1]) {
		t.Errorf("arrivals out of order: %v, %v", last.First, last.Recent)
	}

	_, port, err := net.SplitHostPort(fleet.Addr(0))
	if err != nil {
		t.Fatal(err)
	}
	outside, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range outside {
		network, ok := address.(*net.IPNet)
		if !ok || network.IP.IsLoopback() {
			continue
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(network.IP.String(), port), time.Second)
		if err != nil {
			continue
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if answer, err := io.ReadAll(conn); len(answer) > 0 {
			t.Errorf("answers at %s: %q, %v", network.IP, answer, err)
		}
		conn.Close()
	}
}

func TestHangingAndResetting(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{Servers: 2})
	fleet.Set(0, fleetsim.Hanging)
	fleet.Set(1, fleetsim.Resetting)
	for i, patience := range []time.Duration{200 * time.Millisecond, 20 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fleet.URL(i), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client(t).Do(request)
		if err == nil {
			response.Body.Close()
			t.Fatalf("%v server answers", fleet.Behaviour(i))
		}
		if timeout := errors.Is(err, context.DeadlineExceeded); timeout != (i == 0) {
			t.Errorf("%v server: %v", fleet.Behaviour(i), err)
		}
		if n := fleet.Report().Servers[i].Requests; n == 0 {
			t.Errorf("%v server did not count the request", fleet.Behaviour(i))
		}
	}
	// Stop, at the end of the test, does not wait for clients that wait.
	conn, err := net.Dial("tcp", fleet.Addr(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "GET / HTTP/1.1\r\n\r\n")
}

// What may come over a connection, and what of it is counted.
func TestRequests(t *testing.T) {
	t.Parallel()
	const one = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, test := range map[string]struct {
		send      []string // written one by one
		answers   int
		open      bool // the connection goes on
		malformed bool
	}{
		"one":                 {send: []string{one}, answers: 1, open: true},
		"split":               {send: []string{one[:3], one[3:30], one[30:]}, answers: 1, open: true},
		"pipelined":           {send: []string{strings.Repeat(one, 50)}, answers: 50, open: true},
		"with a body":         {send: []string{"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello" + one}, answers: 2, open: true},
		"with a late body":    {send: []string{"POST / HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\nhe", "llo", one}, answers: 2, open: true},
		"long head":           {send: []string{"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n" + one}, answers: 2, open: true},
		"close":               {send: []string{"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n" + one}, answers: 1},
		"HTTP/1.0":            {send: []string{"GET / HTTP/1.0\r\n\r\n"}, answers: 1},
		"chunked":             {send: []string{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}, answers: 1},
		"endless head":        {send: []string{"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 40<<10)}, malformed: true},
		"not HTTP":            {send: []string{"hello\r\n\r\n"}, malformed: true},
		"no colon":            {send: []string{"GET / HTTP/1.1\r\nnonsense\r\n\r\n"}, malformed: true},
		"endless body":        {send: []string{"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"}, malformed: true},
		"negative body":       {send: []string{"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"}, malformed: true},
		"cut off":             {send: []string{one[:20]}},
		"nothing":             {},
		"head without a body": {send: []string{"HEAD / HTTP/1.1\r\n\r\n" + one}, answers: 2, open: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fleet := start(t, fleetsim.Options{Servers: 1})
			conn, err := net.Dial("tcp", fleet.Addr(0))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for _, text := range test.send {
				if _, err := io.WriteString(conn, text); err != nil && !test.malformed {
					t.Fatal(err)
				}
			}
			in := bufio.NewReader(conn)
			for i := range test.answers {
				method := http.MethodGet
				if i == 0 && strings.HasPrefix(strings.Join(test.send, ""), "HEAD") {
					method = http.MethodHead
				}
				response, err := http.ReadResponse(in, &http.Request{Method: method})
				if err != nil {
					t.Fatalf("answer %d: %v", i, err)
				}
				if response.StatusCode != http.StatusOK {
					t.Errorf("answer %d: %s", i, response.Status)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil {
					t.Errorf("answer %d: %v", i, err)
				}
				response.Body.Close()
			}
			if test.open {
				if _, err := io.WriteString(conn, one); err != nil {
					t.Fatal(err)
				}
				response, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatalf("connection ended early: %v", err)
				}
				response.Body.Close()
			} else if test.answers > 0 || test.malformed {
				if rest, err := io.ReadAll(in); len(rest) > 0 && !errors.Is(err, net.ErrClosed) {
					t.Errorf("more than expected: %q", rest)
				}
			}
			report := fleet.Report()
			want := uint64(test.answers)
			if test.open {
				want++
			}
			if report.Requests != want {
				t.Errorf("%d requests counted, want %d", report.Requests, want)
			}
			if (report.Malformed > 0) != test.malformed {
				t.Errorf("%d malformed requests counted", report.Malformed)
			}
		})
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	fleet := start(t, fleetsim.Options{Servers: 3})
	admin := httptest.NewServer(fleet.Admin())
	t.Cleanup(admin.Close)
	c := client(t)

	post := func(path string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, admin.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if code := post("/servers/2?behaviour=critical"); code != http.StatusNoContent {
		t.Errorf("got %d", code)
	}
	for _, path := range []string{"/servers/3?behaviour=critical", "/servers/-1?behaviour=critical", "/servers/x?behaviour=critical"} {
		if code := post(path); code != http.StatusNotFound {
			t.Errorf("%s: got %d", path, code)
		}
	}
	if code := post("/servers/1?behaviour=lazy"); code != http.StatusBadRequest {
		t.Errorf("got %d", code)
	}
	if response, _ := get(t, c, fleet.URL(2)); response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("server is not critical: %s", response.Status)
	}

	var report fleetsim.Report
	_, body := get(t, c, admin.URL+"/report")
	if err := json.Unmarshal(body, &report); err != nil {
		t.Fatal(err)
	}
	if report.Servers[2].Behaviour != fleetsim.Critical || report.Servers[2].Requests != 1 || report.NeverAsked != 2 {
		t.Errorf("got %+v", report)
	}

	// Picket takes the configuration, and it leads to these servers.
	_, config := get(t, c, admin.URL+"/config?interval=5s")
	file, err := catalog.Parse("picket.yaml", config, catalog.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Servers) != 3 {
		t.Errorf("%d servers in:\n%s", len(file.Servers), config)
	}
	for i := range 3 {
		if !bytes.Contains(config, []byte(fleet.URL(i)+"\n")) {
			t.Errorf("%s is missing in:\n%s", fleet.URL(i), config)
		}
	}
	var early bytes.Buffer
	_, port, err := net.SplitHostPort(fleet.Addr(0))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	opts := fleetsim.Options{Servers: 3, Port: number}
	if err := fleetsim.WriteConfig(&early, opts, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if early.String() != string(config) {
		t.Errorf("configuration before the start:\n%s\nand after:\n%s", &early, config)
	}
	if err := fleetsim.WriteConfig(&early, fleetsim.Options{Servers: 3}, time.Second); err == nil {
		t.Error("configuration without a port")
	}
}
