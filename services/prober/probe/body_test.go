package probe

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestReadAtMost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		size, limit int
		truncated   bool
	}{{0, 10, false}, {9, 10, false}, {10, 10, false}, {11, 10, true}, {100_000, 70_000, true}, {70_000, 70_000, false}} {
		text := strings.Repeat("x", tt.size)
		for _, r := range []io.Reader{strings.NewReader(text), iotest.DataErrReader(strings.NewReader(text)), iotest.HalfReader(strings.NewReader(text))} {
			got, truncated, err := readAtMost(r, nil, tt.limit)
			if err != nil || len(got) != min(tt.size, tt.limit) || truncated != tt.truncated {
				t.Errorf("size %d, limit %d: got %d, %v, %v", tt.size, tt.limit, len(got), truncated, err)
			}
		}
	}
	if got, _, err := readAtMost(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), nil, 10); err == nil || string(got) != "abc" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestEndlessBodyIsCut(t *testing.T) {
	t.Parallel()
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{Url: server.URL})
	for range 2 {
		r := within(t, p, patient)
		wantResult(t, r, "healthy", "")
		if r.GetConnectionReused() {
			t.Error("a connection with unread data was used again")
		}
	}
}

func TestGzip(t *testing.T) {
	t.Parallel()
	zip := func(text []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, tt := range map[string]struct {
		body           []byte
		json           []*picketv1.JSONPathAssertion
		status, reason string
	}{
		"expanded":           {zip([]byte(`{"status":"down"}`)), nil, "critical", "reported_status"},
		"bomb":               {zip(append([]byte(`{"redis":"down","x":"`), make([]byte, 8<<20)...)), nil, "critical", "component"},
		"bomb, path asked":   {zip(make([]byte, 8<<20)), []*picketv1.JSONPathAssertion{{Path: "$"}}, "critical", "assert_json"},
		"not what it claims": {[]byte(`{"status":"ok"}`), nil, "healthy", ""},
		"cut":                {zip([]byte(`{"status":"ok"}`))[:20], nil, "degraded", "bad_body"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept-Encoding") != "" {
					t.Error("compression was asked for")
				}
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(tt.body)
			})
			spec := &picketv1.HTTPSpec{Url: server.URL, ExpectJson: tt.json}
			wantResult(t, within(t, compileHTTP(t, newPool(t, PoolOptions{}), spec), patient), tt.status, tt.reason)
		})
	}
}

// Not parallel: it measures what the process allocates.
func TestLargeBodyIsBoundedInMemory(t *testing.T) { //nolint:paralleltest // see above
	chunk := make([]byte, 64<<10)
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 10 << 20 / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{Url: server.URL})
	within(t, p, patient)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	wantResult(t, within(t, p, patient), "healthy", "")
	runtime.ReadMemStats(&after)
	// Doubling up to 1 MiB allocates about 4 MiB altogether, with the server's part.
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("allocated %d bytes in %s", used, time.Since(start))
	}
}

// stall sends most of a long answer and then nothing until it is released.
func stall(released <-chan struct{}, sent func()) func(peer) {
	long := []byte("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat(" ", 900<<10))
	return func(c peer) {
		go func() {
			c.hear()
			_, _ = c.Write(long) // one for all: it is the prober's memory that counts
			sent()
			<-released
			c.hangUp()
		}()
	}
}

// TestLongAnswersShareRoom: targets that send most of a long answer and then fall silent hold no more memory together than
// there is room for. Not parallel: it measures the heap of the process.
func TestLongAnswersShareRoom(t *testing.T) { //nolint:paralleltest // see above
	const targets, room = 200, 8
	released := make(chan struct{})
	address := listen(t, stall(released, func() {}))
	pool := newPool(t, PoolOptions{LongAnswers: room})
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	results := make(chan *picketv1.ProbeResult, targets)
	for range targets {
		p := compileHTTP(t, pool, &picketv1.HTTPSpec{Url: "http://" + address})
		go func() { results <- p.Probe(t.Context()) }()
	}
	// Until all are connected and the heap has grown for half a second no more.
	most, grown := uint64(0), time.Now()
	eventually(t, "all targets are being read from", func() bool {
		runtime.ReadMemStats(&now)
		if now.HeapAlloc > most+1<<20 {
			most, grown = now.HeapAlloc, time.Now()
		}
		return pool.Open() >= targets && len(pool.long) == room && time.Since(grown) > time.Second/2
	})
	runtime.GC() // what counts is what is held
	runtime.ReadMemStats(&now)
	close(released)
	for range targets {
		wantResult(t, <-results, "unreachable", "closed") // each got its turn
	}
	if used := int64(now.HeapAlloc) - int64(before.HeapAlloc); used > 50<<20 {
		t.Errorf("%d MiB for %d long answers with room for %d", used>>20, targets, room)
	}
}

// TestNoRoomForALongAnswer: one that finds no room in its time is unknown, not down; a short answer needs none.
func TestNoRoomForALongAnswer(t *testing.T) {
	t.Parallel()
	released, sent := make(chan struct{}), make(chan struct{}, 2)
	address := listen(t, stall(released, func() { sent <- struct{}{} }))
	short := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	pool := newPool(t, PoolOptions{LongAnswers: 1})
	spec := &picketv1.HTTPSpec{Url: "http://" + address}
	first, holder := make(chan *picketv1.ProbeResult, 1), compileHTTP(t, pool, spec)
	go func() { first <- holder.Probe(t.Context()) }()
	eventually(t, "the first has the room", func() bool { return len(pool.long) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	second, waiter := make(chan *picketv1.ProbeResult, 1), compileHTTP(t, pool, spec)
	go func() { second <- waiter.Probe(ctx) }()
	<-sent
	<-sent
	wantResult(t, within(t, compileHTTP(t, pool, &picketv1.HTTPSpec{Url: short.URL}), patient), "healthy", "")
	eventually(t, "the second has read what needs no room", func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("probe.(*Pool).room"))
	})
	cancel()
	wantResult(t, <-second, "unknown", "own_fault")
	close(released)
	wantResult(t, <-first, "unreachable", "closed")
}
