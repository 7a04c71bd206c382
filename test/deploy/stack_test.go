package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/test/deploy/stack"
)

// running is the stack of deploy/, up: every service of the file in its order and under its conditions.
type running struct {
	*stack.Stack

	t *testing.T
	// replicas of services, one where nothing is said.
	replicas  map[string]int
	processes map[string][]*process
	left      map[string]string // what was not started, and why
	stopped   sync.Once
}

// process is one container of the file.
type process struct {
	cmd    *exec.Cmd
	output *output
	ended  chan struct{}
	err    error
}

// output keeps what a program says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// notRun are the services of the file that this machine does not play, and why.
var notRun = map[string]string{
	"volumes":    "there are no volumes to give to anybody",
	"prometheus": "needs the name service of a container network; its files are checked by promtool",
	"grafana":    "not packaged for Debian; its files are checked against Prometheus and the database",
}

// startStack brings the whole file up. It returns when everything that has a health check is healthy.
func startStack(t *testing.T, replicas map[string]int, servers string) *running {
	t.Helper()
	s := &running{t: t, replicas: replicas, processes: map[string][]*process{}, left: map[string]string{}}
	s.Stack = stack.New(t, stack.Options{Program: func(importPath string) string { return program(t, importPath) }, Servers: servers})
	order, err := stack.Order(s.Project)
	if err != nil {
		t.Fatal(err)
	}
	end := func() { s.stopped.Do(s.stop) }
	t.Cleanup(end)
	for _, name := range order {
		s.start(name)
		if name == "timescaledb" {
			t.Cleanup(end) // before the database's own end
		}
	}
	return s
}

// start starts a service as the file says and waits for what others may wait for.
func (s *running) start(name string) {
	s.t.Helper()
	service := s.Project.Services[name]
	for _, missing := range []map[string]string{notRun, s.Missing} {
		if why, not := missing[name]; not {
			s.left[name] = why
			return
		}
	}
	for other := range service.DependsOn {
		if _, not := s.left[other]; not && other != "volumes" && other != "s3" {
			s.left[name] = "waits for " + other
			return
		}
	}
	switch _, ours := stack.Own(service); {
	case ours:
		for replica := range max(1, s.replicas[name]) {
			s.run(name, replica)
		}
		s.awaitHealthy(name)
	case name == "nats":
		s.run(name, 0)
		s.awaitHTTP(name, s.Address("nats:8222")+"/healthz")
	case name == "timescaledb":
		s.startDatabase()
	case name == "s3":
		s.run(name, 0)
		s.awaitHTTP(name, s.Address("s3:9000")+"/health")
	case stack.OneShot(s.Project, name):
		s.RunOnce(name)
	default:
		s.t.Fatalf("the harness does not know how to run %s: teach it, or say in notRun why not", name)
	}
}

func (s *running) startDatabase() {
	s.t.Helper()
	options := s.DatabaseOptions()
	options.Disposable = true
	server, err := embedded.StartPostgres(s.t.Context(), options)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			s.t.Error(err)
		}
	})
	s.Place("timescaledb:5432", embeddedtest.FaultProxy(s.t, "unix:"+server.Socket()).Addr())
}

func (s *running) run(name string, replica int) {
	s.t.Helper()
	command := s.Command(name, replica, nil)
	p := &process{output: &output{}, ended: make(chan struct{})}
	p.cmd = exec.Command(command.Path, command.Args...)
	p.cmd.Env, p.cmd.Dir = command.Env, s.Volume(name)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", name, err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	s.processes[name] = append(s.processes[name], p)
}

// awaitHealthy asks as the container engine would: by the program itself, with the environment of the service.
func (s *running) awaitHealthy(name string) {
	s.t.Helper()
	test := s.Project.Services[name].HealthCheck.Test
	for _, p := range s.processes[name] {
		eventually(s.t, name+" is healthy", func() error {
			p.mustRun(s.t, name)
			arguments := slices.Clone(test[2:])
			for i := range arguments {
				if name == "demo" {
					arguments[i] = strings.Replace(arguments[i], "127.0.0.1:8080", s.Address("demo:8080"), 1)
				}
			}
			ask := exec.CommandContext(s.t.Context(), p.cmd.Path, arguments...)
			ask.Env = p.cmd.Env
			out, err := ask.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
			}
			return nil
		})
	}
}

func (s *running) awaitHTTP(name, address string) {
	s.t.Helper()
	eventually(s.t, name+" is healthy", func() error {
		s.processes[name][0].mustRun(s.t, name)
		return httpOK(s.t, "http://"+address)
	})
}

func (p *process) mustRun(t *testing.T, name string) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("%s ended: %v\n%s", name, p.err, p.output)
	default:
	}
}

// stop ends what runs, the last started first, as the engine would.
func (s *running) stop() {
	order, err := stack.Order(s.Project)
	if err != nil {
		s.t.Error(err)
	}
	for _, name := range slices.Backward(order) {
		for _, p := range s.processes[name] {
			select {
			case <-p.ended:
				if p.err != nil && !errors.Is(p.err, context.Canceled) {
					s.t.Errorf("%s had ended: %v", name, p.err)
				}
				continue
			default:
			}
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
			select {
			case <-p.ended:
			case <-time.After(30 * time.Second):
				s.t.Errorf("%s did not stop when asked to", name)
				_ = p.cmd.Process.Kill() // it may have ended just now
				<-p.ended
			}
		}
	}
	if s.t.Failed() {
		for name, processes := range s.processes {
			for _, p := range processes {
				text := p.output.String()
				s.t.Logf("%s said:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
	}
}
