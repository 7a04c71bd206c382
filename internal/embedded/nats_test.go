package embedded_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/embedded"
)

func startNATS(t *testing.T, opts embedded.NATSOptions) *embedded.NATS {
	t.Helper()
	server, err := embedded.StartNATS(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return server
}

func TestNATSKeepsItsStreams(t *testing.T) {
	t.Parallel()
	opts := embedded.NATSOptions{StoreDir: filepath.Join(t.TempDir(), "nats"), Listen: "127.0.0.1:0"}
	first := startNATS(t, opts)
	conn, err := nats.Connect("", nats.InProcessServer(first.Server()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.MaxPayload() != 1<<20 {
		t.Errorf("payload limit is %d", conn.MaxPayload())
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "kept", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.StartNATS(t.Context(), opts); !errors.Is(err, embedded.ErrDirInUse) {
		t.Errorf("second server on one store: got %v", err)
	}
	first.Stop()
	first.Stop()

	second := startNATS(t, opts)
	again, err := nats.Connect(second.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	js, err = jetstream.New(again)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KEPT")
	if err != nil {
		t.Fatal(err)
	}
	if messages := stream.CachedInfo().State.Msgs; messages != 1 {
		t.Errorf("%d messages after the restart, want 1", messages)
	}
}

func TestNATSRefusals(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = embedded.StartNATS(t.Context(), embedded.NATSOptions{StoreDir: t.TempDir(), Listen: taken.Addr().String()})
	inUse, ok := errors.AsType[*embedded.AddressInUseError](err)
	if !ok || inUse.Address != taken.Addr().String() || !errors.Is(err, embedded.ErrAddressInUse) {
		t.Errorf("taken port: got %v", err)
	}
	for _, listen := range []string{"4222", "127.0.0.1:http", "127.0.0.1:70000"} {
		if _, err := embedded.StartNATS(t.Context(), embedded.NATSOptions{StoreDir: t.TempDir(), Listen: listen}); err == nil {
			t.Errorf("%s: started", listen)
		}
	}
	if _, err := embedded.StartNATS(t.Context(), embedded.NATSOptions{Listen: "127.0.0.1:0"}); err == nil {
		t.Error("started without a store directory")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.StartNATS(t.Context(), embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: file}); err == nil {
		t.Error("started on a file")
	}
	// The server finds this one itself, in the middle of its start.
	store := t.TempDir()
	if err := os.WriteFile(filepath.Join(store, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := embedded.StartNATS(ctx, embedded.NATSOptions{Listen: "127.0.0.1:0", StoreDir: store}); err == nil || ctx.Err() != nil {
		t.Errorf("store directory that cannot be used: got %v (%v)", err, ctx.Err())
	}
	lock, err := embedded.LockDir(store)
	if err != nil {
		t.Fatalf("directory stays locked: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestNATSLogsWarnings(t *testing.T) {
	t.Parallel()
	var buffer strings.Builder
	log := slog.New(slog.NewTextHandler(&buffer, nil))
	server := startNATS(t, embedded.NATSOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Log: log})
	server.Server().Noticef("a notice")
	server.Server().Errorf("an error of %s", "something")
	server.Stop()
	text := buffer.String()
	if !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "an error of something") {
		t.Errorf("no error in %q", text)
	}
	if strings.Contains(text, "a notice") {
		t.Errorf("a notice in %q", text)
	}
}
