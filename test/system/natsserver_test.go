package system_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	testprograms "github.com/picketd/picket/test/programs"
)

// natsServer is NATS as its own project builds it, in the version that the services are tested with, as a process that can be
// broken. What is to feel broken wires reaches it by [natsServer.via]; the test itself asks it directly, by url.
type natsServer struct {
	t       *testing.T
	proc    *process
	address string
	monitor string
	// dir is where the streams are; it may be changed while the server is stopped, as may settings.
	dir      string
	settings natsSettings
	// configure has the next start follow dir and settings.
	configure func(*natsServer)
	// user is who the test is to it, where it asks.
	user *url.Userinfo

	mu      sync.Mutex
	proxies map[string]*embeddedtest.Proxy
}

// natsSettings is what the server's own file says.
type natsSettings struct {
	// maxStore bounds all streams together, in bytes; 0: the disk does.
	maxStore int64
	// withoutJetStream has the server pass messages on and keep none.
	withoutJetStream bool
}

// natsProgram builds the server when the first test wants it, and once.
var natsProgram = sync.OnceValues(func() (string, error) {
	const command = "github.com/nats-io/nats-server/v2"
	dir, err := builds.Build(context.Background(), testprograms.Plain(), command)
	return filepath.Join(dir, testprograms.Name(command)), err
})

// newNATSServer starts a server of this test's own.
func newNATSServer(t *testing.T) *natsServer {
	t.Helper()
	program, err := natsProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	s := &natsServer{
		t: t, address: freeAddress(t), monitor: freeAddress(t), dir: filepath.Join(dir, "store"), proxies: map[string]*embeddedtest.Proxy{},
		proc:      newProcess(t, "nats-server", program, []string{"-c", conf}, environment()),
		configure: func(s *natsServer) { s.write(conf) },
	}
	s.start()
	t.Cleanup(s.thaw) // or it could not be stopped
	return s
}

// url is the server itself.
func (s *natsServer) url() string {
	return (&url.URL{Scheme: "nats", User: s.user, Host: s.address}).String()
}

// via is the server at the end of a wire that can be broken by its name.
func (s *natsServer) via(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proxies[name] == nil {
		s.proxies[name] = embeddedtest.FaultProxy(s.t, s.address)
	}
	return "nats://" + s.proxies[name].Addr()
}

// start runs the server and returns when it is healthy.
func (s *natsServer) start() {
	s.t.Helper()
	s.configure(s)
	s.proc.start()
	s.proc.killed = true // its exit code says how it was stopped, and nothing else
	s.await()
}

// write writes a server's file that knows no users.
func (s *natsServer) write(conf string) {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	_, monitorPort, _ := net.SplitHostPort(s.monitor)
	var b strings.Builder
	fmt.Fprintf(&b, "server_name: system\nhost: 127.0.0.1\nport: %s\nhttp: 127.0.0.1:%s\nlame_duck_duration: 30s\nlame_duck_grace_period: 1s\n", port, monitorPort)
	if !s.settings.withoutJetStream {
		fmt.Fprintf(&b, "jetstream {\n  store_dir: %q\n", s.dir)
		if s.settings.maxStore > 0 {
			fmt.Fprintf(&b, "  max_file_store: %d\n", s.settings.maxStore)
		}
		b.WriteString("}\n")
	}
	writeFile(s.t, conf, b.String())
}

func (s *natsServer) await() {
	s.t.Helper()
	eventually(s.t, "NATS is healthy", func() error {
		select {
		case <-s.proc.exited:
			s.t.Fatalf("NATS ended: %v", s.proc.err)
		default:
		}
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.monitor+"/healthz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// stop ends the server as its operator would, and waits until it is gone.
func (s *natsServer) stop() {
	s.t.Helper()
	s.proc.signal(syscall.SIGTERM)
	<-s.proc.exited
}

func (s *natsServer) kill() { s.t.Helper(); s.proc.kill() }

// freeze has the process do nothing: connections are accepted by the kernel, and never answered.
func (s *natsServer) freeze() { s.t.Helper(); s.proc.signal(syscall.SIGSTOP) }

func (s *natsServer) thaw() { s.t.Helper(); s.proc.signal(syscall.SIGCONT) }

// retire asks the server to send its clients away and to end, which takes it half a minute at most.
func (s *natsServer) retire() { s.t.Helper(); s.proc.signal(syscall.SIGUSR2) }

// lose takes all that the server has stored; it must not run.
func (s *natsServer) lose() {
	s.t.Helper()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
}

// moveTo has the server, which must not run, keep its streams in another directory, which is made.
func (s *natsServer) moveTo(dir string) {
	s.t.Helper()
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		s.t.Fatal(err)
	}
	s.lose()
	s.dir = dir
}

// cut breaks the wires of these names, or all; new connections work.
func (s *natsServer) cut(names ...string) {
	s.each(names, (*embeddedtest.Proxy).Cut)
}

// stall has nothing pass the wires of these names, or any, and closes none.
func (s *natsServer) stall(names ...string) { s.each(names, (*embeddedtest.Proxy).Freeze) }

// flow ends stall.
func (s *natsServer) flow(names ...string) { s.each(names, (*embeddedtest.Proxy).Thaw) }

func (s *natsServer) each(names []string, do func(*embeddedtest.Proxy)) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(names) == 0 {
		for _, proxy := range s.proxies {
			do(proxy)
		}
	}
	for _, name := range names {
		proxy := s.proxies[name]
		if proxy == nil {
			s.t.Fatalf("no wire of %s", name)
		}
		do(proxy)
	}
}
