package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/store"
)

const (
	// historySpan is what a history shows that is asked for no times, and maxHistorySpan what one may ask for.
	historySpan    = 24 * time.Hour
	maxHistorySpan = 400 * 24 * time.Hour
	// maxCoverageSpan bounds what is counted tick by tick.
	maxCoverageSpan = 31 * 24 * time.Hour
)

// HealthCheck is one result of a server, or a marker that nobody looked.
type HealthCheck struct {
	Server              string     `json:"server" example:"checkout"`
	Check               string     `json:"check" example:"health"`
	Location            string     `json:"location" example:"local"`
	Timestamp           time.Time  `json:"timestamp" doc:"The tick: when the check was due."`
	Status              string     `json:"status" enum:"healthy,degraded,critical,unreachable,unknown"`
	ResponseTimeMS      float64    `json:"response_time_ms" doc:"0 when nothing was sent." example:"12.4"`
	HTTPStatus          int        `json:"http_status,omitempty" example:"503"`
	Reason              string     `json:"reason,omitempty" doc:"For machines." example:"http_503"`
	Message             string     `json:"message,omitempty" doc:"For people."`
	Missed              bool       `json:"missed,omitempty" doc:"Nobody looked; reason says why."`
	MissedUntil         *time.Time `json:"missed_until,omitempty" doc:"The last of the ticks in a row that the marker stands for."`
	OnDemand            bool       `json:"on_demand,omitempty"`
	StartedAt           *time.Time `json:"started_at,omitempty"`
	Instance            string     `json:"instance,omitempty" doc:"The process that looked."`
	CertificateNotAfter *time.Time `json:"certificate_not_after,omitempty"`
	ConnectionReused    bool       `json:"connection_reused,omitempty"`
	Details             any        `json:"details,omitempty" doc:"Components and counters that the server named."`
	CheckID             string     `json:"check_id" format:"uuid"`
}

type healthHistory struct {
	ServerID string        `json:"server_id" format:"uuid"`
	Checks   []HealthCheck `json:"health_checks" nullable:"false"`
	Count    int           `json:"count"`
	Limit    int           `json:"limit"`
	Next     string        `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerHealth(api huma.API) {
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-health-history", Method: http.MethodGet, Path: base + "/servers/{id}/health-history", Tags: []string{"health"},
		Summary: "Results of a server, the newest first", Errors: []int{http.StatusUnprocessableEntity},
		Description: "Every tick that was looked at, and markers for those that were not. The last 24 hours when no times are given.",
	}, s.healthHistory)
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-availability", Method: http.MethodGet, Path: base + "/servers/{id}/availability", Tags: []string{"health"},
		Summary: "Availability of a server, and how much of it was seen", Errors: []int{http.StatusUnprocessableEntity},
		Description: "Availability is what was up (healthy, degraded) among what was up or down; ticks in maintenance and unknown ones " +
			"count for neither. Coverage is how many of the ticks that were due were looked at, computed from the schedule; every " +
			"missed one is explained, or counted as unexplained. At most 31 days.",
	}, s.availability)
}

// HistoryInput are the parameters that histories have in common.
type HistoryInput struct {
	ID        string    `path:"id" maxLength:"64" doc:"Id or name of the server."`
	StartTime time.Time `query:"start_time" example:"2026-11-21T00:00:00Z"`
	EndTime   time.Time `query:"end_time" doc:"Not included; now when left out."`
	Check     string    `query:"check" maxLength:"63" example:"health"`
	Location  string    `query:"location" maxLength:"63" example:"local"`
}

type healthHistoryInput struct {
	HistoryInput
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor"`
}

func (s *Service) healthHistory(ctx context.Context, in *healthHistoryInput) (*struct{ Body healthHistory }, error) {
	from, to, err := timeRange(in.StartTime, in.EndTime, historySpan, maxHistorySpan)
	if err != nil {
		return nil, err
	}
	server, err := s.store.FindServer(ctx, principal(ctx).Org, in.ID)
	if err != nil {
		return nil, err
	}
	q := store.ServerHistoryQuery{
		ServerID: server.ID, Check: in.Check, Location: in.Location, From: from, To: to, Limit: in.Limit + 1,
	}
	if in.Cursor != "" {
		var place store.HistoryPlace
		var at int64
		if err := readCursor(in.Cursor, "health-history", &at, &place.CheckID, &place.Location); err != nil {
			return nil, err
		}
		place.ScheduledAt = time.UnixMilli(at)
		q.Before = &place
	}
	results, err := s.store.ServerHistory(ctx, q)
	if err != nil {
		return nil, err
	}
	list := healthHistory{ServerID: server.ID.String(), Limit: in.Limit, Checks: make([]HealthCheck, 0, len(results))}
	if len(results) > in.Limit {
		results = results[:in.Limit]
		last := &results[len(results)-1]
		list.Next = cursor("health-history", last.ScheduledAt.UnixMilli(), last.CheckID, last.Location)
	}
	for i := range results {
		list.Checks = append(list.Checks, newHealthCheck(&results[i]))
	}
	list.Count = len(list.Checks)
	return &struct{ Body healthHistory }{list}, nil
}

func newHealthCheck(r *store.Result) HealthCheck {
	check := HealthCheck{
		Server: r.Server, Check: r.Check, Location: r.Location, Timestamp: r.ScheduledAt.UTC(), Status: health.Word(r.Status),
		ResponseTimeMS: milliseconds(r.Latency), HTTPStatus: int(r.HTTPStatus), Reason: r.Reason, Message: r.Message, Missed: r.Missed,
		MissedUntil: orNil(r.MissedUntil), OnDemand: r.OnDemand, StartedAt: orNil(r.StartedAt), Instance: r.Instance,
		CertificateNotAfter: orNil(r.CertificateNotAfter), ConnectionReused: r.ConnectionReused, CheckID: r.CheckID.String(),
	}
	if len(r.Details) > 0 {
		check.Details = json.RawMessage(r.Details)
	}
	return check
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// timeRange is what a request asks for: span until now when it says nothing, and never more than most.
func timeRange(from, to time.Time, span, most time.Duration) (time.Time, time.Time, error) {
	if to.IsZero() {
		to = time.Now()
	}
	if from.IsZero() {
		from = to.Add(-span)
	}
	switch {
	case !from.Before(to):
		return from, to, problem(http.StatusUnprocessableEntity, "validation failed", field("query.start_time", "is not before the end"))
	case to.Sub(from) > most:
		return from, to, problem(http.StatusUnprocessableEntity, "validation failed",
			field("query.start_time", "is more than "+most.String()+" before the end"))
	}
	return from.UTC(), to.UTC(), nil
}

// inOrder refuses two bounds of which the first is not before the second; either may be left out.
func inOrder(from, to time.Time) error {
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return problem(http.StatusUnprocessableEntity, "validation failed", field("query.from", "is not before the end"))
	}
	return nil
}

// CheckAvailability is what was seen of one check.
type CheckAvailability struct {
	Check        string   `json:"check" example:"health"`
	Availability *float64 `json:"availability" doc:"Share 0..1 of up among up and down; null when nothing answers for it." example:"0.9991"`
	Up           int64    `json:"up"`
	Down         int64    `json:"down"`
	Healthy      int64    `json:"healthy"`
	Degraded     int64    `json:"degraded"`
	Critical     int64    `json:"critical"`
	Unreachable  int64    `json:"unreachable"`
	Unknown      int64    `json:"unknown" doc:"We failed to look."`
	Maintenance  int64    `json:"maintenance" doc:"Seen while the server was in maintenance: neither up nor down."`
	LatencyAvgMS float64  `json:"latency_avg_ms"`
	LatencyP95MS float64  `json:"latency_p95_ms"`
	LatencyMaxMS float64  `json:"latency_max_ms"`
}

// Coverage compares what was due with what was looked at.
type Coverage struct {
	Coverage    float64          `json:"coverage" doc:"Share 0..1 of the due ticks that were looked at; 1 when none was due." example:"1"`
	Due         int64            `json:"due"`
	Seen        int64            `json:"seen"`
	Missed      int64            `json:"missed"`
	Explained   map[string]int64 `json:"explained" nullable:"false" doc:"Missed ticks by reason."`
	Unexplained int64            `json:"unexplained" doc:"Missed ticks that nothing accounts for: a fault of Picket."`
}

type availabilityBody struct {
	ServerID  string              `json:"server_id" format:"uuid"`
	StartTime time.Time           `json:"start_time"`
	EndTime   time.Time           `json:"end_time"`
	Checks    []CheckAvailability `json:"checks" nullable:"false"`
	Coverage  Coverage            `json:"coverage"`
}

// coverageDelay is how long a result may be on its way: ticks younger than that are not asked for.
const coverageDelay = 10 * time.Second

func (s *Service) availability(ctx context.Context, in *HistoryInput) (*struct{ Body availabilityBody }, error) {
	from, to, err := timeRange(in.StartTime, in.EndTime, historySpan, maxCoverageSpan)
	if err != nil {
		return nil, err
	}
	who := principal(ctx)
	server, err := s.store.FindServer(ctx, who.Org, in.ID)
	if err != nil {
		return nil, err
	}
	if settled := time.Now().Add(-coverageDelay); to.After(settled) {
		to = settled.UTC()
	}
	body := availabilityBody{ServerID: server.ID.String(), StartTime: from, EndTime: to, Checks: []CheckAvailability{}}
	if !from.Before(to) {
		body.Coverage = newCoverage(store.Coverage{})
		return &struct{ Body availabilityBody }{body}, nil
	}
	all, err := s.store.Availability(ctx, server.ID, in.Check, in.Location, from, to)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		body.Checks = append(body.Checks, newAvailability(a))
	}
	coverage, err := s.store.Coverage(ctx, store.CoverageFilter{
		Org: who.Org, Server: server.Name, Check: in.Check, Location: in.Location,
	}, from, to)
	if err != nil {
		return nil, err
	}
	body.Coverage = newCoverage(coverage)
	return &struct{ Body availabilityBody }{body}, nil
}

func newAvailability(a store.Availability) CheckAvailability {
	shown := CheckAvailability{
		Check: a.Check, Up: a.Up, Down: a.Down, Healthy: a.Healthy, Degraded: a.Degraded, Critical: a.Critical,
		Unreachable: a.Unreachable, Unknown: a.Unknown, Maintenance: a.Maintenance,
		LatencyAvgMS: milliseconds(a.LatencyAvg), LatencyP95MS: milliseconds(a.LatencyP95), LatencyMaxMS: milliseconds(a.Slowest),
	}
	if ratio, ok := a.Ratio(); ok {
		shown.Availability = &ratio
	}
	return shown
}

func newCoverage(c store.Coverage) Coverage {
	explained := c.Explained
	if explained == nil {
		explained = map[string]int64{}
	}
	return Coverage{
		Coverage: c.Ratio(), Due: c.Due, Seen: c.Seen, Missed: c.Missed, Explained: explained, Unexplained: c.Unexplained,
	}
}

// parseID reads an id from a path: what is none names nothing.
func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.Nil, store.ErrNotFound
	}
	return id, nil
}
