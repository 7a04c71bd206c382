package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/picketd/picket/internal/store"
)

// Summary is a fleet in numbers.
type Summary struct {
	Organization       string     `json:"organization" example:"default"`
	TotalServers       int64      `json:"total_servers"`
	ActiveServers      int64      `json:"active_servers"`
	MaintenanceServers int64      `json:"maintenance_servers"`
	InactiveServers    int64      `json:"inactive_servers"`
	HealthyServers     int64      `json:"healthy_servers"`
	DegradedServers    int64      `json:"degraded_servers"`
	CriticalServers    int64      `json:"critical_servers"`
	UnreachableServers int64      `json:"unreachable_servers"`
	UnknownServers     int64      `json:"unknown_servers"`
	FreshServers       int64      `json:"fresh_servers" doc:"Looked at within three intervals of one of their checks."`
	StaleServers       int64      `json:"stale_servers" doc:"Nobody looked for longer; what is shown of them is old."`
	NeverChecked       int64      `json:"never_checked_servers"`
	Regions            int64      `json:"regions"`
	Groups             int64      `json:"groups"`
	LastHealthCheckAt  *time.Time `json:"last_health_check_at,omitempty"`
	Alerts             struct {
		Pending      int64 `json:"pending"`
		Open         int64 `json:"open"`
		Acknowledged int64 `json:"acknowledged"`
		Critical     int64 `json:"critical" doc:"Open or acknowledged."`
		Warning      int64 `json:"warning" doc:"Open or acknowledged."`
	} `json:"alerts"`
	LLMCostUSDToday  string    `json:"llm_cost_usd_today" doc:"Since midnight UTC, exact." example:"1.2345"`
	LLMCostUSD30Days string    `json:"llm_cost_usd_30d" doc:"Today and the 29 days before, UTC." example:"40.1"`
	Timestamp        time.Time `json:"timestamp"`
}

func (s *Service) registerSummary(api huma.API) {
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-summary", Method: http.MethodGet, Path: base + "/summary", Tags: []string{"summary"},
		Summary: "The fleet in numbers", Description: "As of its timestamp, a few seconds ago at most, freshness too; costs as of the last minute.",
		Metadata: map[string]any{keptMeta: true},
	}, s.summary)
}

// keepCosts is about as often as roll-ups move, and how long what was added up then is shown besides.
const keepCosts = 30 * time.Second

// costSummary is what an organization spent.
type costSummary struct{ today, days30 string }

func (s *Service) summary(ctx context.Context, _ *struct{}) (*struct{ Body Summary }, error) {
	org := principal(ctx).Org
	body, err := s.counts.get(ctx, org, func(ctx context.Context) (Summary, span, error) {
		now := time.Now()
		body, err := s.count(ctx, org, now.UTC())
		return body, counted(now), err
	})
	if err != nil {
		return nil, err
	}
	costs, err := s.spent.get(ctx, org, func(ctx context.Context) (costSummary, span, error) {
		now := time.Now().UTC()
		midnight := now.Truncate(24*time.Hour).AddDate(0, 0, 1)
		good := span{renew: now.Add(keepCosts), until: now.Add(2 * keepCosts)}
		if good.until.After(midnight) {
			good.until = midnight
		}
		costs, err := s.addCosts(ctx, org, now)
		return costs, good, err
	})
	if err != nil {
		return nil, err
	}
	body.LLMCostUSDToday, body.LLMCostUSD30Days = costs.today, costs.days30
	return &struct{ Body Summary }{body}, nil
}

func (s *Service) count(ctx context.Context, org string, now time.Time) (Summary, error) {
	sum, err := s.store.Summary(ctx, org)
	if err != nil {
		return Summary{}, err
	}
	body := Summary{
		Organization: org, TotalServers: sum.Total, ActiveServers: sum.Active, MaintenanceServers: sum.Maintenance,
		InactiveServers: sum.Inactive, HealthyServers: sum.Healthy, DegradedServers: sum.Degraded, CriticalServers: sum.Critical,
		UnreachableServers: sum.Unreachable, UnknownServers: sum.Unknown, FreshServers: sum.Fresh, StaleServers: sum.Stale,
		NeverChecked: sum.NeverChecked, Regions: sum.Regions, Groups: sum.Groups, LastHealthCheckAt: orNil(sum.LastCheck), Timestamp: now,
	}
	body.Alerts.Pending, body.Alerts.Open, body.Alerts.Acknowledged = sum.AlertsPending, sum.AlertsOpen, sum.AlertsAcknowledged
	body.Alerts.Critical, body.Alerts.Warning = sum.AlertsCritical, sum.AlertsWarning
	return body, nil
}

func (s *Service) addCosts(ctx context.Context, org string, now time.Time) (costSummary, error) {
	day := now.Truncate(24 * time.Hour)
	today, err := s.costSince(ctx, org, day, now)
	if err != nil {
		return costSummary{}, err
	}
	days30, err := s.costSince(ctx, org, day.AddDate(0, 0, -29), now)
	return costSummary{today: today, days30: days30}, err
}
