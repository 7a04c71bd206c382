package bus_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestMain also plays the parts that benchmarks have in processes of their own.
func TestMain(m *testing.M) {
	var err error
	switch dir, url := os.Getenv(serverVariable), os.Getenv(feederVariable); {
	case dir != "":
		err = serve(dir)
	case url != "":
		err = feeder(url)
	default:
		embeddedtest.Main(m)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// patience bounds every wait of these tests; nothing waits that long when all is well. On a machine where ten others want the
// processor, twenty thousand messages and three restarts of a server with the race detector take most of a minute.
const patience = 2 * time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, url string) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Options{URL: url, Name: t.Name(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// connected returns a connection to a server of its own, with the streams made.
func connected(t *testing.T) *bus.Conn {
	t.Helper()
	conn := connect(t, embeddedtest.NATS(t))
	ensureStreams(t, conn)
	return conn
}

func ensureStreams(t *testing.T, conn *bus.Conn) {
	t.Helper()
	ctx := testContext(t)
	if err := conn.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
}

// server is a NATS server that can be stopped and started again on the same address and store.
type server struct {
	t     *testing.T
	store string
	addr  string
	nats  *embedded.NATS
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, store: filepath.Join(t.TempDir(), "nats"), addr: "127.0.0.1:0"}
	s.start()
	s.addr = s.nats.Server().Addr().String()
	t.Cleanup(func() { s.nats.Stop() })
	return s
}

func (s *server) start() {
	s.t.Helper()
	nats, err := embedded.StartNATS(testContext(s.t), embedded.NATSOptions{StoreDir: s.store, Listen: s.addr})
	if err != nil {
		s.t.Fatal(err)
	}
	s.nats = nats
}

func probeMessage(id string, ms int64) bus.Message {
	at := time.UnixMilli(ms)
	return bus.Message{
		Subject: bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", "checkout", "health"),
		ID:      id,
		Time:    at,
		Payload: &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_HEALTHY, Server: "checkout", Check: "health", ScheduledAt: timestamppb.New(at),
		},
	}
}

func scheduledMillis(t *testing.T, msg *bus.Msg) int64 {
	t.Helper()
	result := &picketv1.ProbeResult{}
	if err := msg.Decode(result); err != nil {
		t.Fatal(err)
	}
	return result.GetScheduledAt().AsTime().UnixMilli()
}

func bigResult(bytes int) *picketv1.ProbeResult {
	text := make([]byte, bytes)
	for i := range text {
		text[i] = 'x'
	}
	return &picketv1.ProbeResult{Message: string(text)}
}

func invalidResult() *picketv1.ProbeResult { return &picketv1.ProbeResult{Message: "\xff"} }

// natsWith runs a server of this test's own.
func natsWith(t *testing.T, opts natsserver.Options) *natsserver.Server {
	t.Helper()
	opts.Host, opts.Port, opts.StoreDir, opts.NoSigs = "127.0.0.1", -1, t.TempDir(), true
	server, err := natsserver.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	if !server.ReadyForConnections(10 * time.Second) {
		t.Fatal("server does not answer")
	}
	return server
}

// jetStream is a way to the server as somebody with a terminal has it.
func jetStream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
