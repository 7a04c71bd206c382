package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

type doctorCommand struct {
	Config  string `short:"c" env:"PICKET_CONFIG" type:"path" help:"YAML file with settings."`
	DataDir string `type:"path" help:"The data directory that picket up is to use."`
}

func (doctorCommand) Help() string {
	return `Looks at the configuration, PostgreSQL, NATS, ports, open files, disk, ping permission and the
clock. Exit code 1 when something stands in the way; warnings do not count.`
}

const (
	// fewFiles is enough for some hundred checks that keep their connections.
	fewFiles    = 4096
	littleDisk  = 5 << 30
	clockTooFar = time.Second
)

// finding is one line of the doctor's report.
type finding struct {
	what string
	good string // what is well
	warn string // what could be better, and how
	bad  error  // what stands in the way
}

// Run looks at one thing after the other and goes on after a bad one.
func (c *doctorCommand) Run(ctx context.Context, std console) error {
	s, err := loadSettings(configFile(c.Config))
	if err != nil {
		s = defaultSettings()
		if s.DataDir, _ = defaultDataDir(); s.DataDir == "" {
			s.DataDir = os.TempDir()
		}
	}
	if c.DataDir != "" {
		s.DataDir = c.DataDir
	}
	findings := []finding{{what: "configuration", good: "reads without a fault", bad: err}}
	findings = append(findings, lookAtDatabase(ctx, s), lookAtNATS(ctx, s), lookAtPort(ctx, "http port", s.AdminListen, "--http-listen"),
		lookAtData(s.DataDir), lookAtFiles(), lookAtPing())
	p := newPrinter(std.out, false)
	bad := 0
	for _, f := range findings {
		sign, text := p.paint(green, "✓"), f.good
		switch {
		case f.bad != nil:
			bad++
			sign, text = p.paint(red, "✗"), f.bad.Error()
		case f.warn != "":
			sign, text = p.paint(yellow, "~"), f.warn
		}
		if _, err := fmt.Fprintf(std.out, "%s %-14s %s\n", sign, f.what, text); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d stand in the way", bad, len(findings))
	}
	return nil
}

func lookAtDatabase(ctx context.Context, s settings) finding {
	f := finding{what: "postgresql"}
	if !s.Configured() {
		var dir string
		if dir, f.bad = embedded.FindPostgres(ctx); f.bad == nil {
			f.good = "private server from " + dir
		}
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	address, warning := s.Resolve()
	f.warn = warning
	db, err := store.Open(ctx, store.Options{URL: address, Log: slog.New(slog.DiscardHandler), MaxConns: 1})
	if err != nil {
		f.bad = err
		return f
	}
	defer db.Close()
	if f.bad = db.Ping(ctx); f.bad == nil {
		f.good = "the configured server answers"
	}
	return f
}

// lookAtNATS also compares the clocks, when a server answers.
func lookAtNATS(ctx context.Context, s settings) finding {
	f := finding{what: "nats"}
	if s.NATSURL == "" {
		f = lookAtPort(ctx, "nats port", s.NATSListen, "--nats-listen")
		if f.warn == "" {
			return f
		}
		s.NATSURL = "nats://" + s.NATSListen
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := bus.Connect(bus.Options{URL: s.NATSURL, Name: "picket doctor", CredentialsFile: s.NATSCredentials, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return finding{what: "nats", bad: err}
	}
	defer conn.Close()
	address := service.Redact(s.NATSURL)
	if err := conn.WaitConnected(ctx); err != nil {
		return finding{what: "nats", bad: fmt.Errorf("%s: %w", address, err)}
	}
	entry, err := conn.EnrollWorker(ctx, &picketv1.WorkerStatus{Service: "doctor", Location: s.Location, Instance: service.DefaultInstance()}, time.Now)
	switch {
	case err != nil:
		return finding{what: "nats", warn: fmt.Sprintf("%s answers, but its clock could not be compared: %v", address, err)}
	case entry.Ahead.Abs() > clockTooFar:
		return finding{what: "nats", warn: fmt.Sprintf("%s answers; its clock differs by %s (ticks follow the server's clock)", address, entry.Ahead.Round(time.Millisecond))}
	default:
		return finding{what: "nats", good: fmt.Sprintf("%s answers, clocks agree", address)}
	}
}

func lookAtPort(ctx context.Context, what, address, flag string) finding {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return finding{what: what, warn: fmt.Sprintf("%s is in use (by Picket, if it is running; another: %s)", address, flag)}
	}
	if err != nil {
		return finding{what: what, bad: err}
	}
	_ = listener.Close() // it was only to see
	return finding{what: what, good: address + " is free"}
}

func lookAtData(dir string) finding {
	f := finding{what: "data"}
	place := dir
	for {
		_, err := os.Stat(place)
		if !errors.Is(err, fs.ErrNotExist) {
			f.bad = err
			break
		}
		place = filepath.Dir(place)
	}
	if f.bad != nil {
		return f
	}
	const writeAccess = 2
	if err := syscall.Access(place, writeAccess); err != nil {
		f.bad = fmt.Errorf("%s can not be written: %w (another: --data-dir)", place, err)
		return f
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(place, &disk); err != nil {
		f.bad = fmt.Errorf("look at the disk of %s: %w", place, err)
		return f
	}
	free := int64(disk.Bavail) * disk.Bsize // a disk has less than 2^63 bytes
	text := fmt.Sprintf("%s, %.1f GB free", dir, float64(free)/1e9)
	if free < littleDisk {
		f.warn = text + ": streams and history will be short"
	} else {
		f.good = text
	}
	return f
}

func lookAtFiles() finding {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return finding{what: "open files", bad: err}
	}
	text := fmt.Sprintf("%d allowed", limit.Cur)
	if limit.Cur < fewFiles {
		return finding{what: "open files", warn: text + ": enough for some hundred checks; raise it with ulimit -n"}
	}
	return finding{what: "open files", good: text}
}

// lookAtPing asks for the unprivileged ICMP socket that checks of the kind ping use.
func lookAtPing() finding {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, syscall.IPPROTO_ICMP)
	if err != nil {
		return finding{what: "ping", warn: "not permitted (sysctl net.ipv4.ping_group_range); no check of this version needs it"}
	}
	_ = syscall.Close(socket)
	return finding{what: "ping", good: "permitted"}
}
