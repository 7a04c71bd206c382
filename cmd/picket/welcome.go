package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// welcome prints the first screen: where everything is, and what to try. The token of the first admin is shown when it is
// new, and never again.
func welcome(out *os.File, st *stack, newToken bool) {
	bolder := func(text string) string { return text }
	if isatty.IsTerminal(out.Fd()) && os.Getenv("NO_COLOR") == "" {
		bolder = func(text string) string { return "\x1b[1m" + text + "\x1b[0m" }
	}
	_, _ = fmt.Fprintf(out, "\n%s %s\n\n%s", bolder("Picket"), service.Version(), firstScreen(st, newToken))
}

// firstScreen is what welcome prints below the name. It fits into 100 columns where the paths do.
func firstScreen(st *stack, newToken bool) string {
	var b strings.Builder
	row := func(name, text string) { fmt.Fprintf(&b, "  %-10s %s\n", name, text) }
	row("API", st.url("/docs")+"   and /health /readyz /metrics")
	row("NATS", service.Redact(st.natsURL()))
	if st.postgres != nil {
		row("Database", "private: "+psql(st.postgres.BinDir(), st.postgres.URL(embedded.DefaultDatabase)))
	} else {
		row("Database", "yours, as configured")
	}
	row("Data", st.settings.DataDir)
	if st.settings.Catalog.File != "" {
		row("Servers", st.settings.Catalog.File+", read again when it changes")
	}
	tokenFile := filepath.Join(st.settings.DataDir, adminTokenFile)
	token := "$TOKEN"
	if _, err := os.Stat(tokenFile); err == nil {
		token = "$(cat " + shellWord(tokenFile) + ")"
		if newToken {
			row("Token", st.settings.API.AdminToken)
			row("", "of the first admin, shown this once, kept in "+tokenFile)
		} else {
			row("Token", "of the first admin, in "+tokenFile)
		}
	}

	me, flag := command(), ""
	if st.natsURL() != "nats://"+embedded.DefaultNATSListen {
		flag = " --nats " + service.Redact(st.natsURL())
	}
	fmt.Fprint(&b, "\nTry, in another terminal:\n\n")
	for _, try := range [][2]string{
		{me + " tail" + flag, "every result and alert, live"},
		{"nats sub" + strings.ReplaceAll(flag, "--nats", "--server") + " 'picket.*.probe.unreachable.>'", "only what is down, with the NATS CLI"},
		{me + " probe https://example.com", "look at one URL, once"},
		{`curl -H "Authorization: Bearer ` + token + "\" \\\n    " + st.url("/api/v1/fleet/summary"), "what the API says"},
	} {
		text := "  " + try[0]
		last := text[strings.LastIndexByte(text, '\n')+1:]
		if len(last) > 58 {
			text, last = text+"\n", ""
		}
		fmt.Fprintf(&b, "%s%*s%s\n", text, 60-len(last), "", try[1])
	}
	fmt.Fprintln(&b)
	return b.String()
}

// psql is what people type to look into the private database at address: by its path when only the server's own
// directory has it.
func psql(binDir, address string) string {
	program := "psql"
	if _, err := exec.LookPath(program); err != nil {
		if path, err := exec.LookPath(filepath.Join(binDir, program)); err == nil {
			program = path
		}
	}
	at, err := url.Parse(address)
	if err != nil {
		return program + " " + shellWord(address)
	}
	words := program + " -h " + shellWord(at.Query().Get("host"))
	if port := at.Query().Get("port"); port != "5432" {
		words += " -p " + port
	}
	return words + " -U " + at.Query().Get("user") + " " + strings.TrimPrefix(at.Path, "/")
}

// shellWord quotes a path for a shell, if it must be.
func shellWord(path string) string {
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// command is what people type to run this program again.
func command() string {
	if name := os.Args[0]; strings.ContainsRune(name, filepath.Separator) {
		return name
	}
	return "picket"
}

// announceHealthy says when every part has been seen healthy, from the very
// results that the pipeline carries; and after a minute, which has not.
func announceHealthy(ctx context.Context, out *os.File, st *stack, started time.Time) {
	waiting := map[string]bool{}
	for _, server := range st.builtin() {
		if strings.HasPrefix(server.Name, "picket-") {
			waiting[server.Name] = true
		}
	}
	total := len(waiting)
	conn, err := bus.Connect(bus.Options{URL: st.natsURL(), Name: "picket up", Log: st.log, CredentialsFile: st.settings.NATSCredentials})
	if err != nil {
		st.log.Error("own parts not followed", "err", err)
		return
	}
	defer conn.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex // of waiting
	late := time.AfterFunc(time.Minute, func() {
		mu.Lock()
		names := slices.Sorted(maps.Keys(waiting))
		mu.Unlock()
		_, _ = fmt.Fprintf(out, "Not seen healthy after a minute: %s\n", strings.Join(names, ", "))
		for _, p := range st.parts {
			if err := p.kit.Health.Ready(); err != nil {
				_, _ = fmt.Fprintf(out, "  %s: %s\n", p.kit.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
			}
		}
	})
	defer late.Stop()
	err = conn.Subscribe(ctx, []string{bus.ProbeFilter("", picketv1.Status_STATUS_HEALTHY, "", "", "health")}, func(msg *bus.Msg) {
		mu.Lock()
		defer mu.Unlock()
		subject, err := bus.ParseSubject(msg.Subject)
		if err != nil || !waiting[subject.Server] {
			return
		}
		delete(waiting, subject.Server)
		if len(waiting) == 0 {
			_, _ = fmt.Fprintf(out, "All %d own parts are healthy after %s. %sCtrl-C stops.\n",
				total, time.Since(started).Round(100*time.Millisecond), room(ctx, st, conn))
			stop()
		}
	})
	if err != nil {
		st.log.Error("own parts not followed", "err", err)
	}
}

// room says how long the event stream lasts at the configured rate: for as long
// may a consumer be away.
func room(ctx context.Context, st *stack, conn *bus.Conn) string {
	rate, err := st.db.DueRate(ctx)
	if err != nil {
		st.log.Warn("room of the stream not known", "err", err)
		return ""
	}
	info, err := conn.StreamInfo(ctx, bus.StreamEvents)
	if err != nil || info.Messages == 0 {
		st.log.Warn("room of the stream not known", "err", err)
		return ""
	}
	// The clock tick of each second takes room too.
	perSecond := (rate + 1) * float64(info.Bytes) / float64(info.Messages)
	lasts := min(bus.EventAge.Hours(), float64(info.MaxBytes)/perSecond/3600)
	return fmt.Sprintf("%.1f results a second are due; the stream keeps %.0f hours of them. ", rate, lasts)
}

// url is an address on the process's own HTTP listener.
func (st *stack) url(path string) string { return "http://" + st.listener.Addr().String() + path }

// hostPort is the first address in a NATS URL.
func hostPort(address string) string {
	first, _, _ := strings.Cut(address, ",")
	if parsed, err := url.Parse(first); err == nil && parsed.Host != "" {
		if parsed.Port() == "" {
			return parsed.Hostname() + ":4222"
		}
		return parsed.Host
	}
	return first
}
