package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// ErrNotAllowed says that the server does not let this user do that.
var ErrNotAllowed = errors.New("not allowed to this user of nats")

// ReplayLetter publishes the message of a dead letter once more, onto the subject that it came from and only into the
// stream that it came from, marks the letter as replayed, and returns the message's new sequence. What the message says,
// its identity (ce-id) among it, is what it was; its Nats-Msg-Id is new, since the stream would drop a second one of the
// same within two minutes. Two who replay the same letter at once replay it once. When it fails in between, the message
// may be there and the mark not: replayed again it is the same fact once more, which identity makes harmless.
func (c *Conn) ReplayLetter(ctx context.Context, l *Letter, actor string) (sequence uint64, err error) {
	if err := l.Replayable(); err != nil {
		return 0, fmt.Errorf("replay dead letter %d: %w", l.Sequence, err)
	}
	content, kept := l.Content, l.Content.GetHeaders()
	identity := kept[headerCEID]
	if identity == "" {
		identity = kept[headerMsgID]
	}
	id := fmt.Sprintf("replay/%d/%d/%d/%s", l.Sequence, l.Time.UnixNano(), len(l.Replays)+1, identity)
	msg := &nats.Msg{Subject: content.GetSubject(), Data: content.GetPayload(), Header: nats.Header{
		headerMsgID: {id}, headerReplayOf: {strconv.FormatUint(l.Sequence, 10)},
	}}
	// Only what Picket itself puts there: other headers are orders to the server.
	for _, name := range keptHeaders() {
		if value := kept[name]; value != "" && name != headerMsgID {
			msg.Header.Set(name, value)
		}
	}
	if !c.Connected() {
		return 0, fmt.Errorf("replay dead letter %d: %w", l.Sequence, ErrDisconnected)
	}
	within, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := c.js.PublishMsg(within, msg, jetstream.WithExpectStream(content.GetStream()))
	if err != nil {
		return 0, c.refused(fmt.Errorf("replay dead letter %d onto %s: %w", l.Sequence, content.GetSubject(), err))
	}
	now := time.Now()
	mark := &picketv1.DeadLetterReplay{
		Letter: l.Sequence, Stream: content.GetStream(), Subject: content.GetSubject(), Sequence: ack.Sequence,
		Actor: printable(actor), At: timestamppb.New(now),
	}
	_, err = c.Publish(ctx, Message{
		Subject: DeadSubject(l.Org, content.GetStream(), content.GetConsumer()) + "." + verbReplayed,
		ID:      id + "/mark", Time: now, Payload: mark,
	})
	if err != nil {
		return ack.Sequence, c.refused(fmt.Errorf("mark dead letter %d as replayed, which it is: %w", l.Sequence, err))
	}
	l.Replays = append(l.Replays, mark)
	return ack.Sequence, nil
}

// refused tells what the server has against a request that got no answer: it says so beside it.
func (c *Conn) refused(err error) error {
	if said := c.nc.LastError(); errors.Is(said, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w: %w: %w", ErrNotAllowed, said, err)
	}
	return err
}
