package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

// stack is deploy/compose.yaml as plain processes of this machine. What the file says is what runs: programs, arguments,
// environment, mounted files, the order and the conditions. Only places differ: host names and ports become free ports
// of loopback, paths in containers become the paths that are mounted there, and the images of others become their
// programs: the NATS server, PostgreSQL and, where it is installed, the S3 server.
type stack struct {
	t       *testing.T
	project *types.Project
	secrets map[string]string
	dir     string
	// addresses says where host:port of the file is here.
	addresses map[string]string
	// replicas of services, one where nothing is said.
	replicas map[string]int
	running  map[string][]*process
	database *embeddedtest.Proxy
	left     map[string]string // what was not started, and why
	stopped  sync.Once
}

// process is one container of the file.
type process struct {
	name   string
	cmd    *exec.Cmd
	output *output
	env    []string
	args   []string
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
func startStack(t *testing.T, replicas map[string]int, servers string) *stack {
	t.Helper()
	// A short path that PostgreSQL's own user may reach.
	dir, err := os.MkdirTemp("/tmp", "pkt-deploy-") //nolint:usetesting // the path of t.TempDir is long, and private to one user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	env := filepath.Join(dir, ".env")
	s := &stack{
		t: t, dir: dir, secrets: secrets(t, env), replicas: replicas,
		addresses: map[string]string{}, running: map[string][]*process{}, left: map[string]string{},
	}
	s.project = loadCompose(t, env)
	s.places()
	s.copyConfig(servers)
	order, err := dependencyOrder(s.project)
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

// places gives every host:port of the file a free address here.
func (s *stack) places() {
	for name, service := range s.project.Services {
		ports := slices.Clone([]string(service.Expose))
		for _, port := range service.Ports {
			ports = append(ports, fmt.Sprint(port.Target))
		}
		if name == "timescaledb" {
			ports = append(ports, "5432")
		}
		for _, port := range ports {
			s.addresses[name+":"+port] = freeAddress(s.t)
		}
	}
}

var hostPort = regexp.MustCompile(`\b([a-z][a-z0-9-]*:\d{4,5})\b`)

// here translates what the file says of places. A value may hold several.
func (s *stack) here(name, value string, replica int) string {
	// What it listens on: its own port, a free one for each further replica.
	if port, all := strings.CutPrefix(value, "0.0.0.0:"); all {
		if replica > 0 {
			return freeAddress(s.t)
		}
		if address := s.addresses[name+":"+port]; address != "" {
			return address
		}
	}
	value = hostPort.ReplaceAllStringFunc(value, func(found string) string {
		if address, ok := s.addresses[found]; ok {
			return address
		}
		if port, local := strings.CutPrefix(found, "localhost:"); local {
			for of, address := range s.addresses {
				if strings.HasSuffix(of, ":"+port) {
					return address
				}
			}
		}
		return found
	})
	for _, volume := range s.project.Services[name].Volumes {
		if volume.Type == types.VolumeTypeBind && (value == volume.Target || strings.HasPrefix(value, volume.Target+"/")) {
			return s.mounted(volume.Source) + strings.TrimPrefix(value, volume.Target)
		}
		if volume.Type == types.VolumeTypeVolume && value == volume.Target {
			path := filepath.Join(s.dir, "volume-"+volume.Source)
			if err := os.MkdirAll(path, 0o755); err != nil {
				s.t.Fatal(err)
			}
			return path
		}
	}
	return value
}

// mounted is where a directory of deploy/ is here: the one with addresses in its files is a copy.
func (s *stack) mounted(source string) string {
	if filepath.Base(source) == "config" {
		return filepath.Join(s.dir, "config")
	}
	return source
}

// copyConfig copies deploy/config with this machine's addresses, and adds servers to the first file.
func (s *stack) copyConfig(servers string) {
	source := filepath.Join(root, "deploy", "config")
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := hostPort.ReplaceAllStringFunc(string(content), func(found string) string {
			if address, ok := s.addresses[found]; ok {
				return address
			}
			return found
		})
		if err := os.MkdirAll(filepath.Join(s.dir, "config"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(s.dir, "config", entry.Name()), []byte(text+servers), 0o644)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// dependencyOrder puts every service behind those it waits for.
func dependencyOrder(project *types.Project) ([]string, error) {
	var order []string
	left := slices.Sorted(maps.Keys(project.Services))
	for len(left) > 0 {
		before := len(left)
		left = slices.DeleteFunc(left, func(name string) bool {
			for other := range project.Services[name].DependsOn {
				if !slices.Contains(order, other) {
					return false
				}
			}
			order = append(order, name)
			return true
		})
		if len(left) == before {
			return nil, fmt.Errorf("services wait for each other: %v", left)
		}
	}
	return order, nil
}

// start starts a service as the file says and waits for what others may wait for.
func (s *stack) start(name string) {
	s.t.Helper()
	service := s.project.Services[name]
	if why, not := notRun[name]; not {
		s.left[name] = why
		return
	}
	for other := range service.DependsOn {
		if _, not := s.left[other]; not && other != "volumes" && other != "s3" {
			s.left[name] = "waits for " + other
			return
		}
	}
	switch program, ours := own(service); {
	case ours:
		path := serviceProgram(s.t, program)
		if program != "demo" {
			if out, err := exec.CommandContext(s.t.Context(), path, "-help").CombinedOutput(); err == nil && len(out) == 0 {
				s.left[name] = "not written yet"
				return
			}
		}
		for replica := range max(1, s.replicas[name]) {
			s.run(name, replica, path, service.Command)
		}
		s.awaitHealthy(name)
	case name == "nats":
		s.run(name, 0, natsServer(s.t), append(slices.Clone(service.Command), s.natsPlace()...))
		s.awaitHTTP(name, s.monitor())
	case name == "timescaledb":
		s.startDatabase()
	case name == "s3":
		path, err := exec.LookPath("versitygw")
		if own := filepath.Join(root, ".bin", "versitygw"); err != nil && fileExists(own) {
			path, err = filepath.Abs(own)
		}
		if err != nil {
			s.left[name] = "versitygw is not installed (make tools builds it): exports go to a directory"
			return
		}
		s.run(name, 0, path, service.Command)
		s.awaitHTTP(name, "http://"+s.addresses["s3:9000"]+"/health")
	case oneShot(s.project, name):
		process := s.run(name, 0, service.Entrypoint[0], append(slices.Clone(service.Entrypoint[1:]), service.Command...))
		select {
		case <-process.ended:
			if process.err != nil {
				s.t.Fatalf("%s: %v\n%s", name, process.err, process.output)
			}
		case <-time.After(patience):
			s.t.Fatalf("%s does not end", name)
		}
	default:
		s.t.Fatalf("the harness does not know how to run %s: teach it, or say in notRun why not", name)
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// natsPlace is what the server is told of this machine on top of its command.
func (s *stack) natsPlace() []string {
	_, port, _ := net.SplitHostPort(s.addresses["nats:4222"])
	s.addresses["nats:8222"] = freeAddress(s.t)
	_, monitor, _ := net.SplitHostPort(s.addresses["nats:8222"])
	return []string{"-a", "127.0.0.1", "-p", port, "-m", monitor}
}

func (s *stack) monitor() string { return "http://" + s.addresses["nats:8222"] + "/healthz" }

// startDatabase runs a private server that asks for the passwords of the file: a wire of TCP in front of its socket, so
// that it can also be broken.
func (s *stack) startDatabase() {
	s.t.Helper()
	target := ""
	if server := os.Getenv(embeddedtest.DatabaseVariable); server != "" {
		u, err := url.Parse(server)
		if err != nil {
			s.t.Fatal(err)
		}
		target = "unix:" + filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")
	} else {
		rules := filepath.Join(s.dir, "pg_hba.conf")
		if err := os.WriteFile(rules, []byte("local all postgres trust\nlocal all all scram-sha-256\n"), 0o644); err != nil {
			s.t.Fatal(err)
		}
		server, err := embedded.StartPostgres(s.t.Context(), embedded.PostgresOptions{
			DataDir: filepath.Join(s.dir, "pg"), Database: "postgres", Disposable: true, Settings: map[string]string{"hba_file": rules},
		})
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
		if _, err := exec.LookPath("psql"); err != nil {
			if !fileExists(filepath.Join(server.BinDir(), "psql")) {
				s.t.Skip("no psql here: the roles of the stack cannot be made as deploy/ makes them")
			}
			s.t.Setenv("PATH", server.BinDir()+":"+os.Getenv("PATH"))
		}
		target = "unix:" + server.Socket()
	}
	s.database = embeddedtest.FaultProxy(s.t, target)
	s.addresses["timescaledb:5432"] = s.database.Addr()
}

// environment is what the file tells a service.
func (s *stack) environment(name string, replica int) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	environment := maps.Clone(s.project.Services[name].Environment)
	if _, without := s.left["s3"]; without {
		for variable := range environment {
			if strings.HasPrefix(variable, "S3_") {
				delete(environment, variable)
			}
		}
		exports := filepath.Join(s.dir, "exports")
		environment["PICKET_EXPORT_DIR"] = &exports
	}
	for variable, value := range environment {
		if value != nil {
			env = append(env, variable+"="+s.here(name, *value, replica))
		}
	}
	return env
}

func (s *stack) run(name string, replica int, program string, arguments []string) *process {
	s.t.Helper()
	p := &process{name: name, output: &output{}, env: s.environment(name, replica), ended: make(chan struct{})}
	for _, argument := range arguments {
		p.args = append(p.args, s.here(name, argument, replica))
	}
	if name == "s3" {
		p.args[1] = s.addresses["s3:9000"] // ":9000" is any address; here it is loopback
	}
	p.cmd = exec.Command(program, p.args...)
	p.cmd.Env, p.cmd.Dir = p.env, s.dir
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", name, err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	s.running[name] = append(s.running[name], p)
	return p
}

// awaitHealthy asks as the container engine would: by the program itself, with the environment of the service.
func (s *stack) awaitHealthy(name string) {
	s.t.Helper()
	test := s.project.Services[name].HealthCheck.Test
	for _, p := range s.running[name] {
		eventually(s.t, name+" is healthy", func() error {
			select {
			case <-p.ended:
				s.t.Fatalf("%s ended: %v\n%s", name, p.err, p.output)
			default:
			}
			arguments := slices.Clone(test[2:])
			for i := range arguments {
				if name == "demo" {
					arguments[i] = strings.Replace(arguments[i], "127.0.0.1:8080", s.addresses["demo:8080"], 1)
				}
			}
			ask := exec.CommandContext(s.t.Context(), p.cmd.Path, arguments...)
			ask.Env = p.env
			out, err := ask.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
			}
			return nil
		})
	}
}

func (s *stack) awaitHTTP(name, address string) {
	s.t.Helper()
	p := s.running[name][0]
	eventually(s.t, name+" is healthy", func() error {
		select {
		case <-p.ended:
			s.t.Fatalf("%s ended: %v\n%s", name, p.err, p.output)
		default:
		}
		return httpOK(s.t, address)
	})
}

// stop ends what runs, the last started first, as the engine would.
func (s *stack) stop() {
	order, err := dependencyOrder(s.project)
	if err != nil {
		s.t.Error(err)
	}
	for _, name := range slices.Backward(order) {
		for _, p := range s.running[name] {
			select {
			case <-p.ended:
				if p.err != nil && !errors.Is(p.err, context.Canceled) && !oneShot(s.project, name) {
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
		for name, processes := range s.running {
			for _, p := range processes {
				text := p.output.String()
				s.t.Logf("%s said:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
	}
}
