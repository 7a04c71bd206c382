package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// runSlack is what a run may take besides its check's own time-out: two ways through NATS and the publishing.
	runSlack = 2 * time.Second
	// runsAtOnce bounds what this process asks for at a time, all requests together.
	runsAtOnce = 32
	// runTimeout bounds a request that runs something, and maxRuns what it may run.
	runTimeout = 45 * time.Second
	maxRuns    = 2000
	// kindMetrics is the kind of check that collects.
	kindMetrics = "metrics"
	checkHealth = "health"
)

// Run is the outcome of one check that was run on demand, at one location.
type Run struct {
	Check            string     `json:"check" example:"health"`
	Location         string     `json:"location" example:"local"`
	Status           string     `json:"status" enum:"healthy,degraded,critical,unreachable,unknown"`
	ResponseTimeMS   float64    `json:"response_time_ms"`
	HTTPStatus       int        `json:"http_status,omitempty"`
	Reason           string     `json:"reason,omitempty"`
	Message          string     `json:"message,omitempty"`
	CheckedAt        *time.Time `json:"checked_at,omitempty"`
	MetricsCollected int        `json:"metrics_collected,omitempty" doc:"Figures that a collection found."`
	Values           any        `json:"values,omitempty" doc:"What a collection found, by name."`
	Error            string     `json:"error,omitempty" enum:"no_responders,timeout,disconnected,busy,stopping,unknown_check,unreadable,refused" doc:"Why nothing was run; the status is unknown then."`
}

// ServerRun is what the checks of one server said when they were run on demand.
type ServerRun struct {
	ServerID string `json:"server_id" format:"uuid"`
	Server   string `json:"server" example:"checkout"`
	Status   string `json:"status" enum:"healthy,degraded,critical,unreachable,unknown" doc:"The worst of its runs."`
	Results  []Run  `json:"results" nullable:"false"`
}

// FleetRun is the same of many servers.
type FleetRun struct {
	Results     []ServerRun `json:"results" nullable:"false"`
	Total       int         `json:"total"`
	Healthy     int         `json:"healthy"`
	Degraded    int         `json:"degraded"`
	Critical    int         `json:"critical"`
	Unreachable int         `json:"unreachable"`
	Unknown     int         `json:"unknown" doc:"Nobody could look."`
}

func (s *Service) registerOnDemand(api huma.API) {
	unable := []int{http.StatusConflict, http.StatusUnprocessableEntity, http.StatusGatewayTimeout}
	route(api, store.Operator, within(runTimeout, huma.Operation{
		OperationID: "check-server", Method: http.MethodPost, Path: base + "/servers/{id}/health-check", Tags: []string{"health"},
		Summary: "Run the checks of a server now", Errors: unable,
		Description: "Asks a prober of each location and answers with what it saw; the results are stored like any other, marked " +
			"`on_demand`, and move no alert. 503 when no prober is there, 504 when none answers in time.",
	}), s.checkServer)
	route(api, store.Operator, within(runTimeout, huma.Operation{
		OperationID: "check-all", Method: http.MethodPost, Path: base + "/health-check/all", Tags: []string{"health"},
		Summary: "Run the check health of every server now", Errors: unable,
		Description: "At most 2000 checks; larger fleets use an operation `check_now`.",
	}), s.checkAll)
	route(api, store.Operator, within(runTimeout, huma.Operation{
		OperationID: "collect-metrics", Method: http.MethodPost, Path: base + "/servers/{id}/metrics/collect", Tags: []string{"metrics"},
		Summary: "Collect the metrics of a server now", Errors: unable,
	}), s.collectServer)
}

type serverInput struct {
	ID string `path:"id" maxLength:"64" doc:"Id or name of the server."`
}

func (s *Service) checkServer(ctx context.Context, in *serverInput) (*struct{ Body ServerRun }, error) {
	return s.runServer(ctx, in.ID, "", "server.check")
}

func (s *Service) collectServer(ctx context.Context, in *serverInput) (*struct{ Body ServerRun }, error) {
	return s.runServer(ctx, in.ID, kindMetrics, "server.collect")
}

func (s *Service) runServer(ctx context.Context, id, kind, action string) (*struct{ Body ServerRun }, error) {
	who := principal(ctx)
	server, err := s.store.FindServer(ctx, who.Org, id)
	if err != nil {
		return nil, err
	}
	targets, err := s.store.RunTargets(ctx, who.Org, server.ID, kind, "", maxRuns)
	switch {
	case err != nil:
		return nil, err
	case len(targets) == 0 && server.Lifecycle == "inactive":
		return nil, problem(http.StatusConflict, "the server is inactive: it is not looked at")
	case len(targets) == 0:
		return nil, problem(http.StatusConflict, "the server has no check that could be run for this")
	}
	if err := s.store.WriteAudit(ctx, audit(ctx, action, "server", server.Name)); err != nil {
		return nil, err
	}
	run := byServer(targets, s.runAll(ctx, who.TokenID, targets))[0]
	if err := nothingRan(run.Results); err != nil {
		return nil, err
	}
	return &struct{ Body ServerRun }{run}, nil
}

func (s *Service) checkAll(ctx context.Context, _ *struct{}) (*struct{ Body FleetRun }, error) {
	who := principal(ctx)
	targets, err := s.store.RunTargets(ctx, who.Org, uuid.Nil, "", checkHealth, maxRuns+1)
	switch {
	case err != nil:
		return nil, err
	case len(targets) > maxRuns:
		return nil, problem(http.StatusUnprocessableEntity, "these are more than 2000 checks: use an operation check_now")
	}
	if err := s.store.WriteAudit(ctx, audit(ctx, "fleet.check", "organization", who.Org)); err != nil {
		return nil, err
	}
	runs := s.runAll(ctx, who.TokenID, targets)
	if err := nothingRan(runs); err != nil && len(runs) > 0 {
		return nil, err
	}
	fleet := FleetRun{Results: byServer(targets, runs)}
	fleet.Total = len(fleet.Results)
	for _, server := range fleet.Results {
		switch server.Status {
		case "healthy":
			fleet.Healthy++
		case "degraded":
			fleet.Degraded++
		case "critical":
			fleet.Critical++
		case "unreachable":
			fleet.Unreachable++
		default:
			fleet.Unknown++
		}
	}
	return &struct{ Body FleetRun }{fleet}, nil
}

// runAll runs all targets, several at a time, and returns what came of each.
func (s *Service) runAll(ctx context.Context, actor string, targets []store.RunTarget) []Run {
	runs := make([]Run, len(targets))
	var group errgroup.Group
	group.SetLimit(runsAtOnce)
	for i, target := range targets {
		group.Go(func() error {
			runs[i] = s.runOne(ctx, actor, target)
			return nil
		})
	}
	_ = group.Wait() // no run returns an error: it is in its outcome
	return runs
}

// runOne asks a replica to run one check. How many are asked at a time is bounded over all requests.
func (s *Service) runOne(ctx context.Context, actor string, target store.RunTarget) Run {
	run := Run{Check: target.Check, Location: target.Location, Status: health.Word(picketv1.Status_STATUS_UNKNOWN)}
	select {
	case s.runs <- struct{}{}:
		defer func() { <-s.runs }()
	case <-ctx.Done():
		run.Error = "timeout"
		return run
	}
	service := serviceProber
	if target.Kind == kindMetrics {
		service = serviceCollector
	}
	ctx, cancel := context.WithTimeout(ctx, target.Timeout+runSlack)
	defer cancel()
	reply := &picketv1.RunReply{}
	err := s.conn.Request(ctx, service, target.Location, &picketv1.RunRequest{CheckId: target.CheckID.String(), Actor: actor}, reply)
	switch {
	case errors.Is(err, bus.ErrNoResponders):
		run.Error = "no_responders"
	case errors.Is(err, bus.ErrDisconnected):
		run.Error = "disconnected"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		run.Error = "timeout"
	case err != nil:
		run.Error = "unreadable"
	case reply.GetRefused() != "":
		run.Error = refusal(reply.GetRefused())
	case reply.GetResult() == nil || reply.GetResult().GetCheckId() != target.CheckID.String():
		run.Error = "unreadable"
	default:
		run.take(reply)
	}
	return run
}

// refusal keeps the words that are known, whatever was sent.
func refusal(word string) string {
	switch word {
	case bus.RefusedBusy, bus.RefusedStopping, bus.RefusedUnreadable, "unknown_check":
		return word
	default:
		return "refused"
	}
}

func (r *Run) take(reply *picketv1.RunReply) {
	result := reply.GetResult()
	r.Status = health.Word(result.GetStatus())
	r.ResponseTimeMS = float64(result.GetLatencyUs()) / 1000
	r.HTTPStatus, r.Reason, r.Message = int(result.GetHttpStatus()), result.GetReason(), result.GetMessage()
	if at := result.GetScheduledAt(); at != nil && at.CheckValid() == nil {
		r.CheckedAt = orNil(at.AsTime())
	}
	if metrics := reply.GetMetrics(); metrics != nil {
		r.MetricsCollected = len(metrics.GetValues()) + len(metrics.GetSamples())
		if len(metrics.GetValues()) > 0 {
			r.Values = finite(metrics.GetValues())
		}
	}
}

// finite leaves out what JSON has no word for.
func finite(values map[string]float64) map[string]float64 {
	kept := make(map[string]float64, len(values))
	for name, v := range values {
		if v-v == 0 {
			kept[name] = v
		}
	}
	return kept
}

// byServer gathers runs by server; targets are in the order of servers.
func byServer(targets []store.RunTarget, runs []Run) []ServerRun {
	servers := []ServerRun{}
	for i, target := range targets {
		if n := len(servers); n == 0 || servers[n-1].ServerID != target.ServerID.String() {
			servers = append(servers, ServerRun{ServerID: target.ServerID.String(), Server: target.Server, Status: "unknown"})
		}
		last := &servers[len(servers)-1]
		last.Results = append(last.Results, runs[i])
		if rank(runs[i].Status) > rank(last.Status) {
			last.Status = runs[i].Status
		}
	}
	return servers
}

// rank orders statuses as managed_servers.health_status does: unknown only when all are.
func rank(status string) int {
	switch status {
	case "critical":
		return 4
	case "unreachable":
		return 3
	case "degraded":
		return 2
	case "healthy":
		return 1
	default:
		return 0
	}
}

// nothingRan is the problem of a request of which nothing was run at all; nil when something was.
func nothingRan(runs []Run) error {
	errs := map[string]int{}
	for _, run := range runs {
		if run.Error == "" {
			return nil
		}
		errs[run.Error]++
	}
	switch {
	case errs["no_responders"] > 0:
		return away("nobody is there who could run this: no replica answers at its location")
	case errs["disconnected"] > 0:
		return away("NATS is away")
	case errs["timeout"] > 0:
		return problem(http.StatusGatewayTimeout, "nobody answered in time")
	case errs["unknown_check"] > 0:
		return away("the check is new: whoever runs it does not know it yet")
	case errs[bus.RefusedBusy]+errs[bus.RefusedStopping] > 0:
		return away("whoever could run this is busy or stopping")
	default:
		return problem(http.StatusBadGateway, "the answer could not be read")
	}
}
