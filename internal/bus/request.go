package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// ErrNoResponders says that nobody takes the requests of a service at a location now.
var ErrNoResponders = errors.New("nobody answers")

// Why a request was not even run; further reasons are the handler's own.
const (
	RefusedBusy       = "busy"
	RefusedStopping   = "stopping"
	RefusedUnreadable = "unreadable"
)

const (
	// headerTimeout says how long whoever asks will wait, in milliseconds. It is a span, not an instant: the two clocks may differ.
	headerTimeout = "Picket-Timeout-Ms"
	// requestGroup makes the replicas of a service share what is asked.
	requestGroup = "picket"
	// maxServing bounds the requests that one process runs at a time; more are refused as busy, at once.
	maxServing = 64
	// serveBuffer is how many requests may wait to be looked at; the client drops what is more, and who asked gives up in time.
	serveBuffer = 1024
	// maxServe bounds one request, whatever it says of itself.
	maxServe = time.Minute
	// maxRequest bounds what is read of one request.
	maxRequest = 64 << 10
)

// Request asks one replica of a service at a location and waits for its answer until ctx ends, five seconds when ctx has
// no end. Errors: ErrDisconnected, ErrNoResponders when no replica is there, ctx's when none answered in time,
// wire.ErrUnreadable for an answer that is none. It is safe to ask again only where the request says so.
func (c *Conn) Request(ctx context.Context, service, location string, request, reply proto.Message) error {
	subject := RequestSubject(service, location)
	if !c.Connected() {
		return fmt.Errorf("request %s: %w", subject, ErrDisconnected)
	}
	data, err := c.encoding.Append(nil, request)
	if err != nil {
		return fmt.Errorf("request %s: %w", subject, err)
	}
	deadline, bounded := ctx.Deadline()
	if !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		deadline, _ = ctx.Deadline()
	}
	answer, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{
		Subject: subject, Data: data,
		Header: nats.Header{
			headerContentType: {c.encoding.ContentType()},
			headerTimeout:     {strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10)},
		},
	})
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("request %s: %w", subject, ErrNoResponders)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("request %s: %w: %w", subject, ErrDisconnected, err)
	case err != nil:
		return fmt.Errorf("request %s: %w", subject, err)
	}
	if err := wire.Decode(answer.Header.Get(headerContentType), answer.Data, reply); err != nil {
		return fmt.Errorf("request %s: %w", subject, err)
	}
	return nil
}

// Serve has handle called with what is asked of a service at a location, several at a time, until ctx ends; it returns
// nil when the last of them has returned. Replicas share the requests. The context of handle ends when whoever asked has
// given up, and with ctx. What is too much is refused as busy, what does not read as unreadable, what comes with the end
// as stopping. Subscriptions survive the loss of a connection.
func (c *Conn) Serve(
	ctx context.Context, service, location string, handle func(context.Context, *picketv1.RunRequest) *picketv1.RunReply,
) error {
	subject := RequestSubject(service, location)
	incoming := make(chan *nats.Msg, serveBuffer)
	sub, err := c.nc.ChanQueueSubscribe(subject, requestGroup, incoming)
	if err != nil {
		return fmt.Errorf("serve %s: %w", subject, err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxServing)
	for {
		select {
		case raw := <-incoming:
			select {
			case slots <- struct{}{}:
				running.Go(func() {
					defer func() { <-slots }()
					c.respond(raw, c.serveOne(ctx, raw, handle))
				})
			default:
				c.respond(raw, &picketv1.RunReply{Refused: RefusedBusy})
			}
		case <-ctx.Done():
			c.unsubscribe([]*nats.Subscription{sub})
			for {
				select {
				case raw := <-incoming:
					c.respond(raw, &picketv1.RunReply{Refused: RefusedStopping})
				default:
					return nil
				}
			}
		}
	}
}

func (c *Conn) serveOne(
	ctx context.Context, raw *nats.Msg, handle func(context.Context, *picketv1.RunRequest) *picketv1.RunReply,
) *picketv1.RunReply {
	request := &picketv1.RunRequest{}
	if len(raw.Data) > maxRequest || wire.Decode(raw.Header.Get(headerContentType), raw.Data, request) != nil {
		return &picketv1.RunReply{Refused: RefusedUnreadable}
	}
	wait := maxServe
	if ms, err := strconv.ParseInt(raw.Header.Get(headerTimeout), 10, 64); err == nil && ms > 0 && ms < maxServe.Milliseconds() {
		wait = time.Duration(ms) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return handle(ctx, request)
}

// respond answers a request. When that fails, whoever asked hears nothing and gives up in time.
func (c *Conn) respond(raw *nats.Msg, reply *picketv1.RunReply) {
	if raw.Reply == "" {
		return
	}
	data, err := c.encoding.Append(nil, reply)
	if err == nil {
		err = c.nc.PublishMsg(&nats.Msg{
			Subject: raw.Reply, Data: data, Header: nats.Header{headerContentType: {c.encoding.ContentType()}},
		})
	}
	if err != nil {
		c.log.Warn("request not answered", "subject", raw.Subject, "err", err)
	}
}
