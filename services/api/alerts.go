package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// commandWait is how long an answer waits for the alerter before it says that it will come, and commandLook how often it looks.
	commandWait = 2 * time.Second
	commandLook = 25 * time.Millisecond
	// maxAlertEvents bounds what is shown of one alert.
	maxAlertEvents = 1000
	stateAll       = "all"
)

// Alert is a condition from its first bad result to its end.
type Alert struct {
	ID             string     `json:"id" format:"uuid"`
	Fingerprint    string     `json:"fingerprint" example:"system-health:checkout"`
	Kind           string     `json:"kind" example:"unreachable"`
	Severity       string     `json:"severity" enum:"critical,warning,info"`
	State          string     `json:"state" enum:"pending,open,acknowledged,closed"`
	Server         string     `json:"server" doc:"_platform when it concerns none." example:"checkout"`
	Check          string     `json:"check,omitempty" example:"health"`
	CheckID        string     `json:"check_id,omitempty" format:"uuid"`
	Location       string     `json:"location,omitempty"`
	Summary        string     `json:"summary" example:"checkout is unreachable: connection refused"`
	Reason         string     `json:"reason,omitempty" enum:"recovered,cleared,removed,manual" doc:"Why it closed."`
	Since          time.Time  `json:"since" doc:"Tick of the first bad result."`
	PendingAt      time.Time  `json:"pending_at"`
	OpenedAt       *time.Time `json:"opened_at,omitempty"`
	AcknowledgedAt *time.Time `json:"acknowledged_at,omitempty"`
	AcknowledgedBy string     `json:"acknowledged_by,omitempty"`
	ClosedAt       *time.Time `json:"closed_at,omitempty"`
	TriggerCount   int64      `json:"trigger_count" doc:"Bad results up to the last transition."`
}

// AlertEvent is one transition of an alert.
type AlertEvent struct {
	ID         string    `json:"id" format:"uuid"`
	At         time.Time `json:"at"`
	Transition string    `json:"transition" enum:"pending,opened,updated,acknowledged,closed"`
	State      string    `json:"state" enum:"pending,open,acknowledged,closed"`
	Kind       string    `json:"kind"`
	Severity   string    `json:"severity"`
	Reason     string    `json:"reason,omitempty"`
	Summary    string    `json:"summary"`
	Actor      string    `json:"actor,omitempty" doc:"Who did it, when a person did."`
	Evidence   any       `json:"evidence" doc:"The results that decided, oldest first."`
}

// AlertDetail is an alert with its history.
type AlertDetail struct {
	Alert
	Evidence any          `json:"evidence" doc:"Of the last transition."`
	Events   []AlertEvent `json:"events" nullable:"false"`
}

type alertList struct {
	Alerts []Alert `json:"alerts" nullable:"false"`
	Count  int     `json:"count"`
	Limit  int     `json:"limit"`
	Next   string  `json:"next,omitempty" doc:"Cursor of the next page."`
}

func (s *Service) registerAlerts(api huma.API) {
	route(api, store.Viewer, huma.Operation{
		OperationID: "list-alerts", Method: http.MethodGet, Path: base + "/alerts", Tags: []string{"alerts"},
		Summary: "List alerts, the newest first", Errors: []int{http.StatusUnprocessableEntity},
		Description: "Open and acknowledged ones when no state is given.",
	}, s.listAlerts)
	route(api, store.Viewer, huma.Operation{
		OperationID: "get-alert", Method: http.MethodGet, Path: base + "/alerts/{id}", Tags: []string{"alerts"},
		Summary: "An alert with its history and evidence",
	}, s.getAlert)
	later := map[string]*huma.MediaType{"application/json": {
		Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Alert](), true, "Alert"),
	}}
	act := func(verb, summary, more string) {
		route(api, store.Operator, huma.Operation{
			OperationID: verb + "-alert", Method: http.MethodPost, Path: base + "/alerts/{id}/" + verb, Tags: []string{"alerts"},
			Summary: summary, Errors: []int{http.StatusConflict, http.StatusUnprocessableEntity},
			Description: more + " The command goes through the event stream; the answer waits for the alerter up to two seconds: " +
				"200 with the alert as it is then, or 202 when it is still on its way.",
			Responses: map[string]*huma.Response{"202": {Description: "Accepted: the command is in the stream.", Content: later}},
		}, func(ctx context.Context, in *alertActionInput) (*alertActionOutput, error) {
			return s.actOnAlert(ctx, verb, in)
		})
	}
	act(bus.VerbAcknowledge, "Take an open alert on", "Says who looks after it; it closes as it would have.")
	act(bus.VerbClose, "Close an alert by hand", "When the condition lasts, a new alert comes by the rules. "+
		"That a location is gone cannot be closed: it ends when the location is heard again.")
}

type listAlertsInput struct {
	State    []string  `query:"state" enum:"pending,open,acknowledged,closed,all" doc:"Several by commas." example:"open,acknowledged"`
	Severity string    `query:"severity" enum:"critical,warning,info"`
	Server   string    `query:"server" maxLength:"63"`
	Kind     string    `query:"kind" maxLength:"63" example:"unreachable"`
	From     time.Time `query:"from" doc:"Began to be one at or after."`
	To       time.Time `query:"to" doc:"Not included."`
	Limit    int       `query:"limit" minimum:"1" maximum:"500" default:"50"`
	Cursor   string    `query:"cursor"`
}

func (s *Service) listAlerts(ctx context.Context, in *listAlertsInput) (*struct{ Body alertList }, error) {
	q := store.AlertQuery{
		Org: principal(ctx).Org, States: in.State, Severity: in.Severity, Server: in.Server, Kind: in.Kind,
		From: in.From, To: in.To, Limit: in.Limit + 1,
	}
	if err := inOrder(in.From, in.To); err != nil {
		return nil, err
	}
	if len(q.States) == 0 {
		q.States = []string{"open", "acknowledged"}
	}
	if slices.Contains(q.States, stateAll) {
		q.States = nil
	}
	if in.Cursor != "" {
		var place store.AlertPlace
		var at int64
		if err := readCursor(in.Cursor, "alerts", &at, &place.ID); err != nil {
			return nil, err
		}
		place.PendingAt = time.UnixMicro(at)
		q.Before = &place
	}
	alerts, err := s.store.Alerts(ctx, q)
	if err != nil {
		return nil, err
	}
	list := alertList{Limit: in.Limit, Alerts: make([]Alert, 0, len(alerts))}
	if len(alerts) > in.Limit {
		alerts = alerts[:in.Limit]
		last := &alerts[len(alerts)-1]
		list.Next = cursor("alerts", last.PendingAt.UnixMicro(), last.ID)
	}
	for i := range alerts {
		list.Alerts = append(list.Alerts, newAlert(&alerts[i]))
	}
	list.Count = len(list.Alerts)
	return &struct{ Body alertList }{list}, nil
}

// AlertInput is the part of the path that names an alert.
type AlertInput struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *Service) getAlert(ctx context.Context, in *AlertInput) (*struct{ Body AlertDetail }, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	org := principal(ctx).Org
	alert, err := s.store.AlertByID(ctx, org, id)
	if err != nil {
		return nil, err
	}
	events, err := s.store.AlertEvents(ctx, org, id, maxAlertEvents)
	if err != nil {
		return nil, err
	}
	detail := AlertDetail{Alert: newAlert(&alert), Evidence: []any{}, Events: make([]AlertEvent, 0, len(events))}
	var details struct {
		Evidence json.RawMessage `json:"evidence"`
	}
	if json.Unmarshal(alert.Details, &details) == nil && len(details.Evidence) > 0 {
		detail.Evidence = details.Evidence
	}
	for _, e := range events {
		detail.Events = append(detail.Events, AlertEvent{
			ID: e.EventID.String(), At: e.At, Transition: e.Transition, State: e.State, Kind: e.Kind, Severity: e.Severity,
			Reason: e.Reason, Summary: e.Summary, Actor: e.Actor, Evidence: e.Evidence,
		})
	}
	return &struct{ Body AlertDetail }{detail}, nil
}

func newAlert(a *store.Alert) Alert {
	shown := Alert{
		ID: a.ID.String(), Fingerprint: a.Fingerprint, Kind: a.Kind, Severity: a.Severity, State: a.State, Server: a.Server,
		Check: a.CheckName, Location: a.Location, Summary: a.Summary, Reason: a.Reason, Since: a.Since, PendingAt: a.PendingAt,
		OpenedAt: orNil(a.OpenedAt), AcknowledgedAt: orNil(a.AcknowledgedAt), AcknowledgedBy: a.AcknowledgedBy,
		ClosedAt: orNil(a.ClosedAt), TriggerCount: a.TriggerCount,
	}
	if a.CheckID != uuid.Nil {
		shown.CheckID = a.CheckID.String()
	}
	return shown
}

type alertActionInput struct {
	AlertInput
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"The same key is the same command, however often it is sent."`
	Body           *struct {
		Note string `json:"note,omitempty" maxLength:"256" doc:"For the history of the alert."`
	}
}

type alertActionOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     Alert
}

// actOnAlert sends a command and waits a little for what comes of it.
func (s *Service) actOnAlert(ctx context.Context, verb string, in *alertActionInput) (*alertActionOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	who := principal(ctx)
	alert, err := s.store.AlertByID(ctx, who.Org, id)
	if err != nil {
		return nil, err
	}
	target := map[string]string{bus.VerbAcknowledge: "acknowledged", bus.VerbClose: "closed"}[verb]
	commandID := uuid.New()
	if in.IdempotencyKey != "" {
		// The same request again is the same command, which the stream and the fold know.
		commandID = uuid.NewSHA1(id, []byte(who.TokenID+"\x00"+verb+"\x00"+in.IdempotencyKey))
		if alert.State == target {
			return alertOutput(http.StatusOK, &alert), nil
		}
	}
	if err := mayAct(verb, &alert); err != nil {
		return nil, err
	}
	note := ""
	if in.Body != nil {
		note = in.Body.Note
	}
	actor := who.Name
	if actor == "" {
		actor = who.TokenID
	}
	entry := audit(ctx, "alert."+verb, "alert", id.String())
	entry.Before = map[string]any{"state": alert.State, "fingerprint": alert.Fingerprint}
	entry.After = map[string]any{"command": commandID, "note": note}
	// Written before the command is sent: nothing that somebody did is without an entry, an entry may be without effect.
	if err := s.store.WriteAudit(ctx, entry); err != nil {
		return nil, err
	}
	now := time.Now()
	if _, err := s.conn.Publish(ctx, bus.Message{
		Subject: bus.CommandSubject(who.Org, verb, commandID.String()), ID: commandID.String(), Time: now,
		Payload: &picketv1.Command{
			Verb: verb, AlertId: id.String(), Actor: clipText(actor, 128), Note: note, Org: who.Org, Id: commandID.String(),
			At: timestamppb.New(now),
		},
	}); err != nil {
		if errors.Is(err, bus.ErrDisconnected) || errors.Is(err, context.DeadlineExceeded) {
			return nil, away("NATS does not take the command")
		}
		return nil, err
	}
	return s.awaitAlert(ctx, who.Org, id, target)
}

// mayAct refuses what the alert's state does not allow, before anything is sent. The fold has the last word.
func mayAct(verb string, alert *store.Alert) error {
	refuse := func(why string) error { return problem(http.StatusConflict, "the alert is "+alert.State+": "+why) }
	switch {
	case alert.State == "closed":
		return refuse("it is over")
	case alert.State == "pending":
		return refuse("it opens or clears by itself")
	case verb == bus.VerbAcknowledge && alert.State != "open":
		return refuse("somebody has it already")
	case verb == bus.VerbClose && alert.Kind == "prober_gone":
		return refuse("that a location is gone ends when it is heard again, or nothing is due there")
	}
	return nil
}

func (s *Service) awaitAlert(ctx context.Context, org string, id uuid.UUID, target string) (*alertActionOutput, error) {
	waiting, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	for {
		alert, err := s.store.AlertByID(ctx, org, id)
		if err != nil {
			return nil, err
		}
		if alert.State == target || alert.State == "closed" {
			return alertOutput(http.StatusOK, &alert), nil
		}
		if !sleep(waiting, commandLook) {
			return alertOutput(http.StatusAccepted, &alert), nil
		}
	}
}

func alertOutput(status int, alert *store.Alert) *alertActionOutput {
	return &alertActionOutput{Status: status, Location: base + "/alerts/" + alert.ID.String(), Body: newAlert(alert)}
}

// clipText bounds a text at a rune's border.
func clipText(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}
