package ticker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/tick"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// journal keeps log lines.
type journal struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(p)
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// take returns the lines so far that speak of something, and forgets all.
func (j *journal) take(of ...string) (lines []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.lines.String()) {
		if len(of) == 0 || slices.ContainsFunc(of, func(word string) bool { return strings.Contains(line, word) }) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	j.lines.Reset()
	return lines
}

// log is what is said of finished cycles.
func (st *statistics) logged(nowMS, settledMS int64) []string {
	var j journal
	st.fill(&picketv1.WorkerStatus{}, nowMS, settledMS)
	for _, c := range st.take() {
		logCycle(j.logger(), st.words, c)
	}
	return j.take()
}

const (
	healthy     = picketv1.Status_STATUS_HEALTHY
	degraded    = picketv1.Status_STATUS_DEGRADED
	critical    = picketv1.Status_STATUS_CRITICAL
	unreachable = picketv1.Status_STATUS_UNREACHABLE
	unknown     = picketv1.Status_STATUS_UNKNOWN
)

// A cycle counts servers, each by the worst that was seen of it, and a result that
// comes late counts where its tick was.
func TestLinesOfACycle(t *testing.T) {
	t.Parallel()
	now := int64(simEpochMS)
	st := newStatistics(10*time.Second, HealthChecks, func() int64 { return now })
	servers := make([]*target, 6)
	for i := range servers {
		servers[i] = simTarget(i+1, 10_000, 0, 0)
	}
	again := *servers[0]
	again.id, again.name = "another check of the first server", "port"
	again.org, servers[0].org = "acme", "acme"
	st.setBusy(true)
	for i, status := range []picketv1.Status{degraded, healthy, unreachable, healthy, unknown} {
		st.ran(servers[i], simEpochMS+int64(i)*1_000, status)
	}
	st.ran(&again, simEpochMS+400, unreachable)
	st.ran(&again, simEpochMS+500, critical)
	st.ran(servers[0], simEpochMS+9_000, unreachable) // not as bad as critical
	now += 2_500
	st.setBusy(false)
	now = simEpochMS + 11_000
	st.setBusy(false)
	st.ran(servers[0], simEpochMS+10_000, healthy) // the next cycle
	st.ran(servers[1], simEpochMS+10_000, healthy)
	st.ran(servers[1], simEpochMS+9_999, degraded) // late
	st.missed(servers[5], tick.Span{FirstMS: simEpochMS - 50_000, LastMS: simEpochMS + 9_000, Count: 6})
	st.missed(servers[4], tick.Span{FirstMS: simEpochMS - 50_000, LastMS: simEpochMS - 30_000, Count: 3}) // long over
	if lines := st.logged(now, simEpochMS+9_998); lines != nil {
		t.Errorf("said of a cycle of which a tick is open: %s", lines)
	}
	if diff := cmp.Diff([]string{
		`{"level":"INFO","msg":"health checks complete","servers":6,"duration_seconds":2.5,"healthy":1,"degraded":1,"critical":1,"unreachable":1,"unknown":2}`,
		`{"level":"WARN","msg":"fleet health alert","critical":1,"unreachable":1,"names":["acme/server-1","server-3"]}`,
	}, st.logged(now, now)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	now = simEpochMS + 20_000
	if diff := cmp.Diff([]string{
		`{"level":"INFO","msg":"health checks complete","servers":2,"duration_seconds":0,"healthy":2,"degraded":0,"critical":0,"unreachable":0}`,
	}, st.logged(now, now)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	now = simEpochMS + 60_000
	if lines := st.logged(now, now); lines != nil {
		t.Errorf("said of cycles in which nothing was due: %s", lines)
	}
}

func TestLinesOfACollection(t *testing.T) {
	t.Parallel()
	now := int64(simEpochMS)
	st := newStatistics(10*time.Second, MetricsCollection, func() int64 { return now })
	for i := range 40 {
		status := healthy
		if i < 7 {
			status = unreachable
		} else if i < 14 {
			status = unknown
		}
		st.ran(simTarget(i+1, 10_000, 0, 0), simEpochMS, status)
	}
	now += 10_000
	lines := st.logged(now, now)
	if want := `{"level":"INFO","msg":"metrics collection complete","servers":40,"duration_seconds":0,"successful":26,"failed":14}`; lines[0] != want {
		t.Errorf("got %s, want %s", lines[0], want)
	}
	var warning struct {
		Level, Msg string
		Servers    []string
	}
	if err := json.Unmarshal([]byte(lines[1]), &warning); err != nil || len(lines) != 2 {
		t.Fatalf("%v, %s", err, lines)
	}
	if warning.Level != "WARN" || warning.Msg != "failed to collect metrics" || len(warning.Servers) != 11 ||
		warning.Servers[10] != "+4 more" || !slices.Contains(warning.Servers, "server-1") {
		t.Errorf("%+v", warning)
	}
}

// A cycle is announced once, after the one before has finished, and at the latest
// in its middle.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	now := int64(simEpochMS + 3_000)
	st := newStatistics(10*time.Second, HealthChecks, func() int64 { return now })
	type announced struct {
		from, until int64
		ok          bool
	}
	at := func(ms, settledMS int64) announced {
		now = simEpochMS + ms
		st.fill(&picketv1.WorkerStatus{}, now, simEpochMS+settledMS)
		from, until, ok := st.begins(now)
		if !ok {
			return announced{}
		}
		return announced{from - simEpochMS, until - simEpochMS, true}
	}
	for _, step := range []struct {
		ms, settled int64
		want        announced
	}{
		{3_000, 3_000, announced{3_000, 10_000, true}}, // joined in the middle
		{4_000, 4_000, announced{}},
		{10_500, 9_000, announced{}}, // a tick of the last one is open
		{11_500, 10_000, announced{10_000, 20_000, true}},
		{12_500, 12_000, announced{}},
		{24_000, 15_000, announced{}}, // one hangs
		{25_000, 15_000, announced{20_000, 30_000, true}},
		{26_000, 26_000, announced{}},
		{95_000, 95_000, announced{90_000, 100_000, true}}, // nobody looked for a while
	} {
		if got := at(step.ms, step.settled); got != step.want {
			t.Errorf("at %d ms: %+v, want %+v", step.ms, got, step.want)
		}
	}
}

// Servers that are gone are not remembered for ever.
func TestServersSeenAreForgotten(t *testing.T) {
	t.Parallel()
	now := int64(simEpochMS)
	st := newStatistics(time.Second, HealthChecks, func() int64 { return now })
	for i := range 20_000 {
		st.ran(simTarget(i+1, 1_000, 0, 0), now, healthy)
		if i%500 == 499 {
			now += 1_000
			st.fill(&picketv1.WorkerStatus{}, now, now)
			st.take()
		}
	}
	if n := len(st.seen); n > 4_000 {
		t.Errorf("%d servers are remembered, 500 of which are seen in a cycle", n)
	}
}

// Through a whole ticker: the cycle is announced with the servers that are due in
// it, then finished with what was found; nothing is said without checks.
func TestCyclesOfATicker(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var lines, idle journal
	p.startWith("idle", func(o *Options) {
		o.Kit.Log, o.Kit.Location, o.Config.CycleInterval = idle.logger(), "elsewhere", time.Second
	})
	p.catalog(8, 2*time.Second, "http://127.0.0.1:1/health")
	p.startWith("a", func(o *Options) {
		o.Kit.Log, o.Config.CycleInterval = lines.logger(), 2*time.Second
	})
	words := []string{"starting", "complete", "alert"}
	var got []string
	p.await("three cycles", func() bool {
		got = append(got, lines.take(words...)...)
		return len(got) >= 6
	})
	// The first is cut: it may say nothing, or speak of a part of the servers.
	start := `{"level":"INFO","msg":"starting health checks","servers":8}`
	i := slices.Index(got, start)
	if i < 0 {
		t.Fatalf("no cycle of all servers was announced:\n%s", strings.Join(got, "\n"))
	}
	for ; i+1 < len(got); i += 2 {
		var complete struct {
			Msg              string
			Servers, Healthy int
			Duration         float64 `json:"duration_seconds"`
		}
		if err := json.Unmarshal([]byte(got[i+1]), &complete); err != nil {
			t.Fatal(err)
		}
		if got[i] != start || complete.Msg != "health checks complete" || complete.Servers != 8 || complete.Healthy != 8 || complete.Duration > 2 {
			t.Errorf("cycle:\n%s", strings.Join(got[i:i+2], "\n"))
		}
	}
	if said := idle.take(words...); said != nil {
		t.Errorf("without a check: %s", fmt.Sprint(said))
	}
}
