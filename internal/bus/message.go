package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/wire"
)

// Headers of a message. The ce- ones are CloudEvents 1.0 in binary mode, as its
// NATS protocol binding says.
const (
	headerMsgID       = jetstream.MsgIDHeader
	headerContentType = "Content-Type"
	headerCEID        = "ce-id"
	headerCEType      = "ce-type"
	headerCESource    = "ce-source"
	headerCETime      = "ce-time"
	headerCESpec      = "ce-specversion"
	// W3C Trace Context; there is none when the trace is not sampled.
	headerTrace = "traceparent"
)

// Message is something to publish.
type Message struct {
	Subject string
	// ID is the identity of what the message says: the same fact has the same ID however often it is sent.
	ID string
	// Time is when it happened.
	Time time.Time
	// Payload must not change any more.
	Payload proto.Message
	// Trace is the span that the message belongs to; what it leads to elsewhere continues it.
	Trace trace.SpanContext
}

// eventType names the kind of fact for CloudEvents: the full name of the message.
func eventType(m proto.Message) string { return string(m.ProtoReflect().Descriptor().FullName()) }

func (c *Conn) encode(m Message) (*nats.Msg, error) {
	msg := &nats.Msg{}
	return msg, c.encodeTo(msg, m)
}

// encodeTo fills in msg. Its errors wrap errUnwritable.
func (c *Conn) encodeTo(msg *nats.Msg, m Message) error {
	data, err := c.encoding.Append(nil, m.Payload)
	if err != nil {
		return fmt.Errorf("%w to %s: %w", errUnwritable, m.Subject, err)
	}
	// One array for all values: the client reads headers and never changes them.
	values := []string{
		c.encoding.ContentType(), "1.0", eventType(m.Payload), "picket/" + c.name, m.Time.UTC().Format(time.RFC3339Nano), m.ID,
	}
	header := nats.Header{
		headerContentType: values[0:1:1],
		headerCESpec:      values[1:2:2],
		headerCEType:      values[2:3:3],
		headerCESource:    values[3:4:4],
		headerCETime:      values[4:5:5],
	}
	if m.ID != "" {
		header[headerMsgID] = values[5:6:6]
		header[headerCEID] = values[5:6:6]
	}
	if m.Trace.IsSampled() {
		header[headerTrace] = []string{traceparent(m.Trace)}
	}
	msg.Subject, msg.Data, msg.Header = m.Subject, data, header
	return nil
}

// Msg is something received from a stream.
type Msg struct {
	Subject  string
	Sequence uint64
	// Time is when the stream took it.
	Time        time.Time
	ID          string
	ContentType string
	Data        []byte
	// Deliveries counts from 1.
	Deliveries uint64
	// Trace is the span that published it, when that is sampled.
	Trace trace.SpanContext

	stream   string
	consumer string
	conn     *Conn
	raw      jetstream.Msg
	settled  bool
}

func (c *Conn) receive(raw jetstream.Msg) (*Msg, *jetstream.MsgMetadata, error) {
	meta, err := raw.Metadata()
	if err != nil {
		return nil, nil, fmt.Errorf("read metadata of a message on %s: %w", raw.Subject(), err)
	}
	header := raw.Headers()
	return &Msg{
		Subject:     raw.Subject(),
		Sequence:    meta.Sequence.Stream,
		Time:        meta.Timestamp,
		ID:          header.Get(headerMsgID),
		ContentType: header.Get(headerContentType),
		Data:        raw.Data(),
		Deliveries:  meta.NumDelivered,
		Trace:       parseTrace(header.Get(headerTrace)),
		stream:      meta.Stream,
		consumer:    meta.Consumer,
		conn:        c,
		raw:         raw,
	}, meta, nil
}

// Decode reads the payload into m. Its error wraps wire.ErrUnreadable.
func (m *Msg) Decode(into proto.Message) error {
	return wire.Decode(m.ContentType, m.Data, into)
}

func (m *Msg) ack() error {
	if m.settled {
		return nil
	}
	m.settled = true
	if err := m.raw.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return fmt.Errorf("ack message %d: %w", m.Sequence, err)
	}
	return nil
}

// term ends redelivery of a message whose dead letter is safe.
func (m *Msg) term(reason string) error {
	m.settled = true
	if err := m.raw.TermWithReason(reason); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return fmt.Errorf("terminate message %d: %w", m.Sequence, err)
	}
	return nil
}

// Publish sends one message and waits until the stream has it. A message with an
// ID that the stream knows already is a success.
func (c *Conn) Publish(ctx context.Context, m Message) (sequence uint64, err error) {
	msg, err := c.encode(m)
	if err != nil {
		return 0, err
	}
	if !c.Connected() {
		return 0, fmt.Errorf("publish %s: %w", m.Subject, ErrDisconnected)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := c.js.PublishMsg(ctx, msg)
	if err != nil {
		return 0, fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	return ack.Sequence, nil
}

// PublishAll sends messages in order and returns nil only when the stream has
// every one. After an error any of them may be there: send them again, their
// IDs make that harmless.
func (c *Conn) PublishAll(ctx context.Context, messages []Message) error {
	for len(messages) > 0 {
		n := min(len(messages), maxInFlight/4)
		if err := c.publishBatch(ctx, messages[:n]); err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

func (c *Conn) publishBatch(ctx context.Context, messages []Message) error {
	if !c.Connected() {
		return fmt.Errorf("publish %d messages: %w", len(messages), ErrDisconnected)
	}
	futures := make([]jetstream.PubAckFuture, 0, len(messages))
	var failed error
	for _, m := range messages {
		msg, err := c.encode(m)
		if err == nil {
			var future jetstream.PubAckFuture
			future, err = c.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
			futures = append(futures, future)
		}
		if err != nil {
			failed = fmt.Errorf("publish %s: %w", m.Subject, err)
			break
		}
	}
	for i, future := range futures {
		if future == nil {
			continue
		}
		select {
		case <-future.Ok():
		case err := <-future.Err():
			if failed == nil {
				failed = fmt.Errorf("publish %s: %w", messages[i].Subject, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("publish %s: %w", messages[i].Subject, ctx.Err())
		}
	}
	return failed
}
