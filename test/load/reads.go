package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// routes are what a dashboard and its people ask, in turn. The server's name stands in for %s.
var routes = []string{
	"/summary",
	"/servers?limit=100",
	"/servers/%s",
	"/servers/%s/health-history?limit=100",
	"/alerts?limit=100",
	"/workers/status",
	"/servers?health_status=unreachable",
	"/groups",
}

// answers are what came back from one route.
type answers struct {
	latencies []time.Duration
	codes     map[int]int
	failed    int
	failure   error
}

// reader asks at a fixed rate.
type reader struct {
	base, token string
	client      *http.Client
	server      func(i int) string

	started time.Time

	mu      sync.Mutex
	answers map[string]*answers
	// worst is the longest answer to what was due in each second.
	worst map[int]time.Duration
}

func newReader(base, token string, server func(i int) string) *reader {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = 256, 256
	return &reader{
		base: base, token: token, server: server,
		client:  &http.Client{Transport: transport, Timeout: 30 * time.Second},
		answers: map[string]*answers{}, worst: map[int]time.Duration{},
	}
}

// run asks rate times a second until ctx ends, each request at its instant.
func (r *reader) run(ctx context.Context, rate float64) {
	var asking sync.WaitGroup
	defer asking.Wait()
	r.started = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := r.started.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		asking.Go(func() { r.ask(i, due) })
	}
}

func (r *reader) ask(i int, due time.Time) {
	route := routes[i%len(routes)]
	path := route
	if slices.Contains([]byte(route), '%') {
		path = fmt.Sprintf(route, r.server(i))
	}
	// What is asked is answered, also when the time is over.
	code, err := r.get(context.Background(), path)
	took := time.Since(due)
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.answers[route]
	if a == nil {
		a = &answers{codes: map[int]int{}}
		r.answers[route] = a
	}
	if err != nil {
		a.failed++
		a.failure = err
		return
	}
	a.codes[code]++
	a.latencies = append(a.latencies, took)
	second := int(due.Sub(r.started) / time.Second)
	r.worst[second] = max(r.worst[second], took)
}

func (r *reader) get(ctx context.Context, path string) (code int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/api/v1/fleet"+path, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+r.token)
	response, err := r.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// print tells what came back and returns how many requests were not answered with 200.
func (r *reader) print(out io.Writer) (bad int) {
	_, _ = fmt.Fprintf(out, "%-42s %8s %8s %8s %8s %8s  %s\n", "route", "requests", "p50 ms", "p99 ms", "p99.9", "max ms", "codes")
	var all []time.Duration
	for _, route := range routes {
		a := r.answers[route]
		if a == nil {
			continue
		}
		all = append(all, a.latencies...)
		bad += a.failed
		for code, n := range a.codes {
			if code != http.StatusOK {
				bad += n
			}
		}
		line(out, route, a.latencies)
		_, _ = fmt.Fprintf(out, "  %v", a.codes)
		if a.failed > 0 {
			_, _ = fmt.Fprintf(out, " failed %d, such as: %v", a.failed, a.failure)
		}
		_, _ = fmt.Fprintln(out)
	}
	line(out, "all", all)
	_, _ = fmt.Fprintln(out)
	r.printWorst(out)
	return bad
}

// printWorst tells of the seconds with the slowest answers, by which what else went on then is found.
func (r *reader) printWorst(out io.Writer) {
	seconds := slices.SortedFunc(maps.Keys(r.worst), func(a, b int) int { return cmp.Compare(r.worst[b], r.worst[a]) })
	_, _ = fmt.Fprint(out, "slowest seconds:")
	for _, second := range seconds[:min(10, len(seconds))] {
		at := r.started.Add(time.Duration(second) * time.Second).UTC()
		_, _ = fmt.Fprintf(out, " %s %d ms", at.Format(time.TimeOnly), r.worst[second].Milliseconds())
	}
	_, _ = fmt.Fprintln(out)
}

func line(out io.Writer, name string, latencies []time.Duration) {
	slices.Sort(latencies)
	at := func(share float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return float64(latencies[min(len(latencies)-1, int(share*float64(len(latencies))))].Microseconds()) / 1000
	}
	_, _ = fmt.Fprintf(out, "%-42s %8d %8.1f %8.1f %8.1f %8.1f", name, len(latencies), at(0.5), at(0.99), at(0.999), at(1))
}
