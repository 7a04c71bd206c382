package service

import (
	"context"
	"net/http"
	"net/http/pprof"
)

// ServeProfiles answers net/http/pprof on a listener of its own until ctx ends: profiles show what is in memory, so the
// address is to be reachable for those who run the process and nobody else. An empty address is no listener.
func ServeProfiles(ctx context.Context, kit *Kit, address string) error {
	if address == "" {
		return nil
	}
	listener, err := Listen(ctx, address, "PICKET_PPROF_LISTEN")
	if err != nil {
		return err
	}
	kit.Log.Info("profiles served", "address", listener.Addr().String())
	return ServeHTTP(ctx, listener, profiles())
}

func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
