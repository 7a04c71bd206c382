package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"picket": func() { os.Exit(run(os.Args[1:], console{in: os.Stdin, out: os.Stdout, err: os.Stderr})) },
	})
}

// TestScripts runs the command as people type it. Scripts find a healthy, a
// degraded and a critical server, a closed port, a NATS server, one with dead
// letters, and a data directory in their environment.
func TestScripts(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/degraded":
			_, _ = fmt.Fprint(w, `{"services":{"healthy":false}}`)
		case "/critical":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/echo":
			_, _ = fmt.Fprintf(w, `{"method":%q,"token":%q}`, r.Method, r.Header.Get("X-Token"))
		default:
			_, _ = fmt.Fprint(w, `{"status":"ok"}`)
		}
	}))
	t.Cleanup(server.Close)
	nats, dead := embeddedtest.NATS(t), embeddedtest.NATS(t)
	writeLetters(t, dead)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TARGET", server.URL)
			env.Setenv("TARGET_ADDRESS", strings.TrimPrefix(server.URL, "http://"))
			env.Setenv("CLOSED", closedPort(t))
			env.Setenv("NATS_ADDRESS", strings.TrimPrefix(nats, "nats://"))
			env.Setenv("DEAD_ADDRESS", strings.TrimPrefix(dead, "nats://"))
			env.Setenv("PICKET_DATA_DIR", env.WorkDir+"/data")
			env.Setenv("NO_COLOR", "1")
			if bin := os.Getenv("PICKET_POSTGRES_BIN"); bin != "" {
				env.Setenv("PICKET_POSTGRES_BIN", bin)
			}
			return nil
		},
	})
}

func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
