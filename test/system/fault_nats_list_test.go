package system_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/bus"
)

// natsFault is a fault, and what is promised while it lasts.
type natsFault struct {
	fault
	// lasts: it is over only when it is mended; else it is when inject returns.
	lasts bool
	// dark: nobody is served meanwhile, and everybody says so within two seconds.
	dark bool
	// mute: NATS answers, and keeps nothing; who publishes results says so once it has waited for an answer.
	mute bool
	// loses are the streams whose unread messages are gone with it: the only ones that may have gaps because of it.
	loses []string
}

// natsFaults are those that soak draws from: all that lose nothing.
func natsFaults() []fault {
	var faults []fault
	for _, f := range natsFaultsKnown() {
		if len(f.loses) == 0 {
			faults = append(faults, f.fault)
		}
	}
	return faults
}

// natsIsOurs says that the NATS server can be broken.
func natsIsOurs(d deployment) bool { return d.nats() != nil }

// writerHasAWire says that one service of several can be broken off.
func writerHasAWire(d deployment) bool {
	return natsIsOurs(d) && processes(d)["writer"] != nil
}

// onNATS is what breaks the server of a deployment.
func onNATS(breaks, mends func(s *natsServer)) func(*testing.T, deployment) func() {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		breaks(d.nats())
		return func() { mends(d.nats()) }
	}
}

func nothing(*natsServer) {}

func natsFaultsKnown() []natsFault {
	known := []natsFault{
		{fault: fault{"NATS is restarted", natsIsOurs, onNATS(func(s *natsServer) { s.stop(); s.start() }, nothing)}},
		{fault: fault{"NATS is killed and started", natsIsOurs, onNATS(func(s *natsServer) { s.kill(); s.start() }, nothing)}},
		{fault: fault{"NATS is away", natsIsOurs, onNATS((*natsServer).stop, (*natsServer).start)}, lasts: true, dark: true},
		{fault: fault{"NATS is frozen", natsIsOurs, onNATS((*natsServer).freeze, (*natsServer).thaw)}, lasts: true, dark: true},
		{fault: fault{"all connections to NATS are cut", natsIsOurs, onNATS(func(s *natsServer) { s.cut() }, nothing)}},
		{
			fault: fault{"nothing passes the wires to NATS", natsIsOurs, onNATS(func(s *natsServer) { s.stall() }, func(s *natsServer) { s.flow() })},
			lasts: true, dark: true,
		},
		{
			fault: fault{"nothing passes one wire to NATS", writerHasAWire, onNATS(
				func(s *natsServer) { s.stall("writer") }, func(s *natsServer) { s.flow("writer") })},
			lasts: true,
		},
		{
			fault: fault{"NATS sends its clients away and ends", natsIsOurs, onNATS(
				(*natsServer).retire, func(s *natsServer) { <-s.proc.exited; s.start() })},
			lasts: true,
		},
		{
			fault: fault{"NATS has no JetStream", natsIsOurs, onNATS(
				func(s *natsServer) { s.stop(); s.settings.withoutJetStream = true; s.start() },
				func(s *natsServer) { s.stop(); s.settings.withoutJetStream = false; s.start() })},
			lasts: true, dark: true,
		},
		{fault: fault{"the disk of NATS is full", and(natsIsOurs, canMount), fillNATS}, lasts: true, mute: true},
		{fault: fault{"the writer's consumer is deleted", nil, func(t *testing.T, d deployment) func() {
			t.Helper()
			if err := rawJetStream(t, d).DeleteConsumer(t.Context(), bus.StreamEvents, "writer"); err != nil {
				t.Errorf("delete consumer: %v", err)
			}
			return func() {}
		}}},
	}
	for _, bucket := range []string{bus.BucketCatalog, bus.BucketStatus, bus.BucketWorkers} {
		known = append(known,
			natsFault{fault: fault{"the bucket " + bucket + " is emptied", nil, emptyStream("KV_" + bucket)}},
			natsFault{fault: fault{"the bucket " + bucket + " is deleted", nil, deleteStream("KV_" + bucket)}})
	}
	for _, stream := range []string{bus.StreamAlerts, bus.StreamWork} {
		known = append(known, natsFault{fault: fault{"the stream " + stream + " is deleted", nil, deleteStream(stream)}})
	}
	for _, stream := range []string{bus.StreamEvents, bus.StreamMetrics} {
		known = append(known,
			natsFault{fault: fault{"the stream " + stream + " is deleted", nil, deleteStream(stream)}, loses: []string{stream}},
			natsFault{
				fault: fault{"the stream " + stream + " is emptied before it is read", nil, unread(emptyStream(stream))},
				loses: []string{stream},
			})
	}
	return append(known, natsFault{
		fault: fault{"the stream " + bus.StreamEvents + " is deleted before it is read", nil, unread(deleteStream(bus.StreamEvents))},
		loses: []string{bus.StreamEvents},
	}, natsFault{
		fault: fault{"NATS is killed and loses its disk", natsIsOurs, onNATS(func(s *natsServer) { s.kill(); s.lose(); s.start() }, nothing)},
		loses: []string{bus.StreamEvents, bus.StreamMetrics},
	})
}

// rawJetStream is a way to the server past internal/bus, as somebody with a terminal has it.
func rawJetStream(t *testing.T, d deployment) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(d.natsURL())
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

func deleteStream(name string) func(*testing.T, deployment) func() {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		if err := rawJetStream(t, d).DeleteStream(t.Context(), name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
		return func() {}
	}
}

func emptyStream(name string) func(*testing.T, deployment) func() {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		stream, err := rawJetStream(t, d).Stream(t.Context(), name)
		if err == nil {
			err = stream.Purge(t.Context())
		}
		if err != nil {
			t.Errorf("purge %s: %v", name, err)
		}
		return func() {}
	}
}

// unread has something done to a stream of which a part is in the writer's hand, and a part it has not got yet.
func unread(do func(*testing.T, deployment) func()) func(*testing.T, deployment) func() {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		unlock := lockTables(t, d, "server_health_checks", "server_metrics_aggregated")
		rest(t, 3*time.Second)
		mend := do(t, d)
		unlock()
		return mend
	}
}

// lockTables keeps everybody out of tables.
func lockTables(t *testing.T, d deployment, tables ...string) (mend func()) {
	t.Helper()
	conn := d.database().connect()
	mend = func() { conn.Close(t.Context()) } // which rolls back
	t.Cleanup(mend)
	if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if _, err := conn.Exec(t.Context(), "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
	}
	return mend
}

// fillNATS moves the streams to a small disk and fills that. The server (2.15.2) takes no message for a stream any more once
// a write of it has failed, so that whoever makes room has to restart it too.
func fillNATS(t *testing.T, d deployment) (mend func()) {
	t.Helper()
	const room = 8 << 20
	s := d.nats()
	small := filepath.Join(shortDir(t), "disk")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	s.stop()
	large, used := s.dir, int64(0)
	err := filepath.WalkDir(large, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		used += info.Size() + 4096
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := mountDisk(small, used+room); err != nil {
		t.Fatal(err)
	}
	unmount := sync.OnceFunc(func() {
		if err := unmountDisk(small); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	t.Cleanup(unmount)
	s.moveTo(filepath.Join(small, "store"))
	s.settings.maxStore = 1 << 40 // what the streams reserve is more than there is
	s.start()
	filler := filepath.Join(small, "filler")
	if err := fill(filler); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	return func() {
		if err := os.Remove(filler); err != nil {
			t.Error(err)
		}
		s.stop()
		s.moveTo(large)
		s.settings.maxStore = 0
		unmount()
		s.start()
	}
}
