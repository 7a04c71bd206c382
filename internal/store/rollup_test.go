package store

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// rollUp brings the roll-ups up to an instant, in whichever way the mode has.
func rollUp(t testing.TB, s *Store, now time.Time) {
	t.Helper()
	if mode, err := s.Mode(t.Context()); err != nil {
		t.Fatal(err)
	} else if mode == ModePlain {
		if _, err := s.Rollup(t.Context(), leaseOf(t, s, RollupLease), now); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, view := range []string{"server_metrics_5m_sums", "server_metrics_1h_sums", "server_metrics_1d_sums", "system_metrics_hourly"} {
		exec(t, s, fmt.Sprintf(`CALL refresh_continuous_aggregate('%s', NULL, '%s')`, view, now.Add(-rollupGrace).Format(time.RFC3339)))
	}
}

// declareMeter makes the server and the check that readings of meter n belong to.
func declareMeter(t testing.TB, s *Store, org string, n int) {
	t.Helper()
	exec(t, s, `INSERT INTO organizations (slug) VALUES ($1) ON CONFLICT DO NOTHING`, org)
	exec(t, s, `INSERT INTO managed_servers (id, org, name, managed_by) VALUES ($1, $2, $3, 'api')`, meterID(1000+n), org, fmt.Sprintf("meter-%d", n))
	exec(t, s, `INSERT INTO checks (id, server_id, revision, interval_ms, timeout_ms, name, kind, locations, spec)
		VALUES ($1, $2, 1, 60000, 5000, 'metrics', 'metrics', '{local}', '{}')`, meterID(n), meterID(1000+n))
}

// want is a bucket worked out row by row.
type wantBucket struct {
	samples            int64
	cpu, cpuMax, cpuN  float64
	rx, cost, increase *big.Rat // last rx, last cost, what cost rose by
}

// expect is the reference: buckets of one meter at one location, from its readings in order of time.
func expect(rows []Metric, width time.Duration) map[time.Time]*wantBucket {
	slices.SortFunc(rows, func(a, b Metric) int { return a.ScheduledAt.Compare(b.ScheduledAt) })
	buckets := map[time.Time]*wantBucket{}
	var last *big.Rat
	for _, r := range rows {
		at := r.ScheduledAt.UTC().Truncate(width)
		b := buckets[at]
		if b == nil {
			b = &wantBucket{cpuMax: math.Inf(-1)}
			buckets[at] = b
		}
		b.samples++
		if cpu, ok := r.Values["cpu_percent"]; ok {
			b.cpu, b.cpuN, b.cpuMax = b.cpu+cpu, b.cpuN+1, max(b.cpuMax, cpu)
		}
		if rx, ok := r.Values["network_rx_bytes"]; ok {
			b.rx = new(big.Rat).SetFloat64(rx)
		}
		if cost, ok := r.Values["llm_cost_usd"]; ok {
			now, _ := new(big.Rat).SetString(decimal(cost))
			rise := new(big.Rat)
			switch {
			case last == nil:
			case now.Cmp(last) >= 0:
				rise.Sub(now, last)
			default:
				rise.Set(now)
			}
			if b.increase == nil {
				b.increase = new(big.Rat)
			}
			b.increase.Add(b.increase, rise)
			b.cost, last = now, now
		}
	}
	return buckets
}

func compareMetrics(t *testing.T, when string, got []ServerMetric, want map[time.Time]*wantBucket) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d buckets, want %d", when, len(got), len(want))
	}
	same := func(number string, want *big.Rat) bool {
		if want == nil || number == "" {
			return want == nil && number == ""
		}
		n, ok := new(big.Rat).SetString(number)
		return ok && n.Cmp(want) == 0
	}
	for i, g := range got {
		w := want[g.At]
		switch {
		case w == nil:
			t.Fatalf("%s: bucket %v of nothing", when, g.At)
		case i > 0 && !g.At.Before(got[i-1].At):
			t.Fatalf("%s: %v comes after %v", when, g.At, got[i-1].At)
		case g.Samples != w.samples,
			(g.CPUPercent.Avg == nil) != (w.cpuN == 0),
			w.cpuN > 0 && (math.Abs(*g.CPUPercent.Avg-w.cpu/w.cpuN) > 1e-9 || *g.CPUPercent.Max != w.cpuMax),
			!same(g.NetworkRxBytes.Reading.String(), w.rx),
			!same(g.LLMCostUSD.Reading.String(), w.cost), !same(g.LLMCostUSD.Increase.String(), w.increase):
			t.Fatalf("%s: bucket %v is %+v, want %+v (cost %v +%v)", when, g.At, g, w, w.cost, w.increase)
		}
	}
}

// TestRollups holds every period to a reference that goes through the rows, before any roll-up, in the middle of them,
// after rows that came in any order and late, and after all: the same answer always. Counters restart, figures are
// missing, ticks are missing.
func TestRollups(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	declareMeter(t, s, "default", 1)
	w := newMetricWriter(s)
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Now().UTC().Truncate(24 * time.Hour).Add(-52 * time.Hour)
	var rows []Metric
	rx, cost := 0.0, 0.0
	for at := start; at.Before(start.Add(50 * time.Hour)); at = at.Add(time.Minute) {
		rx, cost = rx+float64(random.IntN(100_000)), cost+float64(random.IntN(5000))/10_000
		switch random.IntN(200) {
		case 0:
			rx, cost = 17, 0.0003 // restart
		case 1:
			at = at.Add(time.Duration(random.IntN(180)) * time.Minute) // nobody looked
		}
		row := reading(1, at, map[string]float64{"network_rx_bytes": rx, "llm_cost_usd": math.Round(cost*10_000) / 10_000})
		if random.IntN(4) > 0 {
			row.Values["cpu_percent"] = random.Float64() * 100
		}
		if random.IntN(10) == 0 {
			delete(row.Values, "llm_cost_usd")
		}
		rows = append(rows, row)
	}
	check := func(when string, written []Metric) {
		t.Helper()
		for period, width := range map[string]time.Duration{"1m": time.Millisecond, "5m": 5 * time.Minute, "1h": time.Hour, "1d": 24 * time.Hour} {
			got, err := s.ServerMetrics(t.Context(), MetricsQuery{
				Org: "default", Server: meterID(1001), Period: period, From: start.Add(-24 * time.Hour), To: time.Now(),
			})
			if err != nil {
				t.Fatal(err)
			}
			compareMetrics(t, when+" "+period, got, expect(slices.Clone(written), width))
		}
	}
	// In four parts, each out of order, some rows of each held back.
	var written, late []Metric
	for i, part := range slices.Collect(slices.Chunk(rows, len(rows)/4+1)) {
		part = slices.Clone(part)
		end := part[len(part)-1].ScheduledAt
		random.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		held := len(part) / 10
		late = append(late, part[:held]...)
		writeMetrics(t, w, part[held:], false)
		written = append(written, part[held:]...)
		if i == 0 {
			check("before any roll-up", written)
		}
		rollUp(t, s, end.Add(10*time.Minute))
		check(fmt.Sprintf("after part %d", i), written)
	}
	writeMetrics(t, w, late, true)
	rollUp(t, s, time.Now())
	check("after late rows", rows)
	rollUp(t, s, time.Now())
	check("after another roll-up", rows)
	// In pages of any size it is the same.
	var all []ServerMetric
	q := MetricsQuery{Org: "default", Server: meterID(1001), Period: "5m", From: start, To: time.Now(), Limit: 37}
	for {
		page, err := s.ServerMetrics(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
		q.After = page[len(page)-1].MetricKey
	}
	compareMetrics(t, "in pages", all, expect(slices.Clone(rows), 5*time.Minute))
	if got, err := s.ServerMetrics(t.Context(), MetricsQuery{Org: "other", Server: meterID(1001), From: start, To: time.Now()}); err != nil || len(got) > 0 {
		t.Errorf("another organization sees %d rows, %v", len(got), err)
	}
}

// TestRollupForgetsNothing: rows whose transaction ends after their bucket was rolled up, and rows written while it is,
// are in it in the end; two jobs at once do no harm.
func TestRollupForgetsNothing(t *testing.T) {
	t.Parallel()
	s := newPlainStore(t)
	declareMeter(t, s, "default", 1)
	start := time.Now().UTC().Truncate(time.Hour).Add(-10 * time.Hour)
	lease := leaseOf(t, s, RollupLease)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Rollup(t.Context(), lease, time.Now()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var writers sync.WaitGroup
	for n := range 3 {
		writers.Go(func() {
			w := newMetricWriter(s)
			for i := range 200 {
				at := start.Add(time.Duration((i*37)%540)*time.Minute + time.Duration(n)*time.Second)
				row := reading(1, at, map[string]float64{"cpu_percent": 1})
				row.Samples = []Sample{{Org: "default", Name: "x", Service: "y", Time: at, Value: float64(i)}}
				if _, err := w.Write(t.Context(), []Metric{row}, i%2 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	group.Wait()
	if _, err := s.Rollup(t.Context(), lease, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, view := range []string{"server_metrics_5m", "server_metrics_1h", "server_metrics_1d"} {
		if n := query[int](t, s, `SELECT sum(samples) FROM `+view); n != 600 {
			t.Errorf("%s has %d samples, want 600", view, n)
		}
	}
	if n := query[int](t, s, `SELECT sum(samples) FROM system_metrics_hourly`); n != 600 {
		t.Errorf("system_metrics_hourly has %d samples, want 600", n)
	}
	if stored := query[int](t, s, `SELECT sum(samples) FROM server_metrics_1h_stored`); stored != 600 {
		t.Errorf("%d samples are stored by the hour, want all 600", stored)
	}
	if n := query[int](t, s, `SELECT count(*) FROM rollup_log WHERE rollup <> 'server_metrics_1d'`); n != 0 {
		t.Errorf("%d entries left in the log", n)
	}
}

func TestCosts(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := newMetricWriter(s)
	day := time.Now().UTC().Truncate(24 * time.Hour).Add(-48 * time.Hour)
	for n, org := range []string{"default", "default", "acme"} {
		declareMeter(t, s, org, n)
	}
	put := func(n int, org, location string, at time.Time, cost float64) {
		row := reading(n, at, map[string]float64{"llm_cost_usd": cost})
		row.Org, row.Location = org, location
		writeMetrics(t, w, []Metric{row}, false)
	}
	// Meter 0: 100 → 100.1 → restart 0.2 | 0.5 → 0.7 the next day, also seen, for a part of it, from elsewhere.
	put(0, "default", "local", day.Add(time.Hour), 100)
	put(0, "default", "local", day.Add(2*time.Hour), 100.1)
	put(0, "default", "local", day.Add(23*time.Hour), 0.2)
	put(0, "default", "local", day.Add(25*time.Hour), 0.5)
	put(0, "default", "local", day.Add(30*time.Hour), 0.7)
	put(0, "default", "eu", day.Add(26*time.Hour), 0.55)
	put(0, "default", "eu", day.Add(29*time.Hour), 0.65)
	put(1, "default", "local", day.Add(time.Hour), 0)
	put(1, "default", "local", day.Add(2*time.Hour), 1e-9)
	put(2, "acme", "local", day.Add(3*time.Hour), 5)
	put(2, "acme", "local", day.Add(4*time.Hour), 7.25)
	exec(t, s, `INSERT INTO server_groups (id, org, name) VALUES ($1, 'default', 'edge'), ($2, 'default', 'all')`, meterID(1), meterID(2))
	exec(t, s, `INSERT INTO server_group_members (server_id, group_id) VALUES ($1, $2), ($1, $3), ($4, $3)`, meterID(1000), meterID(1), meterID(2), meterID(1001))

	costs := func(q CostQuery) string {
		t.Helper()
		q.From, q.To = day.Add(5*time.Hour), day.Add(25*time.Hour) // both days, whole
		got, err := s.Costs(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, c := range got {
			when := ""
			if !c.Day.IsZero() {
				when = fmt.Sprintf("@%d", int(c.Day.Sub(day).Hours()/24))
			}
			if _, err := uuid.Parse(c.Key); q.By != CostByDay && q.By != CostByOrganization && err != nil {
				t.Errorf("key %q", c.Key)
			}
			name := c.Name
			if q.By == CostByDay {
				name = "day"
			}
			text += fmt.Sprintf("%s/%s%s=%s ", c.Org, name, when, c.USD)
		}
		return text
	}
	for range 2 {
		for _, test := range []struct {
			q    CostQuery
			want string
		}{
			{CostQuery{By: CostByServer, Org: "default"}, "default/meter-0=0.8 default/meter-1=0.000000001 "},
			{CostQuery{By: CostByServer, Org: "default", Daily: true}, "default/meter-0@0=0.3 default/meter-0@1=0.5 default/meter-1@0=0.000000001 "},
			{CostQuery{By: CostByGroup, Org: "default"}, "default/all=0.800000001 default/edge=0.8 "},
			{CostQuery{By: CostByOrganization}, "acme/acme=2.25 default/default=0.800000001 "},
			{CostQuery{By: CostByDay, Org: "default"}, "default/day@0=0.300000001 default/day@1=0.5 "},
		} {
			if got := costs(test.q); got != test.want {
				t.Errorf("%+v:\n got %s\nwant %s", test.q, got, test.want)
			}
		}
		rollUp(t, s, time.Now()) // and the same from roll-ups
	}
}
