package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/store"
)

const maxMetricsSpan = 5 * 366 * 24 * time.Hour

// ServerMetric is the figures of a server at a tick, or in a bucket that begins then. What was not shown is left out.
type ServerMetric struct {
	Timestamp time.Time `json:"timestamp"`
	Period    string    `json:"period" enum:"1m,5m,1h,1d"`
	Location  string    `json:"location" example:"local"`
	Samples   int64     `json:"samples" doc:"Readings in it."`
	OnDemand  bool      `json:"on_demand,omitempty"`

	CPUPercent     *float64 `json:"cpu_percent,omitempty" doc:"Like all gauges: the average." example:"12.5"`
	MemoryPercent  *float64 `json:"memory_percent,omitempty"`
	DiskPercent    *float64 `json:"disk_percent,omitempty"`
	ActiveServices *float64 `json:"active_services,omitempty"`
	FailedServices *float64 `json:"failed_services,omitempty"`
	TotalServices  *float64 `json:"total_services,omitempty"`
	ActiveUsers    *float64 `json:"active_users,omitempty"`
	TotalUsers     *float64 `json:"total_users,omitempty"`

	NetworkRxBytes *Decimal `json:"network_rx_bytes,omitempty" doc:"Like all counters: the reading at the end."`
	NetworkTxBytes *Decimal `json:"network_tx_bytes,omitempty"`
	LLMRequests    *Decimal `json:"llm_requests,omitempty"`
	LLMCostUSD     *Decimal `json:"llm_cost_usd,omitempty"`

	Max struct {
		CPUPercent     *float64 `json:"cpu_percent,omitempty"`
		MemoryPercent  *float64 `json:"memory_percent,omitempty"`
		DiskPercent    *float64 `json:"disk_percent,omitempty"`
		ActiveServices *float64 `json:"active_services,omitempty"`
		FailedServices *float64 `json:"failed_services,omitempty"`
		TotalServices  *float64 `json:"total_services,omitempty"`
		ActiveUsers    *float64 `json:"active_users,omitempty"`
		TotalUsers     *float64 `json:"total_users,omitempty"`
	} `json:"max" doc:"The largest values of the gauges."`
	Increase struct {
		NetworkRxBytes *Decimal `json:"network_rx_bytes,omitempty"`
		NetworkTxBytes *Decimal `json:"network_tx_bytes,omitempty"`
		LLMRequests    *Decimal `json:"llm_requests,omitempty"`
		LLMCostUSD     *Decimal `json:"llm_cost_usd,omitempty"`
	} `json:"increase" doc:"What counters gained since the row before; the sum over rows is the sum of all."`
	Extra any `json:"extra,omitempty" doc:"Whatever else the server showed."`
}

type serverMetrics struct {
	ServerID string         `json:"server_id" format:"uuid"`
	Period   string         `json:"period"`
	Metrics  []ServerMetric `json:"metrics" nullable:"false"`
	Count    int            `json:"count"`
	Limit    int            `json:"limit"`
	Next     string         `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerMetrics(api huma.API) {
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-server-metrics", Method: http.MethodGet, Path: base + "/servers/{id}/metrics", Tags: []string{"metrics"},
		Summary: "Figures of a server, the newest first", Errors: []int{http.StatusUnprocessableEntity},
		Description: "`1m` is readings as they came, `5m`, `1h` and `1d` are roll-ups. The last 24 hours when no times are given.",
	}, s.serverMetrics)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-system-metrics", Method: http.MethodGet, Path: base + "/system-metrics", Tags: []string{"metrics"},
		Summary: "Figures of Picket's own parts, and counters of servers, the newest first", Errors: []int{http.StatusUnprocessableEntity},
		Description: "Figures of the organization that asks; those of the platform belong to the organization `default`.",
	}, s.systemMetrics)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-latest-system-metrics", Method: http.MethodGet, Path: base + "/system-metrics/latest", Tags: []string{"metrics"},
		Summary: "The newest figure of each series that had one in the last 15 minutes",
	}, s.latestSystemMetrics)
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-costs", Method: http.MethodGet, Path: base + "/cost", Tags: []string{"cost"},
		Summary: "What LLM requests cost, by server, group, organization or day", Errors: []int{http.StatusUnprocessableEntity},
		Description: "From the readings of `llm_cost_usd`, exact, in whole days of UTC; the last 30 days when no times are given. A server " +
			"in several groups counts in each.",
	}, s.costs)
}

type serverMetricsInput struct {
	ID        string    `path:"id" maxLength:"64" doc:"Id or name of the server."`
	Period    string    `query:"period" enum:"1m,5m,1h,1d" default:"1m"`
	StartTime time.Time `query:"start_time"`
	EndTime   time.Time `query:"end_time" doc:"Not included; now when left out."`
	Limit     int       `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
	Cursor    string    `query:"cursor"`
}

func (s *Service) serverMetrics(ctx context.Context, in *serverMetricsInput) (*struct{ Body serverMetrics }, error) {
	from, to, err := timeRange(in.StartTime, in.EndTime, historySpan, maxMetricsSpan)
	if err != nil {
		return nil, err
	}
	who := principal(ctx)
	server, err := s.store.FindServer(ctx, who.Org, in.ID)
	if err != nil {
		return nil, err
	}
	q := store.MetricsQuery{Org: who.Org, Server: server.ID, Period: in.Period, From: from, To: to, Limit: in.Limit}
	if in.Cursor != "" {
		var at int64
		if err := readCursor(in.Cursor, "server-metrics-"+in.Period, &at, &q.After.CheckID, &q.After.Location); err != nil {
			return nil, err
		}
		q.After.At = time.UnixMicro(at)
	}
	rows, err := s.store.ServerMetrics(ctx, q)
	if err != nil {
		return nil, err
	}
	list := serverMetrics{ServerID: server.ID.String(), Period: in.Period, Limit: in.Limit, Metrics: make([]ServerMetric, 0, len(rows))}
	for i := range rows {
		list.Metrics = append(list.Metrics, newServerMetric(&rows[i]))
	}
	if len(rows) == in.Limit { // perhaps there are more; an empty page says that there were not
		last := rows[len(rows)-1]
		list.Next = cursor("server-metrics-"+in.Period, last.At.UnixMicro(), last.CheckID, last.Location)
	}
	list.Count = len(list.Metrics)
	return &struct{ Body serverMetrics }{list}, nil
}

func newServerMetric(m *store.ServerMetric) ServerMetric {
	shown := ServerMetric{
		Timestamp: m.At, Period: m.Period, Location: m.Location, Samples: m.Samples, OnDemand: m.OnDemand,
		CPUPercent: m.CPUPercent.Avg, MemoryPercent: m.MemoryPercent.Avg, DiskPercent: m.DiskPercent.Avg,
		ActiveServices: m.ActiveServices.Avg, FailedServices: m.FailedServices.Avg, TotalServices: m.TotalServices.Avg,
		ActiveUsers: m.ActiveUsers.Avg, TotalUsers: m.TotalUsers.Avg,
		NetworkRxBytes: orNone(m.NetworkRxBytes.Reading), NetworkTxBytes: orNone(m.NetworkTxBytes.Reading),
		LLMRequests: orNone(m.LLMRequests.Reading), LLMCostUSD: orNone(m.LLMCostUSD.Reading),
	}
	shown.Max.CPUPercent, shown.Max.MemoryPercent, shown.Max.DiskPercent = m.CPUPercent.Max, m.MemoryPercent.Max, m.DiskPercent.Max
	shown.Max.ActiveServices, shown.Max.FailedServices = m.ActiveServices.Max, m.FailedServices.Max
	shown.Max.TotalServices = m.TotalServices.Max
	shown.Max.ActiveUsers, shown.Max.TotalUsers = m.ActiveUsers.Max, m.TotalUsers.Max
	shown.Increase.NetworkRxBytes, shown.Increase.NetworkTxBytes = orNone(m.NetworkRxBytes.Increase), orNone(m.NetworkTxBytes.Increase)
	shown.Increase.LLMRequests, shown.Increase.LLMCostUSD = orNone(m.LLMRequests.Increase), orNone(m.LLMCostUSD.Increase)
	if len(m.Extra) > 0 {
		shown.Extra = json.RawMessage(m.Extra)
	}
	return shown
}

// Decimal is an exact number, which JSON shows as it is and nobody rounds.
type Decimal json.Number

// MarshalJSON writes the number.
func (d Decimal) MarshalJSON() ([]byte, error) { return []byte(d), nil }

// Schema describes it.
func (Decimal) Schema(huma.Registry) *huma.Schema { return &huma.Schema{Type: huma.TypeNumber} }

// orNone is an exact number as JSON shows it: left out when there is none.
func orNone(n json.Number) *Decimal {
	if n == "" {
		return nil
	}
	d := Decimal(n)
	return &d
}

// SystemMetric is one figure of one part.
type SystemMetric struct {
	Time       time.Time         `json:"time"`
	MetricName string            `json:"metric_name" example:"connections"`
	Service    string            `json:"service" example:"postgres"`
	Tags       map[string]string `json:"tags" nullable:"false"`
	Value      float64           `json:"value" doc:"Of hours the average; with rate the change per second."`
	Max        float64           `json:"max"`
	Min        float64           `json:"min"`
}

type systemMetrics struct {
	Metrics []SystemMetric `json:"metrics" nullable:"false"`
	Count   int            `json:"count"`
	Limit   int            `json:"limit"`
	Next    string         `json:"next,omitempty" doc:"Cursor of the next page."`
}

// LatestSystemMetricsInput are the parameters that figures of parts have in common.
type LatestSystemMetricsInput struct {
	Metric  []string `query:"metric" doc:"Names; several by commas." example:"connections,db_size_bytes"`
	Service []string `query:"service" doc:"Parts; several by commas." example:"postgres"`
	Limit   int      `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
}

type systemMetricsInput struct {
	LatestSystemMetricsInput
	StartTime time.Time `query:"start_time"`
	EndTime   time.Time `query:"end_time" doc:"Not included; now when left out."`
	Period    string    `query:"period" enum:"raw,1h" default:"raw"`
	Rate      bool      `query:"rate" doc:"The change per second instead of the value; one below the last is a restart. Not of hours."`
	Cursor    string    `query:"cursor"`
}

func (s *Service) systemMetrics(ctx context.Context, in *systemMetricsInput) (*struct{ Body systemMetrics }, error) {
	from, to, err := timeRange(in.StartTime, in.EndTime, historySpan, maxMetricsSpan)
	if err != nil {
		return nil, err
	}
	q := store.SystemMetricsQuery{
		Org: principal(ctx).Org, Names: in.Metric, Services: in.Service, From: from, To: to, Limit: in.Limit,
		Hourly: in.Period == "1h", Rate: in.Rate,
	}
	if in.Cursor != "" {
		var at int64
		if err := readCursor(in.Cursor, "system-metrics", &at, &q.AfterSeries); err != nil {
			return nil, err
		}
		q.After = time.UnixMicro(at)
	}
	rows, err := s.store.SystemMetrics(ctx, q)
	switch {
	case errors.Is(err, store.ErrQuery):
		return nil, problem(http.StatusUnprocessableEntity, "validation failed", field("query.rate", "is not for hours"))
	case err != nil:
		return nil, err
	}
	list := newSystemMetrics(rows, in.Limit)
	if len(rows) == in.Limit {
		last := rows[len(rows)-1]
		list.Next = cursor("system-metrics", last.Time.UnixMicro(), last.Series)
	}
	return &struct{ Body systemMetrics }{list}, nil
}

func (s *Service) latestSystemMetrics(ctx context.Context, in *LatestSystemMetricsInput) (*struct{ Body systemMetrics }, error) {
	rows, err := s.store.LatestSystemMetrics(ctx, store.SystemMetricsQuery{
		Org: principal(ctx).Org, Names: in.Metric, Services: in.Service, Limit: in.Limit,
	}, time.Now())
	if err != nil {
		return nil, err
	}
	return &struct{ Body systemMetrics }{newSystemMetrics(rows, in.Limit)}, nil
}

func newSystemMetrics(rows []store.SystemMetric, limit int) systemMetrics {
	list := systemMetrics{Limit: limit, Count: len(rows), Metrics: make([]SystemMetric, 0, len(rows))}
	for _, m := range rows {
		tags := m.Tags
		if tags == nil {
			tags = map[string]string{}
		}
		list.Metrics = append(list.Metrics, SystemMetric{
			Time: m.Time, MetricName: m.Name, Service: m.Service, Tags: tags, Value: m.Value, Max: m.Max, Min: m.Min,
		})
	}
	return list
}

// Cost is what was spent.
type Cost struct {
	Key        string `json:"key" doc:"Id of the server or group, slug of the organization, or day." example:"2026-11-21"`
	Name       string `json:"name"`
	Day        string `json:"day,omitempty" format:"date" example:"2026-11-21"`
	LLMCostUSD string `json:"llm_cost_usd" doc:"Exact." example:"12.3456"`
}

type costList struct {
	By    string `json:"by"`
	From  string `json:"from" format:"date"`
	To    string `json:"to" format:"date" doc:"Not included."`
	Costs []Cost `json:"costs" nullable:"false"`
	Count int    `json:"count"`
}

type costsInput struct {
	By    string    `query:"by" enum:"server,group,organization,day" default:"server"`
	From  time.Time `query:"from" doc:"The day of this instant is the first."`
	To    time.Time `query:"to" doc:"Not included, but for the rest of its day."`
	Daily bool      `query:"daily" doc:"Each sum by day."`
}

// maxCostSpan bounds the days of one answer.
const maxCostSpan = 400 * 24 * time.Hour

func (s *Service) costs(ctx context.Context, in *costsInput) (*struct{ Body costList }, error) {
	from, to, err := timeRange(in.From, in.To, 30*24*time.Hour, maxCostSpan)
	if err != nil {
		return nil, err
	}
	costs, err := s.store.Costs(ctx, store.CostQuery{Org: principal(ctx).Org, From: from, To: to, By: store.CostBy(in.By), Daily: in.Daily})
	if err != nil {
		return nil, err
	}
	list := costList{
		By: in.By, From: from.Truncate(24 * time.Hour).Format(time.DateOnly),
		To: to.Add(24*time.Hour - 1).Truncate(24 * time.Hour).Format(time.DateOnly), Costs: make([]Cost, 0, len(costs)), Count: len(costs),
	}
	for _, c := range costs {
		cost := Cost{Key: c.Key, Name: c.Name, LLMCostUSD: c.USD.String()}
		if !c.Day.IsZero() {
			cost.Day = c.Day.Format(time.DateOnly)
		}
		list.Costs = append(list.Costs, cost)
	}
	return &struct{ Body costList }{list}, nil
}

// costSince is what an organization spent in the days from one instant to another, an exact decimal.
func (s *Service) costSince(ctx context.Context, org string, from, to time.Time) (string, error) {
	costs, err := s.store.Costs(ctx, store.CostQuery{Org: org, From: from, To: to, By: store.CostByOrganization})
	if err != nil {
		return "", err
	}
	for _, c := range costs {
		if c.Org == org {
			return c.USD.String(), nil
		}
	}
	return "0", nil
}
