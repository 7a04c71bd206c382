package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// ErrNoLetter says that there is no dead letter of that sequence.
var ErrNoLetter = errors.New("no such dead letter")

// verbReplayed ends the subject of the mark that a letter was replayed.
const verbReplayed = "replayed"

// Letter is one message of the stream of dead letters.
type Letter struct {
	// Sequence in that stream is its name for people.
	Sequence uint64
	// Time is when the stream took it.
	Time time.Time
	// Org is of its subject: NoOrg when that of the message could not be read.
	Org string
	// Content is nil when somebody put something else there; Fault then says what is wrong with it.
	Content *picketv1.DeadLetter
	Fault   error
	// Size of the payload as it came, in bytes; the letter holds the first of them when it is Cut.
	Size int
	Cut  bool
	// Replays are the marks that it was replayed, oldest first.
	Replays []*picketv1.DeadLetterReplay
}

// LetterFilter picks dead letters; what is zero picks all.
type LetterFilter struct {
	Org, Stream, Consumer, Reason string
	// Subject is that of the message, with the wildcards of NATS.
	Subject string
	Since   time.Time
	// To is the last sequence.
	To uint64
	// Unreplayed leaves out those that were replayed, Replayed all others.
	Unreplayed, Replayed bool
}

// Letters calls each with the dead letters that match, oldest first, until it returns an error, and returns that. Messages
// are asked for one by one, which whoever may look on may do: no consumer is made.
func (c *Conn) Letters(ctx context.Context, filter LetterFilter, each func(*Letter) error) error {
	box, err := c.letterBox(ctx)
	if err != nil {
		return err
	}
	from, err := box.since(ctx, filter.Since)
	if err != nil {
		return err
	}
	replays, err := box.replays(ctx, replayedFilter(filter), from)
	if err != nil {
		return err
	}
	return box.walk(ctx, filter, from, cmp.Or(filter.To, box.last), replays, each)
}

// NewestLetters returns the newest n that match, oldest first, and whether there may be more.
func (c *Conn) NewestLetters(ctx context.Context, filter LetterFilter, n int) (letters []*Letter, more bool, err error) {
	box, err := c.letterBox(ctx)
	if err != nil {
		return nil, false, err
	}
	first, err := box.since(ctx, filter.Since)
	if err != nil {
		return nil, false, err
	}
	// From the end in growing strides: a flood of letters is not read for its last page.
	for to, stride := cmp.Or(filter.To, box.last), uint64(2*n); to >= first && to > 0; stride *= 2 {
		from := max(first, 1)
		if to > stride {
			from = max(from, to-stride+1)
		}
		replays, err := box.replays(ctx, replayedFilter(filter), from)
		if err != nil {
			return nil, false, err
		}
		var part []*Letter
		err = box.walk(ctx, filter, from, to, replays, func(l *Letter) error {
			// A stride may hold far more than the page, each with half a megabyte: the newest and one more are enough.
			if part = append(part, l); len(part) > 2*n+1 {
				part = slices.Clone(part[len(part)-n-1:])
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		letters = append(part, letters...)
		if len(letters) > n {
			return letters[len(letters)-n:], true, nil
		}
		to = from - 1
	}
	return letters, false, nil
}

// Letter returns one of them. The error wraps ErrNoLetter when it is not there, or no letter but a mark.
func (c *Conn) Letter(ctx context.Context, sequence uint64) (*Letter, error) {
	box, err := c.letterBox(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := box.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("%w: %d", ErrNoLetter, sequence)
	}
	if err != nil {
		return nil, c.refused(fmt.Errorf("read dead letter %d: %w", sequence, err))
	}
	letter := readLetter(raw)
	subject, err := ParseSubject(raw.Subject)
	if err == nil && subject.Verb == verbReplayed {
		return nil, fmt.Errorf("%w: %d says that another was replayed", ErrNoLetter, sequence)
	}
	replays, err := box.replays(ctx, raw.Subject+"."+verbReplayed, sequence)
	if err != nil {
		return nil, err
	}
	letter.Replays = replays[sequence]
	return letter, nil
}

// RemoveLetter takes a dead letter out of the stream. It wraps ErrNoLetter when there is none.
func (c *Conn) RemoveLetter(ctx context.Context, sequence uint64) error {
	box, err := c.letterBox(ctx)
	if err != nil {
		return err
	}
	if _, err := box.stream.GetMsg(ctx, sequence); errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %d", ErrNoLetter, sequence)
	}
	if err := box.stream.DeleteMsg(ctx, sequence); err != nil {
		return c.refused(fmt.Errorf("remove dead letter %d: %w", sequence, err))
	}
	return nil
}

// letterBox is the stream of dead letters as it was when it was opened.
type letterBox struct {
	conn        *Conn
	stream      jetstream.Stream
	first, last uint64
}

func (c *Conn) letterBox(ctx context.Context) (*letterBox, error) {
	stream, err := c.js.Stream(ctx, StreamDead)
	if err != nil {
		return nil, c.refused(fmt.Errorf("look up stream %s: %w", StreamDead, err))
	}
	state := stream.CachedInfo().State
	return &letterBox{conn: c, stream: stream, first: max(1, state.FirstSeq), last: state.LastSeq}, nil
}

// next returns the first message at or behind a sequence; nil when there is none.
func (b *letterBox) next(ctx context.Context, filter string, from uint64) (*jetstream.RawStreamMsg, error) {
	raw, err := b.stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(filter))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, b.conn.refused(fmt.Errorf("read dead letters from %d on: %w", from, err))
	}
	return raw, nil
}

// since finds the first sequence of that time or later, by halving.
func (b *letterBox) since(ctx context.Context, at time.Time) (uint64, error) {
	low, high := b.first, b.last+1
	for !at.IsZero() && low < high {
		middle := low + (high-low)/2
		raw, err := b.next(ctx, ">", middle)
		switch {
		case err != nil:
			return 0, err
		case raw == nil || !raw.Time.Before(at):
			high = middle
		default:
			low = raw.Sequence + 1
		}
	}
	return low, nil
}

func (b *letterBox) walk(
	ctx context.Context, f LetterFilter, from, to uint64, replays map[uint64][]*picketv1.DeadLetterReplay, each func(*Letter) error,
) error {
	subject := join(filterToken(f.Org), FamilyDead, filterToken(f.Stream), filterToken(f.Consumer))
	for from <= to {
		raw, err := b.next(ctx, subject, from)
		if err != nil || raw == nil || raw.Sequence > to {
			return err
		}
		from = raw.Sequence + 1
		letter := readLetter(raw)
		letter.Replays = replays[letter.Sequence]
		if !f.matches(letter) {
			continue
		}
		if err := each(letter); err != nil {
			return err
		}
	}
	return nil
}

func (f *LetterFilter) matches(l *Letter) bool {
	replayed := len(l.Replays) > 0
	return (f.Reason == "" || f.Reason == l.Content.GetReason()) &&
		(f.Subject == "" || matchSubject(f.Subject, l.Content.GetSubject())) &&
		(!f.Unreplayed || !replayed) && (!f.Replayed || replayed)
}

// matchSubject is how NATS compares a subject with a filter: * is one token, > one or more at the end.
func matchSubject(filter, subject string) bool {
	tokens := strings.Split(subject, ".")
	wanted := strings.Split(filter, ".")
	for i, want := range wanted {
		switch {
		case i >= len(tokens):
			return false
		case want == ">" && i == len(wanted)-1:
			return true
		case want != "*" && want != tokens[i]:
			return false
		}
	}
	return len(tokens) == len(wanted)
}

func replayedFilter(f LetterFilter) string {
	return join(filterToken(f.Org), FamilyDead, filterToken(f.Stream), filterToken(f.Consumer), verbReplayed)
}

// replays reads the marks from a sequence on, by the letter that they are of. What does not read as a mark is none.
func (b *letterBox) replays(ctx context.Context, filter string, from uint64) (map[uint64][]*picketv1.DeadLetterReplay, error) {
	marks := map[uint64][]*picketv1.DeadLetterReplay{}
	for {
		raw, err := b.next(ctx, filter, from)
		if err != nil || raw == nil {
			return marks, err
		}
		from = raw.Sequence + 1
		mark := &picketv1.DeadLetterReplay{}
		if wire.Decode(raw.Header.Get(headerContentType), raw.Data, mark) == nil && mark.GetLetter() < raw.Sequence {
			marks[mark.GetLetter()] = append(marks[mark.GetLetter()], mark)
		}
	}
}

func readLetter(raw *jetstream.RawStreamMsg) *Letter {
	l := &Letter{Sequence: raw.Sequence, Time: raw.Time, Org: NoOrg, Size: len(raw.Data)}
	if tokens := strings.Split(raw.Subject, "."); len(tokens) > 1 {
		l.Org = tokens[1]
	}
	content := &picketv1.DeadLetter{}
	if err := wire.Decode(raw.Header.Get(headerContentType), raw.Data, content); err != nil {
		l.Fault = fmt.Errorf("this is no dead letter: %w", err)
		return l
	}
	l.Content, l.Size = content, len(content.GetPayload())
	if cut, err := strconv.Atoi(content.GetHeaders()[headerCut]); err == nil {
		l.Size, l.Cut = cut, true
	}
	return l
}

// Message decodes the payload as what the subject promises. Its error wraps ErrSubject or wire.ErrUnreadable.
func (l *Letter) Message() (Subject, proto.Message, error) {
	subject, err := ParseSubject(l.Content.GetSubject())
	if err != nil {
		return subject, nil, err
	}
	var message proto.Message
	switch subject.Family {
	case FamilyProbe:
		message = &picketv1.ProbeResult{}
	case FamilyMetric:
		message = &picketv1.MetricBatch{}
	case FamilyCatalog:
		message = &picketv1.CatalogChange{}
	case FamilyCommand:
		message = &picketv1.Command{}
	case FamilyAlert:
		message = &picketv1.AlertEvent{}
	case FamilyExport:
		message = &picketv1.ExportEvent{}
	case FamilyWork:
		message = &picketv1.ExportWork{}
	case FamilyClock:
		message = &picketv1.ClockTick{}
	default:
		return subject, nil, fmt.Errorf("%w: nothing is kept of the family %s", ErrSubject, subject.Family)
	}
	return subject, message, wire.Decode(l.Content.GetHeaders()[headerContentType], l.Content.GetPayload(), message)
}

// StillDead says what would make a dead letter of it again if it were replayed now; nil: nothing that can be known without
// the database.
func (l *Letter) StillDead(now time.Time) error {
	subject, message, err := l.Message()
	if err != nil {
		return err
	}
	switch message := message.(type) {
	case *picketv1.ProbeResult:
		return CheckResult(subject, message, now)
	case *picketv1.MetricBatch:
		return CheckMetrics(subject, message, now)
	case *picketv1.CatalogChange:
		return CheckChange(subject, message)
	case *picketv1.Command:
		return CheckCommand(subject, message)
	case *picketv1.ExportWork:
		if _, err := uuid.Parse(message.GetExportId()); err != nil {
			return violates("export %q is not a uuid", clip(message.GetExportId()))
		}
	}
	return nil
}

// Replayable says what keeps a letter from being replayed at all.
func (l *Letter) Replayable() error {
	switch content := l.Content; {
	case content == nil:
		return l.Fault
	case l.Cut:
		return fmt.Errorf("only the first %d of its %d bytes are kept", len(content.GetPayload()), l.Size)
	case !slices.Contains([]string{StreamEvents, StreamMetrics, StreamAlerts, StreamExports, StreamWork}, content.GetStream()):
		return fmt.Errorf("%q is no stream that things are replayed onto", clip(content.GetStream()))
	case !strings.HasPrefix(content.GetSubject(), root+".") || strings.ContainsAny(content.GetSubject(), " \t\r\n\x00*>\ufffd") ||
		strings.Contains(content.GetSubject(), "..") || strings.HasSuffix(content.GetSubject(), ".") || len(content.GetSubject()) >= maxPrintable:
		return fmt.Errorf("%q is no subject to publish to", clip(content.GetSubject()))
	}
	return nil
}
