package api

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// The services whose figures are shown.
const (
	serviceProber    = "prober"
	serviceCollector = "collector"
)

const (
	// aliveFor is how old the last heartbeat of a worker that runs may be.
	aliveFor = 3 * time.Second
	// totalsEvery is how often what was heard is written down, and rosterEvery how often the roster is read for what was
	// said while no api listened.
	totalsEvery = 5 * time.Second
	rosterEvery = time.Minute
	// totalsKeep is how long the figures of one process are kept by themselves; then they are added to those before.
	totalsKeep = 7 * 24 * time.Hour
	// forgetAfter and maxHeard bound who is remembered.
	forgetAfter = 10 * time.Minute
	maxHeard    = 10_000
)

// worker is one process in one life.
type worker struct {
	service, location, instance string
	started                     int64 // Unix microseconds
}

// heard is the last word of a worker.
type heard struct {
	status *picketv1.WorkerStatus
	at     time.Time // by our monotonic clock
	dirty  bool      // not written down yet
}

// workerBook keeps what workers last said. It is safe for concurrent use.
type workerBook struct {
	now func() time.Time

	mu      sync.Mutex
	workers map[worker]*heard
}

func newWorkerBook() *workerBook { return &workerBook{now: time.Now, workers: map[worker]*heard{}} }

// hear takes a heartbeat; live is false for what the roster remembers.
func (b *workerBook) hear(status *picketv1.WorkerStatus, live bool) {
	service := status.GetService()
	if service != serviceProber && service != serviceCollector {
		return
	}
	key := worker{service, status.GetLocation(), status.GetInstance(), status.GetStartedAt().AsTime().UnixMicro()}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	h := b.workers[key]
	switch {
	case h == nil && len(b.workers) >= maxHeard:
		return // nobody has so many: somebody makes names up
	case h == nil:
		h = &heard{}
		b.workers[key] = h
	case !live && !h.at.IsZero():
		return // we know better than the roster
	}
	h.status, h.dirty = status, true
	if live {
		h.at = now
	}
}

// takeTotals returns what is to be written down, and forgets who was silent for long.
func (b *workerBook) takeTotals() []store.WorkerTotals {
	b.mu.Lock()
	defer b.mu.Unlock()
	var totals []store.WorkerTotals
	now := b.now()
	for key, h := range b.workers {
		if h.dirty {
			h.dirty = false
			totals = append(totals, key.totals(h.status))
		} else if now.Sub(h.at) > forgetAfter {
			delete(b.workers, key)
		}
	}
	return totals
}

// untake has totals written down again that could not be.
func (b *workerBook) untake(totals []store.WorkerTotals) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range totals {
		if h := b.workers[worker{t.Service, t.Location, t.Instance, t.StartedAt.UnixMicro()}]; h != nil {
			h.dirty = true
		}
	}
}

func (w worker) totals(status *picketv1.WorkerStatus) store.WorkerTotals {
	return store.WorkerTotals{
		Service: w.service, Location: w.location, Instance: w.instance, StartedAt: time.UnixMicro(w.started).UTC(),
		Performed: max(0, status.GetPerformed()), Successful: max(0, status.GetSuccessful()), Failed: max(0, status.GetFailed()),
		Samples: max(0, status.GetSamples()), IntervalSeconds: status.GetIntervalSeconds(), LastRun: workerTime(status),
		LastDurationSeconds: status.GetLastDurationSeconds(),
	}
}

func workerTime(status *picketv1.WorkerStatus) time.Time {
	if status.GetLastRun() == nil || status.GetLastRun().CheckValid() != nil {
		return time.Time{}
	}
	return status.GetLastRun().AsTime()
}

// snapshot returns what every worker of a service last said, and how many of them run.
func (b *workerBook) snapshot(service string) (said []store.WorkerTotals, running int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for key, h := range b.workers {
		if key.service != service {
			continue
		}
		said = append(said, key.totals(h.status))
		if h.status.GetRunning() && !h.at.IsZero() && now.Sub(h.at) < aliveFor {
			running++
		}
	}
	return said, running
}

// listenToWorkers hears heartbeats until ctx ends.
func (s *Service) listenToWorkers(ctx context.Context) {
	for ctx.Err() == nil {
		if s.conn.WaitConnected(ctx) != nil {
			return
		}
		err := s.conn.WatchWorkers(ctx, "*", "*", func(status *picketv1.WorkerStatus) { s.workers.hear(status, true) })
		if err != nil && ctx.Err() == nil {
			s.log.DebugContext(ctx, "heartbeats not heard, trying again", "err", err)
			sleep(ctx, time.Second)
		}
	}
}

// keepTotals writes down what workers say of themselves, so that figures survive every restart, until ctx ends.
func (s *Service) keepTotals(ctx context.Context) {
	if s.store.WaitForSchema(ctx) != nil {
		return
	}
	read := time.Time{}
	for {
		if s.conn.Connected() && time.Since(read) >= rosterEvery {
			read = time.Now()
			s.readRoster(ctx)
			if err := s.store.MergeWorkerTotals(ctx, totalsKeep); err != nil && ctx.Err() == nil {
				s.log.DebugContext(ctx, "figures of old workers not merged", "err", err)
			}
		}
		s.writeTotals(ctx)
		if !sleep(ctx, totalsEvery) {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	s.writeTotals(last)
}

func (s *Service) writeTotals(ctx context.Context) {
	totals := s.workers.takeTotals()
	if err := s.store.SaveWorkerTotals(ctx, totals); err != nil {
		s.workers.untake(totals)
		if ctx.Err() == nil {
			s.log.DebugContext(ctx, "figures of workers not written", "err", err)
		}
	}
}

func (s *Service) readRoster(ctx context.Context) {
	reading, cancel := context.WithTimeout(ctx, totalsEvery)
	defer cancel()
	for _, service := range []string{serviceProber, serviceCollector} {
		roster, err := s.conn.Roster(reading, service, "*")
		if err != nil {
			s.log.DebugContext(ctx, "roster of workers not read", "service", service, "err", err)
			continue
		}
		for _, status := range roster {
			s.workers.hear(status, false)
		}
	}
}

// HealthWorker is what probers did, all replicas together.
type HealthWorker struct {
	Running             bool    `json:"running" doc:"A heartbeat came within the last three seconds."`
	Replicas            int     `json:"replicas" doc:"Processes that run." example:"2"`
	IntervalSeconds     float64 `json:"interval_seconds" example:"30"`
	ChecksPerformed     int64   `json:"checks_performed" example:"1250"`
	ChecksSuccessful    int64   `json:"checks_successful" doc:"The server answered: healthy, degraded or critical." example:"1180"`
	ChecksFailed        int64   `json:"checks_failed" doc:"Unreachable, unknown, missed." example:"70"`
	SuccessRate         float64 `json:"success_rate" doc:"Percent; 0.0 when there was none." example:"94.4"`
	LastRun             *string `json:"last_run" format:"date-time" doc:"Start of the last finished cycle; null before the first." example:"2026-01-26T14:30:15.123456Z"`
	LastDurationSeconds float64 `json:"last_duration_seconds" doc:"Time in that cycle with a request in flight." example:"2.34"`
}

// MetricsWorker is what collectors did, all replicas together.
type MetricsWorker struct {
	Running               bool    `json:"running"`
	Replicas              int     `json:"replicas" example:"2"`
	IntervalSeconds       float64 `json:"interval_seconds" example:"60"`
	CollectionsPerformed  int64   `json:"collections_performed" example:"625"`
	CollectionsSuccessful int64   `json:"collections_successful" example:"610"`
	CollectionsFailed     int64   `json:"collections_failed" example:"15"`
	SuccessRate           float64 `json:"success_rate" example:"97.6"`
	TotalMetricsCollected int64   `json:"total_metrics_collected" doc:"Samples acknowledged by JetStream." example:"28750"`
	LastRun               *string `json:"last_run" format:"date-time" example:"2026-01-26T14:29:45.654321Z"`
	LastDurationSeconds   float64 `json:"last_duration_seconds" example:"5.67"`
}

// WorkersStatus is the state of the services that look at servers.
type WorkersStatus struct {
	HealthWorker  HealthWorker  `json:"health_worker"`
	MetricsWorker MetricsWorker `json:"metrics_worker"`
	Timestamp     string        `json:"timestamp" format:"date-time" example:"2026-01-26T14:30:30.000000Z"`
}

func (s *Service) registerWorkers(api huma.API) {
	route(api, store.Admin, huma.Operation{
		OperationID: "get-workers-status", Method: http.MethodGet, Path: base + "/workers/status", Tags: []string{"workers"},
		Summary: "What probers and collectors did", Errors: []int{http.StatusNotFound},
		Description: "Totals of all replicas, dead ones included: they never fall, whatever is restarted. A cycle is all ticks due in " +
			"one interval. They are figures of the platform, which belong to the organization `default`: for others there are none (404).",
	}, s.workersStatus)
}

func (s *Service) workersStatus(ctx context.Context, _ *struct{}) (*struct{ Body WorkersStatus }, error) {
	if principal(ctx).Org != catalog.DefaultOrg {
		return nil, store.ErrNotFound
	}
	kept, err := s.store.WorkerTotals(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	prober, collector := s.sumWorkers(serviceProber, kept), s.sumWorkers(serviceCollector, kept)
	status := WorkersStatus{
		HealthWorker: HealthWorker{
			Running: prober.running > 0, Replicas: prober.running, IntervalSeconds: prober.interval(s.config.HealthInterval),
			ChecksPerformed: prober.Performed, ChecksSuccessful: prober.Successful, ChecksFailed: prober.Failed,
			SuccessRate: prober.rate(), LastRun: micros(prober.LastRun), LastDurationSeconds: hundredths(prober.LastDurationSeconds),
		},
		MetricsWorker: MetricsWorker{
			Running: collector.running > 0, Replicas: collector.running, IntervalSeconds: collector.interval(s.config.MetricsInterval),
			CollectionsPerformed: collector.Performed, CollectionsSuccessful: collector.Successful, CollectionsFailed: collector.Failed,
			SuccessRate: collector.rate(), TotalMetricsCollected: collector.Samples, LastRun: micros(collector.LastRun),
			LastDurationSeconds: hundredths(collector.LastDurationSeconds),
		},
		Timestamp: *micros(now),
	}
	return &struct{ Body WorkersStatus }{status}, nil
}

// workerSum is a service, all its processes together.
type workerSum struct {
	store.WorkerTotals
	running int
}

// sumWorkers adds up what is written down and what was heard since: of one process the larger counts, for they only grow.
func (s *Service) sumWorkers(service string, kept []store.WorkerTotals) workerSum {
	said, running := s.workers.snapshot(service)
	all := make(map[worker]store.WorkerTotals, len(kept)+len(said))
	for _, list := range [][]store.WorkerTotals{kept, said} {
		for _, t := range list {
			if t.Service != service {
				continue
			}
			key := worker{t.Service, t.Location, t.Instance, t.StartedAt.UnixMicro()}
			if known, ok := all[key]; ok {
				t = known.Later(t)
			}
			all[key] = t
		}
	}
	sum := workerSum{running: running}
	for _, t := range all {
		sum.Performed += t.Performed
		sum.Successful += t.Successful
		sum.Failed += t.Failed
		sum.Samples += t.Samples
		if t.LastRun.After(sum.LastRun) {
			sum.LastRun, sum.IntervalSeconds = t.LastRun, t.IntervalSeconds
		}
	}
	// Replicas work at the same time: the cycle took as long as the slowest of those that were in it.
	for _, t := range all {
		if span := time.Duration(sum.IntervalSeconds * float64(time.Second)); !t.LastRun.IsZero() && sum.LastRun.Sub(t.LastRun) < span {
			sum.LastDurationSeconds = max(sum.LastDurationSeconds, t.LastDurationSeconds)
		}
	}
	return sum
}

func (w workerSum) interval(configured time.Duration) float64 {
	if w.IntervalSeconds > 0 {
		return w.IntervalSeconds
	}
	return configured.Seconds()
}

// rate is the percentage that was successful, one decimal.
func (w workerSum) rate() float64 {
	if w.Performed == 0 {
		return 0
	}
	return math.Round(1000*float64(w.Successful)/float64(w.Performed)) / 10
}

func hundredths(v float64) float64 { return math.Round(100*v) / 100 }

// micros is a time as the endpoint has always shown it: six decimals.
func micros(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := t.UTC().Format("2006-01-02T15:04:05.000000Z")
	return &text
}
