package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/mattn/go-isatty"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// natsFlags say which NATS server to talk to.
type natsFlags struct {
	NATS  string `name:"nats" env:"NATS_URL" default:"nats://127.0.0.1:4222" help:"Address of NATS."`
	Creds string `name:"creds" env:"PICKET_NATS_CREDENTIALS" type:"path" help:"File with the credentials for NATS."`
}

// connect waits a moment for the server: whoever types a command wants to know that nobody is there.
func (f *natsFlags) connect(ctx context.Context, std console, name string) (*bus.Conn, error) {
	log := slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: slog.LevelError}))
	conn, err := bus.Connect(bus.Options{URL: f.NATS, Name: name, CredentialsFile: f.Creds, Log: log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := conn.WaitConnected(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("nobody answers at %s: is `picket up` running? (another address: --nats): %w", service.Redact(f.NATS), err)
	}
	return conn, nil
}

type tailCommand struct {
	natsFlags
	Org      string        `help:"Only this organization."`
	Server   string        `help:"Only this server."`
	Check    string        `help:"Only this check."`
	Location string        `help:"Only this location."`
	Status   string        `enum:",healthy,degraded,critical,unreachable,unknown" default:"" help:"Only this status: healthy, degraded, critical, unreachable or unknown."`
	Only     string        `enum:"all,results,alerts" default:"all" help:"What to show: all, results or alerts."`
	Count    int           `help:"Stop after so many lines; 0 goes on."`
	For      time.Duration `help:"Stop after this time; 0 goes on."`
	Output   string        `enum:"text,json" default:"text" short:"o" help:"text for people, json for programs: one message a line."`
}

func (tailCommand) Help() string {
	return `Examples:
  picket tail                          everything, as it happens
  picket tail --status unreachable     only what is down
  picket tail --server checkout -o json | jq .latency_us
  picket tail --only alerts`
}

// Run shows messages until it is interrupted, or enough were shown.
func (c *tailCommand) Run(ctx context.Context, std console) error {
	conn, err := c.connect(ctx, std, "picket tail")
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Close()
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	printer := newPrinter(std.out, c.Output == "json")
	shown := 0
	var failed error
	err = conn.Subscribe(ctx, c.subjects(), func(msg *bus.Msg) {
		if failed != nil || c.Count > 0 && shown == c.Count {
			return
		}
		written, err := printer.print(msg)
		if err != nil {
			failed = err
			stop()
			return
		}
		if written {
			shown++
		}
		if c.Count > 0 && shown == c.Count {
			stop()
		}
	})
	if errors.Is(failed, os.ErrClosed) || failed != nil && strings.Contains(failed.Error(), "broken pipe") {
		return nil // `picket tail | head`
	}
	return errors.Join(err, failed)
}

func (c *tailCommand) subjects() []string {
	status, _ := health.ParseStatus(c.Status)
	var subjects []string
	if c.Only != "alerts" {
		subjects = append(subjects, bus.ProbeFilter(c.Org, status, c.Location, c.Server, c.Check))
	}
	if c.Only != "results" && c.Status == "" && c.Check == "" && c.Location == "" {
		subjects = append(subjects, bus.AlertFilter(c.Org, c.Server))
	}
	return subjects
}

// printer writes messages as lines.
type printer struct {
	out    io.Writer
	json   bool
	colour bool
}

func newPrinter(out *os.File, json bool) printer {
	return printer{out: out, json: json, colour: isatty.IsTerminal(out.Fd()) && os.Getenv("NO_COLOR") == ""}
}

// print writes one line; it reports false for what is not a message of Picket.
func (p printer) print(msg *bus.Msg) (written bool, err error) {
	subject, err := bus.ParseSubject(msg.Subject)
	if err != nil {
		return false, nil
	}
	var line string
	switch subject.Family {
	case bus.FamilyProbe:
		result := &picketv1.ProbeResult{}
		if msg.Decode(result) != nil {
			return false, nil
		}
		line = p.result(result)
		if p.json {
			line, err = jsonLine(wire.AppendJSON(nil, result))
		}
	case bus.FamilyAlert:
		event := &picketv1.AlertEvent{}
		if msg.Decode(event) != nil {
			return false, nil
		}
		line = p.alert(event)
		if p.json {
			line, err = jsonLine(wire.AppendJSON(nil, event))
		}
	default:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = fmt.Fprintln(p.out, line)
	return true, err
}

func jsonLine(data []byte, err error) (string, error) { return string(data), err }

// look is how a status shows: a sign that is not colour alone, and a colour.
type look struct{ sign, colour string }

const (
	red     = "31"
	green   = "32"
	yellow  = "33"
	magenta = "35"
	grey    = "90"
	bold    = "1"
)

func lookOf(status picketv1.Status) look {
	switch status {
	case picketv1.Status_STATUS_HEALTHY:
		return look{"✓", green}
	case picketv1.Status_STATUS_DEGRADED:
		return look{"~", yellow}
	case picketv1.Status_STATUS_CRITICAL:
		return look{"!", red}
	case picketv1.Status_STATUS_UNREACHABLE:
		return look{"✗", magenta}
	default:
		return look{"?", grey}
	}
}

func (p printer) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (p printer) result(r *picketv1.ProbeResult) string {
	l := lookOf(r.GetStatus())
	latency := ""
	if r.GetLatencyUs() > 0 {
		latency = fmt.Sprintf("%.1f ms", float64(r.GetLatencyUs())/1000)
	}
	return strings.TrimRight(fmt.Sprintf("%s %s %-28s %9s  %s %s",
		p.paint(grey, r.GetScheduledAt().AsTime().Local().Format("15:04:05")),
		p.paint(l.colour, fmt.Sprintf("%s %-11s", l.sign, health.Word(r.GetStatus()))),
		printable(r.GetServer()+"/"+r.GetCheck()), latency, p.paint(grey, printable(r.GetLocation())), printable(r.GetMessage())), " ")
}

func (p printer) alert(e *picketv1.AlertEvent) string {
	colour := yellow
	switch {
	case e.GetState() == "closed":
		colour = green
	case e.GetSeverity() == "critical":
		colour = red
	}
	text := fmt.Sprintf("▲ alert %-8s", e.GetTransition())
	return strings.TrimRight(fmt.Sprintf("%s %s %-8s %s",
		p.paint(grey, e.GetAt().AsTime().Local().Format("15:04:05")),
		p.paint(bold+";"+colour, text), e.GetSeverity(), printable(e.GetSummary())), " ")
}

// printable keeps what a target says from speaking to the terminal: nothing that controls it, moves what stands beside it
// or cannot be seen.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s)
}
