package system_test

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/test/deploy/stack"
)

// onStack is a process for each service as deploy/compose.yaml configures it: with its users of NATS and their permissions,
// its roles of the database, and its object store where there is one. The settings of a scenario are what an operator writes
// into deploy/.env, its picket.yaml stands where deploy/config is mounted.
func onStack(t *testing.T, env []string, dir string) *many {
	t.Helper()
	settings := slices.DeleteFunc(slices.Clone(env), func(setting string) bool { return strings.HasPrefix(setting, "PICKET_CONFIG=") })
	if len(settings) == len(env) {
		writeFile(t, filepath.Join(dir, "picket.yaml"), "servers: []\n")
	} else if !slices.Contains(env, "PICKET_CONFIG="+filepath.Join(dir, "picket.yaml")) {
		t.Fatalf("the stack mounts %s, and the scenario's file is elsewhere", dir)
	}
	s := stack.New(t, stack.Options{Program: built(t), Settings: settings, Config: dir})
	m := &many{t: t, dir: dir, stack: s}
	m.postgres = startPostgresWith(t, s.DatabaseOptions())
	s.Place("timescaledb:5432", m.postgres.proxy.Addr())
	s.RunOnce("database-roles")
	m.server = stackNATS(t, s)
	if why, missing := s.Missing["s3"]; missing {
		t.Log("NO S3 SERVER: ", why)
	} else {
		startObjects(t, s)
	}
	return newMany(m)
}

// built returns where the programs of the stack are: what TestMain has built, and the NATS server.
func built(t *testing.T) func(importPath string) string {
	t.Helper()
	return func(importPath string) string {
		if importPath != stack.NATSServer {
			return filepath.Join(programs, path.Base(importPath))
		}
		program, err := natsProgram()
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
}

// stackNATS is the server with the file of deploy/nats. The test is its admin: nobody else may follow whole streams but who
// works on them.
func stackNATS(t *testing.T, s *stack.Stack) *natsServer {
	t.Helper()
	command := s.Command("nats", 0, nil)
	server := &natsServer{
		t: t, address: s.Address("nats:4222"), monitor: s.Address("nats:8222"), dir: s.Volume("nats"),
		user:      url.UserPassword("admin", s.Secrets["PICKET_NATS_ADMIN_PASSWORD"]),
		proc:      newProcess(t, "nats-server", command.Path, nil, command.Env),
		proxies:   map[string]*embeddedtest.Proxy{},
		configure: func(server *natsServer) { server.proc.args = stackNATSArgs(t, server, command.Args) },
	}
	server.start()
	t.Cleanup(server.thaw) // or it could not be stopped
	return server
}

var (
	jetStreamBlock   = regexp.MustCompile(`(?ms)^jetstream \{.*?^\}$`)
	jetStreamAccount = regexp.MustCompile(`(?m)^\s+jetstream: enabled$`)
	storeBound       = regexp.MustCompile(`max_file_store: \S+`)
)

// stackNATSArgs are the server's arguments, with what a fault changes; its file is that of deploy/ unless a fault wants
// another.
func stackNATSArgs(t *testing.T, server *natsServer, args []string) []string {
	t.Helper()
	args = slices.Clone(args)
	file := &args[slices.Index(args, "-c")+1]
	args[slices.Index(args, "--store_dir")+1] = server.dir
	if server.settings == (natsSettings{}) {
		return args
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		t.Fatal(err)
	}
	if server.settings.withoutJetStream {
		text = jetStreamAccount.ReplaceAll(jetStreamBlock.ReplaceAll(text, nil), nil)
		args = slices.Delete(args, slices.Index(args, "--store_dir"), slices.Index(args, "--store_dir")+2)
		file = &args[slices.Index(args, "-c")+1]
	}
	if server.settings.maxStore > 0 {
		text = storeBound.ReplaceAll(text, fmt.Appendf(nil, "max_file_store: %d", server.settings.maxStore))
	}
	*file = filepath.Join(t.TempDir(), "nats.conf")
	writeFile(t, *file, string(text))
	return args
}

func startObjects(t *testing.T, s *stack.Stack) {
	t.Helper()
	command := s.Command("s3", 0, nil)
	p := newProcess(t, "s3", command.Path, command.Args, command.Env)
	p.start()
	p.killed = true // its exit code says how it was stopped, and nothing else
	eventually(t, "the object store is healthy", func() error {
		select {
		case <-p.exited:
			t.Fatalf("the object store ended: %v", p.err)
		default:
		}
		return answers(t, "http://"+s.Address("s3:9000")+"/health")
	})
}

// databaseOver gives a process the database at the end of another wire, as the user that it is.
func (m *many) databaseOver(name, wire string) {
	m.t.Helper()
	p := m.procs[name]
	for _, setting := range slices.Backward(p.env) {
		address, ok := strings.CutPrefix(setting, "DATABASE_URL=")
		if !ok {
			continue
		}
		u, err := url.Parse(address)
		if err != nil {
			m.t.Fatal(err)
		}
		u.Host = wire
		p.env = append(p.env, "DATABASE_URL="+u.String())
		return
	}
	m.t.Fatalf("%s knows no database", name)
}

// addContainer makes a container of a service, with a host name of its own.
func (m *many) addContainer(name, service string) *process {
	m.t.Helper()
	replica := 0
	if name != service {
		replica = 1 // or any other: it does not listen where the file says
	}
	wire, err := url.Parse(m.server.via(name))
	if err != nil {
		m.t.Fatal(err)
	}
	command := m.stack.Command(service, replica, map[string]string{"nats:4222": wire.Host})
	m.procs[name] = newProcess(m.t, name, command.Path, command.Args, append(command.Env, "PICKET_INSTANCE="+name))
	return m.procs[name]
}
