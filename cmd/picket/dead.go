package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// deadCommand is what a person does about dead letters.
type deadCommand struct {
	Ls     deadLsCommand     `cmd:"" help:"List dead letters, the newest last."`
	Show   deadShowCommand   `cmd:"" help:"Show one: why, headers, and what is in it."`
	Replay deadReplayCommand `cmd:"" help:"Put messages back onto the subjects that they came from."`
	Rm     deadRmCommand     `cmd:"" help:"Remove dead letters for good."`
}

// deadFilter picks letters.
type deadFilter struct {
	Org      string        `help:"Only of this organization; _ is that of messages whose own could not be read."`
	Stream   string        `help:"Only of this stream, such as PICKET_EVENTS."`
	Consumer string        `help:"Only of who could not process them, such as writer."`
	Subject  string        `help:"Only messages that came on this subject; * and > are wildcards."`
	Reason   string        `enum:",unreadable,contract,row_refused" default:"" help:"Only for this reason: unreadable, contract or row_refused."`
	State    string        `enum:",new,replayed" default:"" help:"Only those that were not replayed yet (new), or that were (replayed)."`
	Since    time.Duration `help:"Only those of the last so long, such as 1h30m."`
}

func (f *deadFilter) letters() bus.LetterFilter {
	filter := bus.LetterFilter{
		Org: f.Org, Stream: f.Stream, Consumer: f.Consumer, Subject: f.Subject, Reason: f.Reason,
		Unreplayed: f.State == "new", Replayed: f.State == "replayed",
	}
	if f.Since > 0 {
		filter.Since = time.Now().Add(-f.Since)
	}
	return filter
}

func (f *deadFilter) any() bool { return *f != deadFilter{} }

// deadChoice is the letters that are to be replayed or removed.
type deadChoice struct {
	natsFlags
	Letters []uint64 `arg:"" optional:"" name:"letter" help:"Numbers of the letters, as picket dead ls shows them."`
	All     bool     `help:"All that match the filters."`
	deadFilter
	DryRun bool `short:"n" help:"Only say what would be done."`
	Yes    bool `short:"y" help:"Do not ask."`
}

// Validate wants either numbers or --all.
func (c *deadChoice) Validate() error {
	switch {
	case c.All && len(c.Letters) > 0:
		return errors.New("numbers of letters, or --all with filters, not both")
	case !c.All && len(c.Letters) == 0:
		return errors.New("which ones? Numbers of letters (picket dead ls shows them), or --all")
	case !c.All && c.any():
		return errors.New("filters go with --all")
	}
	return nil
}

// walk calls each with every letter of the choice; of all, with those that were there at to.
func (c *deadChoice) walk(ctx context.Context, conn *bus.Conn, filter bus.LetterFilter, each func(*bus.Letter) error) error {
	if c.All {
		return conn.Letters(ctx, filter, each)
	}
	for _, sequence := range slices.Compact(slices.Sorted(slices.Values(c.Letters))) {
		letter, err := conn.Letter(ctx, sequence)
		if err != nil {
			return err
		}
		if err := each(letter); err != nil {
			return err
		}
	}
	return nil
}

// confirm asks, unless that was answered with a flag.
func (c *deadChoice) confirm(std console, question string) error {
	if c.Yes {
		return nil
	}
	_, _ = fmt.Fprintf(std.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(std.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing done (--yes answers yes)")
	}
	return nil
}

type deadLsCommand struct {
	natsFlags
	deadFilter
	Limit  int    `default:"50" help:"At most so many, the newest; 0: all."`
	Output string `enum:"text,json" default:"text" short:"o" help:"text for people, json for programs: one letter a line."`
}

func (deadLsCommand) Help() string {
	return `A dead letter is a message that could never be processed, kept whole for 30 days with the reason why: unreadable
(it is not what its subject promises), contract (it reads, and says what it must not) or row_refused (the database
refuses the row).

Examples:
  picket dead ls
  picket dead ls --since 1h --reason contract
  picket dead ls --subject 'picket.*.probe.*.*.checkout.>'
  picket dead ls --limit 0 -o json | jq -r .error | sort | uniq -c`
}

// Run lists letters.
func (c *deadLsCommand) Run(ctx context.Context, std console) error {
	conn, err := c.connect(ctx, std, "picket dead")
	if err != nil {
		return err
	}
	defer conn.Close()
	list := newLetterList(std.out, c.Output == "json")
	if c.Limit <= 0 {
		if err := conn.Letters(ctx, c.letters(), list.add); err != nil {
			return deadError(err)
		}
		return list.end(std, "")
	}
	letters, more, err := conn.NewestLetters(ctx, c.letters(), c.Limit)
	if err != nil {
		return deadError(err)
	}
	for _, letter := range letters {
		if err := list.add(letter); err != nil {
			return err
		}
	}
	note := ""
	if more {
		note = fmt.Sprintf("; there are older ones (--limit %d, 0 for all)", 10*c.Limit)
	}
	return list.end(std, note)
}

// deadError says what to do about errors that a person can do something about.
func deadError(err error) error {
	if errors.Is(err, bus.ErrNotAllowed) {
		return fmt.Errorf("this user of NATS may not do that; in the stack of deploy/, viewer may list and show, "+
			"admin replay and remove (NATS_URL=nats://admin:…@host:4222): %w", err)
	}
	return err
}

// letterRow is a letter as programs are shown it.
type letterRow struct {
	Letter     uint64       `json:"letter"`
	Time       time.Time    `json:"time"`
	Org        string       `json:"org"`
	Stream     string       `json:"stream"`
	Consumer   string       `json:"consumer"`
	Reason     string       `json:"reason"`
	Error      string       `json:"error"`
	Subject    string       `json:"subject"`
	Sequence   uint64       `json:"sequence"`
	ReceivedAt *time.Time   `json:"received_at,omitempty"`
	Size       int          `json:"size"`
	Cut        bool         `json:"cut,omitempty"`
	Replays    []replayMark `json:"replays,omitempty"`
}

type replayMark struct {
	At       time.Time `json:"at"`
	Actor    string    `json:"actor"`
	Sequence uint64    `json:"sequence"`
}

func rowOf(l *bus.Letter) letterRow {
	row := letterRow{
		Letter: l.Sequence, Time: l.Time.UTC(), Org: l.Org, Size: l.Size, Cut: l.Cut,
		Stream: l.Content.GetStream(), Consumer: l.Content.GetConsumer(), Reason: l.Content.GetReason(), Error: l.Content.GetError(),
		Subject: l.Content.GetSubject(), Sequence: l.Content.GetSequence(),
	}
	if l.Fault != nil {
		row.Error = l.Fault.Error()
	}
	if at := l.Content.GetReceivedAt(); at != nil {
		received := at.AsTime()
		row.ReceivedAt = &received
	}
	for _, replay := range l.Replays {
		row.Replays = append(row.Replays, replayMark{replay.GetAt().AsTime(), replay.GetActor(), replay.GetSequence()})
	}
	return row
}

// letterList writes letters as they come, in columns or as JSON.
type letterList struct {
	json  *json.Encoder
	table *tabwriter.Writer
	count int
}

func newLetterList(out io.Writer, asJSON bool) *letterList {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		return &letterList{json: encoder}
	}
	return &letterList{table: tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
}

func (l *letterList) add(letter *bus.Letter) error {
	l.count++
	row := rowOf(letter)
	if l.json != nil {
		return l.json.Encode(row)
	}
	if l.count == 1 {
		_, _ = fmt.Fprintln(l.table, "LETTER\tTIME\tORG\tSTREAM/CONSUMER\tREASON\tSIZE\tSTATE\tSUBJECT\tERROR") // kept for the flush
	}
	state := "new"
	if len(row.Replays) > 0 {
		state = "replayed"
	}
	_, err := fmt.Fprintf(l.table, "%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", row.Letter, row.Time.Local().Format(time.DateTime),
		cell(row.Org, 63), cell(row.Stream+"/"+row.Consumer, 63), cell(row.Reason, 20), row.Size, state, cell(row.Subject, 120), cell(row.Error, 80))
	return err
}

func (l *letterList) end(std console, note string) error {
	if l.json != nil {
		return nil
	}
	if err := l.table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(std.err, "%s%s\n", counted(l.count), note)
	return err
}

func counted(n int) string {
	if n == 1 {
		return "1 dead letter"
	}
	return strconv.Itoa(n) + " dead letters"
}

// cell makes a text fit for a column.
func cell(s string, most int) string {
	runes := []rune(printable(s))
	if len(runes) > most {
		runes = append(runes[:most-1], '…')
	}
	return string(runes)
}

// actor is who replays, for the mark.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// progress tells on a terminal how far something is, twice a second at most.
type progress struct {
	out  *os.File
	verb string
	last time.Time
	live bool
}

func newProgress(out *os.File, verb string) *progress {
	return &progress{out: out, verb: verb, live: isatty.IsTerminal(out.Fd())}
}

func (p *progress) at(n, of int) {
	if !p.live || time.Since(p.last) < time.Second/2 {
		return
	}
	p.last = time.Now()
	_, _ = fmt.Fprintf(p.out, "\r%s %d of %d", p.verb, n, of) // a line for the eye
}

func (p *progress) end() {
	if p.live && !p.last.IsZero() {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// lastReplay is the newest mark of a letter.
func lastReplay(l *bus.Letter) *picketv1.DeadLetterReplay { return l.Replays[len(l.Replays)-1] }
