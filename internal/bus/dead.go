package bus

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Why a message became a dead letter.
const (
	// ReasonUnreadable: the bytes are not the message that the subject promises.
	ReasonUnreadable = "unreadable"
	// ReasonContract: it reads, but says what the contract forbids.
	ReasonContract = "contract"
	// ReasonRefused: the database refuses this very row.
	ReasonRefused = "row_refused"
)

const (
	// headerCut is in a letter whose payload is not whole: how long it was.
	headerCut = "Picket-Cut-From-Bytes"
	// headerReplayOf is in a message that was a dead letter before: the sequence of that.
	headerReplayOf = "Picket-Replay-Of"
)

// keptHeaders are those of a message that its dead letter keeps.
func keptHeaders() []string {
	return []string{
		headerContentType, headerMsgID, headerCEID, headerCEType, headerCESource, headerCETime, headerCESpec, headerTrace, headerReplayOf,
	}
}

// maxDeadPayload keeps a dead letter under the server's limit of one message.
const maxDeadPayload = 512 << 10

// DeadLetter publishes the message, whole, with the reason why it can not be
// processed, waits until that is safe, and only then ends its redelivery. After
// an error the message is as it was and comes again.
func (m *Msg) DeadLetter(ctx context.Context, reason string, cause error) error {
	org := ""
	if subject, err := ParseSubject(m.Subject); err == nil {
		org = subject.Org
	}
	letter := &picketv1.DeadLetter{
		Reason:     reason,
		Stream:     m.stream,
		Consumer:   m.consumer,
		Subject:    printable(m.Subject),
		Sequence:   m.Sequence,
		ReceivedAt: timestamppb.New(m.Time),
		Headers:    map[string]string{},
		Payload:    m.Data[:min(len(m.Data), maxDeadPayload)],
	}
	if cause != nil {
		letter.Error = printable(cause.Error())
	}
	for _, name := range keptHeaders() {
		if value := m.raw.Headers().Get(name); value != "" {
			letter.Headers[name] = printable(value)
		}
	}
	if len(m.Data) > maxDeadPayload {
		letter.Headers[headerCut] = strconv.Itoa(len(m.Data))
	}
	_, err := m.conn.Publish(ctx, Message{
		Subject: DeadSubject(org, m.stream, m.consumer),
		ID:      fmt.Sprintf("dead/%s/%s/%d/%d", m.stream, m.consumer, m.Sequence, m.Time.UnixNano()),
		Time:    time.Now(),
		Payload: letter,
	})
	if err != nil {
		return fmt.Errorf("dead letter of message %d: %w", m.Sequence, err)
	}
	return m.term(reason)
}

// maxPrintable is how many bytes of such a text travel.
const maxPrintable = 1024

// printable makes bytes from outside safe to travel in a string field.
func printable(s string) string {
	s = s[:min(len(s), maxPrintable)]
	out := make([]rune, 0, len(s))
	for _, r := range s {
		out = append(out, r) // a broken byte reads as U+FFFD
	}
	return string(out)
}
