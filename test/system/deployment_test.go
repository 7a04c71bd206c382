package system_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/test/deploy/stack"
)

// deployment is Picket as somebody runs it.
type deployment interface {
	// start starts what does not run.
	start()
	// parts are what can be killed by itself.
	parts() []string
	kill(part string)
	natsURL() string
	databaseURL() string
	// nats is the server below it when the test can break it, else nil.
	nats() *natsServer
	// database is the one below it when the test can break it, else nil.
	database() *postgres
	// api is where the API is, and an admin's token.
	api() (address, token string)
}

// options is what a scenario wants of a deployment.
type options struct {
	// config is the content of picket.yaml; empty: none.
	config string
	// env is added to the environment of every program.
	env []string
}

// inAll runs a scenario in all deployments.
func inAll(t *testing.T, opts options, scenario func(t *testing.T, d deployment, configFile string)) {
	t.Helper()
	for name, deploy := range deployments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			env, file := opts.in(t, dir)
			d := deploy(t, env, dir)
			d.start()
			scenario(t, d, file)
		})
	}
}

// inSeparate runs a scenario in the deployments of a process for each service, which it starts itself.
func inSeparate(t *testing.T, opts options, scenario func(t *testing.T, m *many)) {
	t.Helper()
	for name, deploy := range separate() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			env, _ := opts.in(t, dir)
			scenario(t, deploy(t, env, dir))
		})
	}
}

// in is the environment of a deployment in a directory, and its picket.yaml there, if any.
func (o options) in(t *testing.T, dir string) (env []string, configFile string) {
	t.Helper()
	if o.config == "" {
		return o.env, ""
	}
	file := filepath.Join(dir, "picket.yaml")
	writeFile(t, file, o.config)
	return append(slices.Clip(o.env), "PICKET_CONFIG="+file), file
}

// shortDir is a directory that PostgreSQL's own user may reach, with a path that leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pkt-sys-") //nolint:usetesting // the path of t.TempDir is long, and private to one user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	// As editors do it: a new file in the place of the old one.
	next := path + ".new"
	if err := os.WriteFile(next, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// freeAddress stays free until somebody listens there, and while who did is started anew.
func freeAddress(t *testing.T) string {
	t.Helper()
	return stack.FreeAddress(t)
}

// single is `picket up` with its own NATS and its own PostgreSQL.
type single struct {
	t    *testing.T
	proc *process
	own  string // address of its own NATS
	data string

	server   *natsServer // in the place of its own; nil: none
	postgres *postgres
}

func oneProcess(t *testing.T, env []string, dir string) deployment {
	return oneProcessOn(t, nil, env, dir)
}

// oneProcessOn is oneProcess with a NATS server of the test's, unless that is nil.
func oneProcessOn(t *testing.T, server *natsServer, env []string, dir string) *single {
	s := &single{t: t, own: freeAddress(t), data: filepath.Join(dir, "data"), server: server}
	s.postgres = &postgres{t: t, dir: filepath.Join(s.data, "postgres"), kept: true}
	if server != nil {
		env = append(slices.Clip(env), "NATS_URL="+server.via("picket up"))
	}
	s.proc = newProcess(t, "picket up", "picket",
		[]string{"up", "--data-dir", s.data, "--nats-listen", s.own, "--http-listen", "127.0.0.1:0"}, environment(env...))
	return s
}

var (
	httpLine  = regexp.MustCompile(`^\s+API\s+(http://[^/\s]+)/docs`)
	adminLine = regexp.MustCompile(`"admin":"([^"]+)"`)
	apiLine   = regexp.MustCompile(`"msg":"answering".*"address":"([^"]+)"`)
)

func (s *single) start() {
	s.t.Helper()
	if !s.proc.running() {
		s.proc.start()
	}
	eventually(s.t, "picket up is ready", func() error {
		select {
		case <-s.proc.exited:
			s.t.Fatalf("picket up ended: %v", s.proc.err)
		default:
		}
		address, ok := s.proc.find(httpLine)
		if !ok {
			return errors.New("has not said where it is")
		}
		return ready(s.t, address)
	})
}

func (s *single) parts() []string { return []string{"picket up"} }

func (s *single) kill(string) { s.proc.kill() }

func (s *single) natsURL() string {
	if s.server != nil {
		return s.server.url()
	}
	return "nats://" + s.own
}

func (s *single) nats() *natsServer { return s.server }

func (s *single) database() *postgres { return s.postgres }

func (s *single) databaseURL() string { return s.postgres.url() }

func (s *single) api() (address, token string) {
	address, ok := s.proc.find(httpLine)
	if !ok {
		s.t.Fatal("picket up has not said where it is")
	}
	text, err := os.ReadFile(filepath.Join(s.data, "admin-token"))
	if err != nil {
		s.t.Fatal(err)
	}
	return address, strings.TrimSpace(string(text))
}

// What a deployment of many processes is given, where picket up makes its own.
const (
	adminToken = "pk_systemtest_0123456789abcdefghijklmnopqrstuv"
	secretKey  = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)

// many is a process for each service.
type many struct {
	t        *testing.T
	dir      string
	shared   string // address of NATS, unless there is a server
	server   *natsServer
	dsn      string    // of the database, unless there is one to break
	postgres *postgres // behind a wire of its own
	env      []string
	stack    *stack.Stack // what deploy/ tells the services; nil: what is told here
	procs    map[string]*process
	// databaseWires are those to the database that one process has for itself.
	databaseWires map[string]*embeddedtest.Proxy
}

func manyProcesses(t *testing.T, env []string, dir string) *many {
	return newMany(&many{t: t, dir: dir, shared: embeddedtest.NATS(t), dsn: embeddedtest.Postgres(t).URL, env: env})
}

func newMany(m *many) *many {
	m.procs, m.databaseWires = map[string]*process{}, map[string]*embeddedtest.Proxy{}
	for _, service := range services() {
		m.add(service, service)
	}
	return m
}

// add makes another process of a service; start starts it.
func (m *many) add(name, service string) *process {
	if m.stack != nil {
		return m.addContainer(name, service)
	}
	nats := m.shared
	if m.server != nil {
		nats = m.server.via(name)
	}
	dsn := m.dsn
	if m.postgres != nil {
		dsn = m.postgres.serviceURL()
	}
	env := append([]string{
		"NATS_URL=" + nats, "DATABASE_URL=" + dsn, "PICKET_ADMIN_LISTEN=127.0.0.1:0", "PICKET_INSTANCE=" + name,
		"PICKET_API_LISTEN=127.0.0.1:0", "PICKET_ADMIN_TOKEN=" + adminToken, "PICKET_SECRET_KEY=" + secretKey,
		"PICKET_EXPORT_DIR=" + filepath.Join(m.dir, "exports"),
	}, m.env...)
	m.procs[name] = newProcess(m.t, name, service, nil, environment(env...))
	return m.procs[name]
}

func (m *many) start() {
	m.t.Helper()
	for _, p := range m.procs {
		if !p.running() {
			p.start()
		}
	}
	for name, p := range m.procs {
		eventually(m.t, name+" is ready", func() error {
			select {
			case <-p.exited:
				m.t.Fatalf("%s ended: %v", name, p.err)
			default:
			}
			address, ok := p.find(adminLine)
			if !ok {
				return errors.New("has not said where it is")
			}
			return ready(m.t, "http://"+address)
		})
	}
}

func (m *many) parts() []string { return services() }

func (m *many) kill(part string) { m.procs[part].kill() }

func (m *many) natsURL() string {
	if m.server != nil {
		return m.server.url()
	}
	return m.shared
}

func (m *many) nats() *natsServer { return m.server }

func (m *many) api() (address, token string) {
	address, ok := m.procs["api"].find(apiLine)
	if !ok {
		m.t.Fatal("the api has not said where it is")
	}
	return "http://" + address, m.token()
}

func (m *many) token() string {
	if m.stack != nil {
		return m.stack.Secrets["PICKET_ADMIN_TOKEN"]
	}
	return adminToken
}

func (m *many) database() *postgres { return m.postgres }

func (m *many) databaseURL() string {
	if m.postgres != nil {
		return m.postgres.url()
	}
	return m.dsn
}

func ready(t *testing.T, address string) error {
	t.Helper()
	return answers(t, address+"/readyz")
}

// answers wants a good answer.
func answers(t *testing.T, address string) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var reasons strings.Builder
		_ = response.Write(&reasons)
		return fmt.Errorf("not well: %s", reasons.String())
	}
	return nil
}

func connect(t *testing.T, d deployment) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Options{URL: d.natsURL(), Name: t.Name(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.WaitConnected(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func openStore(t *testing.T, d deployment) *store.Store {
	t.Helper()
	db, err := store.Open(context.Background(), store.Options{URL: d.databaseURL(), Log: slog.New(slog.DiscardHandler), MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// processes are all programs of a deployment, by name.
func processes(d deployment) map[string]*process {
	switch d := d.(type) {
	case *single:
		return map[string]*process{"picket up": d.proc}
	case *many:
		return d.procs
	default:
		return nil
	}
}

// refused reports whether any program has logged the place of a mistake.
func refused(d deployment, place string) bool {
	for _, p := range processes(d) {
		for _, line := range p.tail(1000) {
			if strings.Contains(line, place) {
				return true
			}
		}
	}
	return false
}
