package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	demoInterval  = 5 * time.Second
	demoFlipEvery = 2 * time.Minute
	demoFirstPort = 9471
)

// demoFleet is three real HTTP servers on this machine, so that the first run
// has something to see and the first alert needs no set-up.
type demoFleet struct {
	servers []*http.Server
	targets []demoTarget
}

type demoTarget struct{ name, about, url string }

// startDemo starts the fleet; close ends it.
func startDemo(ctx context.Context) (*demoFleet, error) {
	born := time.Now()
	fleet := &demoFleet{}
	for i, target := range []struct {
		name, about string
		answer      http.HandlerFunc
	}{
		{"demo-healthy", "always healthy", answer(http.StatusOK, `{"status":"ok","service":"demo-healthy","counters":{"requests":42}}`)},
		{"demo-degraded", "a part of it is not well", answer(http.StatusOK, `{"database":{"status":"ok"},"redis":{"status":"ok"},"services":{"healthy":false}}`)},
		{"demo-flipping", "critical for two minutes of every four", func(w http.ResponseWriter, r *http.Request) {
			if time.Since(born)/demoFlipEvery%2 == 0 {
				answer(http.StatusOK, `{"status":"ok","service":"demo-flipping"}`)(w, r)
				return
			}
			answer(http.StatusServiceUnavailable, `{"database":{"status":"down"},"redis":{"status":"ok"}}`)(w, r)
		}},
	} {
		if err := fleet.add(ctx, target.name, target.about, demoFirstPort+i, target.answer); err != nil {
			fleet.close()
			return nil, err
		}
	}
	return fleet, nil
}

// add prefers a port of its own, so that a restart finds its servers where they were.
func (f *demoFleet) add(ctx context.Context, name, about string, port int, handler http.Handler) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		if listener, err = config.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	f.servers = append(f.servers, server)
	f.targets = append(f.targets, demoTarget{name, about, "http://" + listener.Addr().String() + "/health"})
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Default().Error("demo server ended", "server", name, "err", err)
		}
	}()
	return nil
}

func (f *demoFleet) close() {
	for _, server := range f.servers {
		_ = server.Close() // it serves nobody any more
	}
}

func (f *demoFleet) catalog() []catalog.Server {
	servers := make([]catalog.Server, 0, len(f.targets))
	for _, target := range f.targets {
		servers = append(servers, catalog.Server{
			Name: target.name, DisplayName: "Demo: " + target.about, Tags: []string{"demo"},
			Checks: []catalog.Check{{
				Name: "health", Interval: demoInterval, HTTP: &picketv1.HTTPSpec{Url: target.url},
				Alerts: &picketv1.AlertRules{CriticalAfter: 2, UnreachableAfter: 2, DegradedAfter: 3, CloseAfter: 2},
			}},
		})
	}
	return servers
}

func answer(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = fmt.Fprintln(w, body)
	}
}
