package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/test/fleetsim"
)

// serveNATS is the role of the NATS server; it is ready with its address.
func serveNATS(ctx context.Context, s spec) (part, error) {
	nats, err := embedded.StartNATS(ctx, embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: s.Dir})
	if err != nil {
		return part{}, err
	}
	return part{
		ready: nats.ClientURL(), figures: func() any { return struct{}{} },
		stop: func() error { nats.Stop(); return nil },
	}, nil
}

// database is where a PostgreSQL server is.
type database struct {
	URL string
	PID int
}

// servePostgres is the role that runs a PostgreSQL server below itself; it is ready with its address.
func servePostgres(ctx context.Context, s spec) (part, error) {
	server, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{
		DataDir: filepath.Join(s.Dir, "data"), Settings: s.Settings,
	})
	if err != nil {
		return part{}, err
	}
	return part{
		ready:   database{URL: server.URL(embedded.DefaultDatabase), PID: server.PID()},
		figures: func() any { return struct{}{} },
		stop:    func() error { return server.Stop(context.Background()) },
	}, nil
}

// serveFleet is the role of the targets; it is ready with their URLs.
func serveFleet(ctx context.Context, s spec) (part, error) {
	fleet, err := fleetsim.Start(ctx, fleetsim.Options{
		Servers: s.Servers, Format: fleetsim.Pulse, Hanging: s.Hanging, Keep: max(s.Keep, 1),
	})
	if err != nil {
		return part{}, err
	}
	urls := make([]string, fleet.Len())
	for i := range urls {
		urls[i] = fleet.URL(i)
	}
	return part{ready: urls, figures: func() any { return arrivalsOf(fleet) }, stop: fleet.Stop}, nil
}

// arrivals is what the targets have seen.
type arrivals struct {
	Requests  uint64
	Hanging   uint64 // of them to servers that hang
	CPU       time.Duration
	Slots     []uint32 // of 100 ms
	Deviation fleetsim.Deviation
	Unasked   int
	LastFirst time.Time // when the last of the servers had its first request
	At        time.Time
}

func arrivalsOf(fleet *fleetsim.Fleet) arrivals {
	report := fleet.Report()
	a := arrivals{
		Requests: report.Requests, CPU: cpu(), Slots: report.Slots, Deviation: report.Deviation, Unasked: report.NeverAsked, At: time.Now(),
	}
	for i := range report.Servers {
		if server := &report.Servers[i]; server.Requests > 0 {
			if server.Behaviour == fleetsim.Hanging {
				a.Hanging += server.Requests
			}
			if server.First.After(a.LastFirst) {
				a.LastFirst = server.First
			}
		}
	}
	return a
}

// fleet is the targets, in a process of their own.
type fleet struct {
	*child
	urls []string
}

func (b *bench) startFleet(ctx context.Context, s spec) (*fleet, error) {
	s.Role = "fleet"
	f := &fleet{}
	var err error
	f.child, err = b.start(ctx, s, &f.urls)
	return f, err
}

func (f *fleet) seen() (a arrivals, err error) {
	err = f.ask(question{}, &a)
	return a, err
}

// steady waits until the fleet is asked at a rate, over two seconds, within three percent.
func (f *fleet) steady(ctx context.Context, rate float64, patience time.Duration) error {
	before, err := f.seen()
	if err != nil {
		return err
	}
	var got float64
	err = until(ctx, fmt.Sprintf("targets are asked %.0f times a second", rate), patience, func() (bool, error) {
		if err := wait(ctx, 2*time.Second); err != nil {
			return false, err
		}
		after, err := f.seen()
		if err != nil {
			return false, err
		}
		got = float64(after.Requests-before.Requests) / after.At.Sub(before.At).Seconds()
		before = after
		return got > 0.97*rate && got < 1.03*rate, nil
	})
	if err != nil {
		return fmt.Errorf("%w (%.0f last)", err, got)
	}
	return nil
}

// window looks at the fleet before and after a while.
func (b *bench) window(ctx context.Context, f *fleet, length time.Duration) (before, after arrivals, err error) {
	if before, err = f.seen(); err != nil {
		return before, after, err
	}
	if err := wait(ctx, length); err != nil {
		return before, after, err
	}
	after, err = f.seen()
	return before, after, err
}

// startNATS starts a NATS server with a store of its own.
func (b *bench) startNATS(ctx context.Context, name string) (url string, server *child, err error) {
	server, err = b.start(ctx, spec{Role: "nats", Dir: filepath.Join(b.dir, name+"-nats")}, &url)
	return url, server, err
}

// startPostgres starts a PostgreSQL server with a directory of its own.
func (b *bench) startPostgres(ctx context.Context, name string, settings map[string]string) (at database, server *child, err error) {
	dir := filepath.Join(b.dir, name+"-postgres")
	if err := os.Mkdir(dir, 0o755); err != nil { // PostgreSQL's own user has to enter
		return at, nil, fmt.Errorf("make a directory: %w", err)
	}
	server, err = b.start(ctx, spec{Role: "postgres", Dir: dir, Settings: settings}, &at)
	return at, server, err
}
