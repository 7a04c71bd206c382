// Command demo answers for three servers on one port, so that the stack of deploy/ has something to show without any
// set-up: /healthy, /degraded and /flipping, each with /health below it, and /healthy/api/v1/metrics/current for the
// collector. Nothing of Picket is linked here: it is a target like any other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":8080", "address to answer on")
	every := flag.Duration("flip-every", 2*time.Minute, "how long /flipping is well, and then critical")
	healthy := flag.String("healthy", "", "ask the demo on this address, such as 127.0.0.1:8080, whether it answers, and exit")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	if *healthy != "" {
		err = ask(ctx, *healthy)
	} else {
		err = serve(ctx, *listen, handler(time.Now(), *every))
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, listen string, handler http.Handler) error {
	server := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return server.Shutdown(stopCtx)
}

func ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthy/health", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// handler answers in the forms of the two systems that came before Picket. /flipping is well at first.
func handler(born time.Time, every time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthy/health", answer(http.StatusOK, `{"status":"ok","service":"demo-healthy","counters":{"requests":42}}`))
	mux.HandleFunc("GET /healthy/api/v1/metrics/current", func(w http.ResponseWriter, r *http.Request) {
		minutes := time.Since(born).Minutes()
		answer(http.StatusOK, fmt.Sprintf(
			`{"cpu_percent":%.1f,"memory_percent":41.5,"disk_percent":63.0,"network_rx_bytes":%d,"network_tx_bytes":%d,`+
				`"active_services":11,"failed_services":1,"total_services":12,"llm_requests":%d,"llm_cost_usd":0.0125,`+
				`"active_users":7,"total_users":130}`,
			20+float64(int(minutes)%10)*3, int64(minutes*6e6), int64(minutes*2e6), int64(minutes*5)))(w, r)
	})
	mux.HandleFunc("GET /degraded/health", answer(http.StatusOK, `{"database":{"status":"ok"},"redis":{"status":"ok"},"services":{"healthy":false}}`))
	mux.HandleFunc("GET /flipping/health", func(w http.ResponseWriter, r *http.Request) {
		if time.Since(born)/every%2 == 0 {
			answer(http.StatusOK, `{"status":"ok","service":"demo-flipping"}`)(w, r)
			return
		}
		answer(http.StatusServiceUnavailable, `{"database":{"status":"down"},"redis":{"status":"ok"}}`)(w, r)
	})
	return mux
}

func answer(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = fmt.Fprintln(w, body) // the client has gone when this fails
	}
}
