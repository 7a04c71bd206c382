package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/wire"
)

type deadShowCommand struct {
	natsFlags
	Letter uint64 `arg:"" help:"Number of the letter, as picket dead ls shows it."`
	Raw    bool   `help:"Write the message's payload alone, byte for byte."`
	Output string `enum:"text,json" default:"text" short:"o" help:"text for people, json for programs: the letter as it is in the stream."`
}

func (deadShowCommand) Help() string {
	return `A payload that reads as what its subject promises is shown as JSON, whether it came as JSON or protobuf; other text as
it is, without what would speak to the terminal; anything else as a hex dump.

Examples:
  picket dead show 17
  picket dead show 17 --raw > payload
  picket dead show 17 -o json | jq .headers`
}

// Run shows one letter.
func (c *deadShowCommand) Run(ctx context.Context, std console) error {
	conn, err := c.connect(ctx, std, "picket dead")
	if err != nil {
		return err
	}
	defer conn.Close()
	letter, err := conn.Letter(ctx, c.Letter)
	if err != nil {
		return deadError(err)
	}
	switch {
	case letter.Fault != nil:
		return letter.Fault
	case c.Raw:
		_, err := std.out.Write(letter.Content.GetPayload())
		return err
	case c.Output == "json":
		line, err := wire.AppendJSON(nil, letter.Content)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(std.out, string(line))
		return err
	}
	_, err = fmt.Fprint(std.out, letterText(letter, time.Now()))
	return err
}

// letterText is a letter for people.
func letterText(l *bus.Letter, now time.Time) string {
	var b strings.Builder
	row := rowOf(l)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name, printable(value))
		}
	}
	line("letter", fmt.Sprintf("%d, since %s", row.Letter, row.Time.Local().Format(time.DateTime)))
	line("reason", row.Reason)
	line("error", row.Error)
	line("from", fmt.Sprintf("%s, message %d, given up by %s", row.Stream, row.Sequence, row.Consumer))
	line("subject", row.Subject)
	if row.ReceivedAt != nil {
		line("received", row.ReceivedAt.Local().Format(time.DateTime))
	}
	for _, replay := range row.Replays {
		line("replayed", fmt.Sprintf("%s by %s, message %d", replay.At.Local().Format(time.DateTime), replay.Actor, replay.Sequence))
	}
	line("replay", outlook(l, now))
	headers := l.Content.GetHeaders()
	for i, name := range slices.Sorted(maps.Keys(headers)) {
		title := ""
		if i == 0 {
			title = "headers"
		}
		fmt.Fprintf(&b, "%-12s %s: %s\n", title, printable(name), printable(headers[name]))
	}
	size := fmt.Sprintf("%d bytes", l.Size)
	if l.Cut {
		size += fmt.Sprintf(", of which the first %d are kept", len(l.Content.GetPayload()))
	}
	kind, text := payloadText(l)
	fmt.Fprintf(&b, "%-12s %s, %s\n\n%s\n", "payload", size, kind, text)
	return b.String()
}

// outlook says what replaying would come to.
func outlook(l *bus.Letter, now time.Time) string {
	if err := l.Replayable(); err != nil {
		return "impossible: " + err.Error()
	}
	if err := l.StillDead(now); err != nil {
		return "it would be dead again at once: " + err.Error()
	}
	return fmt.Sprintf("nothing known is against it: %s dead replay %d", command(), l.Sequence)
}

// mostShown is how much of a payload is shown as text, mostDumped in hex.
const (
	mostShown  = 16 << 10
	mostDumped = 1 << 10
)

// payloadText shows a payload as well as it can be, and says how.
func payloadText(l *bus.Letter) (kind, text string) {
	payload := l.Content.GetPayload()
	if subject, message, err := l.Message(); err == nil {
		if line, err := wire.AppendJSON(nil, message); err == nil {
			return "a message of the family " + subject.Family, shown(indented(line))
		}
	}
	if json.Valid(payload) {
		return "JSON", shown(indented(payload))
	}
	if utf8.Valid(payload) && !bytes.ContainsRune(payload, 0) {
		return "text", shown(payload)
	}
	dumped := payload[:min(len(payload), mostDumped)]
	text = strings.TrimRight(hex.Dump(dumped), "\n")
	if rest := len(payload) - len(dumped); rest > 0 {
		text += fmt.Sprintf("\n… and %d bytes more (--raw writes all)", rest)
	}
	return "bytes", text
}

func indented(text []byte) []byte {
	var b bytes.Buffer
	if json.Indent(&b, text, "", "  ") != nil {
		return text
	}
	return b.Bytes()
}

// shown is text for a terminal: lines stay lines, everything else that is not to be seen is a dot.
func shown(text []byte) string {
	cut := text[:min(len(text), mostShown)]
	safe := strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, strings.ReplaceAll(strings.ToValidUTF8(string(cut), "·"), "\t", "    "))
	if rest := len(text) - len(cut); rest > 0 {
		safe += fmt.Sprintf("\n… and %d bytes more (--raw writes all)", rest)
	}
	return safe
}
