package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

const (
	// ticketMeta marks operations that a ticket opens instead of a token.
	ticketMeta = "ticket"
	ticketFor  = 30 * time.Second
	ticketForm = "lt_"
	// liveWrite is how long a reader may take for one write before it is cut off.
	liveWrite = 10 * time.Second
	// reconnectMS is what browsers are told to wait before they come back.
	reconnectMS = "2000"
)

type liveInput struct {
	Family      []string `query:"family" enum:"probe,catalog,alert,export,metric" doc:"Several by commas; probe, catalog, alert and export when left out." example:"probe,alert"`
	Server      string   `query:"server" maxLength:"63"`
	Check       string   `query:"check" maxLength:"63"`
	Location    string   `query:"location" maxLength:"63"`
	Status      []string `query:"status" enum:"healthy,degraded,critical,unreachable,unknown" doc:"Of results; other families are not filtered by it." example:"critical,unreachable"`
	LastEventID string   `header:"Last-Event-ID" doc:"Go on behind this event; what came since is sent first."`
	After       string   `query:"last_event_id" maxLength:"256" doc:"The same, for clients that cannot send the header."`
	Ticket      string   `query:"ticket" maxLength:"128" doc:"A ticket instead of the header Authorization."`
}

func (s *Service) registerLive(api huma.API) {
	content := map[string]*huma.MediaType{"text/event-stream": {
		Schema:  &huma.Schema{Type: huma.TypeString, Description: "Server-sent events: `id` is a cursor, `event` the family, `data` the message."},
		Example: "id: 1763700000000000000-4711\nevent: probe\ndata: {\"status\":\"unreachable\",\"server\":\"checkout\"}\n\n",
	}}
	ticketed := func(op huma.Operation) huma.Operation {
		op = streaming(op)
		op.Metadata[ticketMeta] = true
		return op
	}
	route(api, store.Viewer, ticketed(huma.Operation{
		OperationID: "live-events", Method: http.MethodGet, Path: base + "/live/events", Tags: []string{"live"},
		Summary: "Events as they happen, as server-sent events", Errors: []int{http.StatusUnprocessableEntity},
		Description: "Events of the token's organization. `Last-Event-ID` is `<stream epoch>-<sequence>` of the event stream, and behind " +
			"`_` that of further streams; what came since is sent from the stream, or from the database when the stream forgot it; then " +
			"an event `gap` says so. An event `away` says that NATS is away, and that nothing is lost when it is back; an event `end` why the stream ends: `too_slow` or `token_ended`. A comment comes every 15 seconds.",
		Responses: map[string]*huma.Response{"200": {Description: "Events until the client leaves.", Content: content}},
	}), s.liveEvents)
	route(api, store.Viewer, ticketed(huma.Operation{
		OperationID: "live-socket", Method: http.MethodGet, Path: base + "/live", Tags: []string{"live"},
		Summary: "The same over a WebSocket", Errors: []int{http.StatusUnprocessableEntity, http.StatusUpgradeRequired},
		Description: "Each message is `{\"id\": …, \"event\": …, \"data\": …}` as in the other form, heartbeats too. What a client sends ends the connection.",
		Responses:   map[string]*huma.Response{"101": {Description: "Messages until the client leaves."}},
	}), s.liveSocket)
	route(api, store.Viewer, huma.Operation{
		OperationID: "create-live-ticket", Method: http.MethodPost, Path: base + "/live/tickets", Tags: []string{"live"},
		Summary: "A ticket that opens one live stream", DefaultStatus: http.StatusCreated, Errors: []int{http.StatusTooManyRequests},
		Description: "For browsers, which can send no header with a stream. It is good once, for 30 seconds, at any replica.",
	}, s.createTicket)
}

// prepareLive is what both forms have in common.
func (s *Service) prepareLive(ctx context.Context, in *liveInput) (filter liveFilter, from *liveCursor, release func(), err error) {
	who := principal(ctx)
	filter = liveFilter{org: who.Org, families: in.Family, server: in.Server, check: in.Check, location: in.Location, statuses: in.Status}
	if len(filter.families) == 0 {
		filter.families = []string{bus.FamilyProbe, bus.FamilyCatalog, bus.FamilyAlert, bus.FamilyExport}
	}
	text := in.LastEventID
	if text == "" {
		text = in.After
	}
	if text != "" {
		cursor, ok := parseLiveCursor(text)
		if !ok {
			return filter, nil, nil, problem(http.StatusUnprocessableEntity, "validation failed",
				field("header.Last-Event-ID", "is no id of an event of ours"))
		}
		from = &cursor
	}
	if !s.conn.Connected() {
		return filter, nil, nil, away("NATS is away: nothing could be shown")
	}
	release, ok := s.live.slots.take(who)
	if !ok {
		return filter, nil, nil, tooMany("as many look on as may", heartbeatEvery)
	}
	return filter, from, release, nil
}

func (s *Service) liveEvents(ctx context.Context, in *liveInput) (*huma.StreamResponse, error) {
	filter, from, release, err := s.prepareLive(ctx, in)
	if err != nil {
		return nil, err
	}
	who := principal(ctx)
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer release()
		_, w := humago.Unwrap(hctx)
		control := http.NewResponseController(w)
		hctx.SetHeader("Content-Type", "text/event-stream")
		hctx.SetHeader("Cache-Control", "no-store")
		hctx.SetHeader("X-Accel-Buffering", "no")
		hctx.SetStatus(http.StatusOK)
		_ = control.SetReadDeadline(time.Time{}) // the server's own is for requests that end
		_, _ = w.Write([]byte("retry: " + reconnectMS + "\n\n"))
		err := s.look(hctx.Context(), who, filter, from, func(frame liveFrame) error {
			_ = control.SetWriteDeadline(time.Now().Add(liveWrite)) // a writer without deadlines is a test's
			if _, err := w.Write(frame.sse()); err != nil {
				return err
			}
			return control.Flush()
		})
		s.livesOver(hctx.Context(), err)
	}}, nil
}

// sse is the frame as server-sent event; a heartbeat is a comment, with an id that moves the cursor.
func (f liveFrame) sse() []byte {
	var b bytes.Buffer
	b.WriteString("id: " + f.id + "\n")
	if f.event == liveHeartbeat {
		b.WriteString(": heartbeat\n\n")
		return b.Bytes()
	}
	b.WriteString("event: " + f.event + "\ndata: ")
	b.Write(f.data)
	b.WriteString("\n\n")
	return b.Bytes()
}

func (s *Service) livesOver(ctx context.Context, err error) {
	if err != nil && !errors.Is(err, errLiveEnd) && ctx.Err() == nil {
		s.log.DebugContext(ctx, "live stream ended", "err", err, "request_id", requestOf(ctx).id)
	}
}

func (s *Service) liveSocket(ctx context.Context, in *liveInput) (*huma.StreamResponse, error) {
	filter, from, release, err := s.prepareLive(ctx, in)
	if err != nil {
		return nil, err
	}
	who := principal(ctx)
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer release()
		r, w := humago.Unwrap(hctx)
		socket, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // it has answered
		}
		defer func() { _ = socket.CloseNow() }()
		// Nobody reads what a client says: a message of its own ends the connection, pings are answered.
		ctx := socket.CloseRead(hctx.Context())
		err = s.look(ctx, who, filter, from, func(frame liveFrame) error {
			writing, cancel := context.WithTimeout(ctx, liveWrite)
			defer cancel()
			text, err := frame.message()
			if err != nil {
				return err
			}
			return socket.Write(writing, websocket.MessageText, text)
		})
		s.livesOver(ctx, err)
		code, reason := websocket.StatusGoingAway, "the service is stopping"
		if errors.Is(err, errLiveEnd) {
			code, reason = websocket.StatusPolicyViolation, strings.TrimPrefix(err.Error(), errLiveEnd.Error()+": ")
		}
		_ = socket.Close(code, reason) // the client may have gone
	}}, nil
}

// message is the frame for a socket.
func (f liveFrame) message() ([]byte, error) {
	return json.Marshal(struct {
		ID    string          `json:"id"`
		Event string          `json:"event"`
		Data  json.RawMessage `json:"data,omitempty"`
	}{f.id, f.event, f.data})
}

// LiveTicket opens one stream.
type LiveTicket struct {
	Ticket           string `json:"ticket" doc:"For the query parameter ticket." example:"lt_…"`
	ExpiresInSeconds int    `json:"expires_in_seconds" example:"30"`
}

func (s *Service) createTicket(ctx context.Context, _ *struct{}) (*struct{ Body LiveTicket }, error) {
	ticket := ticketForm + rand.Text()
	err := s.store.CreateLiveTicket(ctx, principal(ctx).TokenID, sha256.Sum256([]byte(ticket)), ticketFor)
	if errors.Is(err, store.ErrTooMany) {
		return nil, tooMany("too many tickets that nobody used", ticketFor)
	}
	if err != nil {
		return nil, err
	}
	return &struct{ Body LiveTicket }{LiveTicket{ticket, int(ticketFor.Seconds())}}, nil
}

// whoComes finds out who asks: by a token, or by a ticket where that may be and there is no token.
func (s *Service) whoComes(hctx huma.Context, remote string) (Principal, error) {
	header, ticket := hctx.Header("Authorization"), ""
	if may, _ := hctx.Operation().Metadata[ticketMeta].(bool); may && header == "" {
		ticket = hctx.Query("ticket")
	}
	if ticket == "" {
		return s.whoAsks(hctx.Context(), header, remote)
	}
	if wait := s.limits.failures.spent(remote); wait > 0 {
		return Principal{}, tooMany("too many refused tokens from this address", wait)
	}
	id, err := s.store.UseLiveTicket(hctx.Context(), sha256.Sum256([]byte(ticket)))
	var token store.Token
	if err == nil {
		token, err = s.tokens.find(hctx.Context(), id)
	}
	now := time.Now()
	ended := !token.RevokedAt.IsZero() || !token.ExpiresAt.IsZero() && !now.Before(token.ExpiresAt)
	if errors.Is(err, store.ErrNotFound) || err == nil && ended {
		s.metrics.authFailures.Inc()
		s.limits.failures.take(remote)
		return Principal{}, unauthorized("invalid_token")
	}
	if err != nil {
		return Principal{}, err
	}
	return Principal{Org: token.Org, Role: token.Role, TokenID: token.ID, Name: token.Name}, nil
}
