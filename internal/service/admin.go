package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// healthBody is what /health answers, in the form of the source systems with
// the components beside it.
type healthBody struct {
	Status     string             `json:"status"`
	Service    string             `json:"service"`
	Version    string             `json:"version,omitempty"`
	Components map[string]state   `json:"components,omitempty"`
	Counters   map[string]float64 `json:"counters,omitempty"`
}

type state struct {
	Status string `json:"status"`
	Output string `json:"output,omitempty"`
}

// Handler answers for one service:
//
//	/livez    200 as long as the process answers at all; no dependency is asked
//	/readyz   200 or 503 with one reason a line
//	/health   the same as JSON, with counters
func Handler(kit *Kit) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := kit.Health.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		code, body := kit.healthBody()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body) // the client has gone when this fails
	})
	return mux
}

func (k *Kit) healthBody() (int, healthBody) {
	body := healthBody{Status: "ok", Service: k.Name, Version: k.Version, Components: map[string]state{}, Counters: k.Health.numbers()}
	code := http.StatusOK
	for name, c := range k.Health.state() {
		switch {
		case c.err == nil:
			body.Components[name] = state{Status: "ok"}
		case c.degraded:
			body.Components[name] = state{Status: "degraded", Output: c.err.Error()}
			if body.Status == "ok" {
				body.Status = "degraded"
			}
		default:
			body.Components[name] = state{Status: "fail", Output: c.err.Error()}
			body.Status = "fail"
			code = http.StatusServiceUnavailable
		}
	}
	return code, body
}

// MetricsHandler answers /metrics.
func MetricsHandler(gatherer prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// ErrListen is wrapped when an address can not be listened on.
var ErrListen = errors.New("address not free")

// Listen opens a TCP address; the error wraps ErrListen and names the setting that changes it.
func Listen(ctx context.Context, address, setting string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w (another address: %s)", ErrListen, err, setting)
	}
	return listener, nil
}

// ServeHTTP answers on listener until ctx ends, lets running requests finish
// for a moment, and returns nil then.
func ServeHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve http on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(stopCtx); err != nil {
		_ = server.Close() // what did not end in time is cut
	}
	<-failed //nolint:errcheck // it says only that the server was shut down
	return nil
}

// askTimeout bounds the question whether a service is ready.
const askTimeout = 3 * time.Second

// askReady asks the service that answers on an admin address of this machine whether it is ready. An address that means
// all interfaces is asked on loopback. It returns nil when ready, else what the service says is wrong, or why it could not be asked.
func askReady(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("PICKET_ADMIN_LISTEN: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask whether it is ready: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // never by a proxy: it is this machine
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask whether it is ready: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	const most = 4 << 10
	reasons, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return fmt.Errorf("ask whether it is ready: %w", err)
	}
	return fmt.Errorf("not ready: %s", strings.ReplaceAll(strings.TrimSpace(string(reasons)), "\n", "; "))
}
