package embeddedtest

import (
	"testing"

	"github.com/picketd/picket/internal/embedded"
)

// NATS starts a NATS server with JetStream on a free port, empty, for this test alone, and returns its address.
func NATS(t testing.TB) (url string) {
	t.Helper()
	return NATSServer(t, embedded.NATSOptions{}).ClientURL()
}

// NATSServer is [NATS] for tests that restart the server or reopen its store. What the options leave empty becomes a
// free port and a fresh directory. The test may stop it earlier than its end.
func NATSServer(t testing.TB, opts embedded.NATSOptions) *embedded.NATS {
	t.Helper()
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:0"
	}
	if opts.StoreDir == "" {
		opts.StoreDir = t.TempDir()
	}
	nats, err := embedded.StartNATS(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	return nats
}
