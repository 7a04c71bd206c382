package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/prober/probe"
)

type probeCommand struct {
	URL        string            `arg:"" help:"What to look at: http://…, https://… or tcp://host:port."`
	Method     string            `help:"HTTP method." default:"GET"`
	Header     map[string]string `help:"Header to send, as NAME=VALUE; may be repeated." mapsep:"none"`
	Body       string            `help:"Body to send."`
	Expect     []string          `help:"Status codes that are good, such as 200, 2xx or 200-204."`
	ExpectBody string            `help:"Regular expression (RE2) that the body must match."`
	ExpectJSON map[string]string `name:"expect-json" help:"Value (JSON) that a path (RFC 9535) must have, as PATH=VALUE." mapsep:"none"`
	MaxLatency time.Duration     `help:"Degraded when slower."`
	Follow     bool              `help:"Follow redirects."`
	Insecure   bool              `help:"Accept any certificate."`
	Send       string            `help:"What to send after connecting (tcp)."`
	Timeout    time.Duration     `help:"How long it may take." default:"10s"`
	Output     string            `enum:"text,json" default:"text" short:"o" help:"text or json."`
}

func (probeCommand) Help() string {
	return `Exit codes are those of monitoring plug-ins: 0 healthy, 1 degraded, 2 critical or unreachable, 3 unknown
or not to be looked at as asked.

Examples:
  picket probe https://example.com/health
  picket probe https://example.com --expect 200 --expect-json '$.status="ok"' --max-latency 300ms
  picket probe tcp://127.0.0.1:5432`
}

// Run looks once and says what it saw.
func (c *probeCommand) Run(ctx context.Context, std console) error {
	check, err := c.check()
	if err != nil {
		return &exitError{pluginUnknown, err}
	}
	pool := probe.NewPool(probe.PoolOptions{})
	defer pool.Close()
	prober, err := probe.New(check, probe.Options{Pool: pool, Version: service.Version()})
	if err != nil {
		return &exitError{pluginUnknown, err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	result := prober.Probe(ctx)
	if err := c.show(std, result); err != nil {
		return err
	}
	if code := pluginCode(result.GetStatus()); code != 0 {
		return &exitError{code, fmt.Errorf("%s is %s", c.URL, health.Word(result.GetStatus()))}
	}
	return nil
}

// pluginUnknown is the monitoring plug-ins' code for "could not look", mistakes of the caller included.
const pluginUnknown = 3

func pluginCode(status picketv1.Status) int {
	switch status {
	case picketv1.Status_STATUS_HEALTHY:
		return 0
	case picketv1.Status_STATUS_DEGRADED:
		return 1
	case picketv1.Status_STATUS_CRITICAL, picketv1.Status_STATUS_UNREACHABLE:
		return 2
	default:
		return pluginUnknown
	}
}

func (c *probeCommand) check() (*picketv1.Check, error) {
	target, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read the URL: %w", err)
	}
	switch target.Scheme {
	case "http", "https":
		spec := &picketv1.HTTPSpec{
			Url: c.URL, Method: c.Method, Body: c.Body, ExpectStatus: c.Expect, ExpectBody: c.ExpectBody,
			MaxLatencyMs: c.MaxLatency.Milliseconds(), FollowRedirects: c.Follow,
			Tls: &picketv1.TLSOptions{InsecureSkipVerify: c.Insecure},
		}
		for name, value := range c.Header {
			spec.Headers = append(spec.Headers, &picketv1.Header{Name: name, Value: value})
		}
		for path, value := range c.ExpectJSON {
			spec.ExpectJson = append(spec.ExpectJson, &picketv1.JSONPathAssertion{Path: path, Equals: value})
		}
		return &picketv1.Check{Name: "health", Kind: "http", Spec: &picketv1.Check_Http{Http: spec}}, nil
	case "tcp", "tls":
		return &picketv1.Check{Name: "health", Kind: "tcp", Spec: &picketv1.Check_Tcp{Tcp: &picketv1.TCPSpec{
			Address: target.Host, Send: c.Send, Expect: c.ExpectBody, UseTls: target.Scheme == "tls",
			MaxLatencyMs: c.MaxLatency.Milliseconds(), Tls: &picketv1.TLSOptions{InsecureSkipVerify: c.Insecure},
		}}}, nil
	default:
		return nil, fmt.Errorf("%q is none of http://, https://, tcp://, tls://", c.URL)
	}
}

func (c *probeCommand) show(std console, r *picketv1.ProbeResult) error {
	if c.Output == "json" {
		line, err := wire.AppendJSON(nil, r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(std.out, string(line))
		return err
	}
	p := newPrinter(std.out, false)
	l := lookOf(r.GetStatus())
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", p.paint(l.colour, l.sign+" "+health.Word(r.GetStatus())), printable(c.URL))
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-12s %s\n", name, printable(value))
		}
	}
	row("latency", fmt.Sprintf("%.1f ms", float64(r.GetLatencyUs())/1000))
	if r.GetHttpStatus() != 0 {
		row("answer", strconv.Itoa(int(r.GetHttpStatus())))
	}
	row("reason", r.GetReason())
	row("message", r.GetMessage())
	if r.GetCertificateNotAfter() != nil {
		until := r.GetCertificateNotAfter().AsTime()
		row("certificate", fmt.Sprintf("until %s (%d days)", until.Format(time.DateOnly), int(time.Until(until).Hours()/24)))
	}
	for _, component := range r.GetComponents() {
		row(component.GetName(), health.Word(component.GetStatus()))
	}
	_, err := fmt.Fprint(std.out, b.String())
	return err
}
