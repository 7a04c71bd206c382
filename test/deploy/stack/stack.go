package stack

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// NATSServer is the import path of the server that plays the image nats: as its own project builds it, in the version that
// the services are tested with.
const NATSServer = "github.com/nats-io/nats-server/v2"

// Options says what of a stack is not as the file says.
type Options struct {
	// Program returns the path of a program that was built from an import path. Required.
	Program func(importPath string) string
	// Settings, as NAME=value, are what an operator adds to deploy/.env. What the file does not read from there is told to
	// every service of ours, as by an override file.
	Settings []string
	// Config is a directory in the place of deploy/config; empty: a copy of that, with this machine's addresses.
	Config string
	// Servers is added to every file of that copy.
	Servers string
}

// Stack is the file, with secrets and places of its own. It starts nothing by itself, and is not safe for concurrent use.
type Stack struct {
	// Project is the file as docker compose reads it.
	Project *types.Project
	// Secrets is what deploy/secrets made.
	Secrets map[string]string
	// Missing are the services of the file that nothing here can play, and why.
	Missing map[string]string

	t         testing.TB
	opts      Options
	root, dir string
	addresses map[string]string // host:port of the file → where that is here
	path      string            // PATH of what runs
	s3        string            // the S3 server's program; empty: none
	owned     []string          // settings that the file does not read
}

// New reads the file and gives everything in it a place.
func New(t testing.TB, opts Options) *Stack {
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
	s := &Stack{
		t: t, opts: opts, root: Root(t), dir: dir, addresses: map[string]string{}, Missing: map[string]string{}, path: os.Getenv("PATH"),
	}
	env := filepath.Join(dir, ".env")
	s.Secrets = Secrets(t, env)
	s.settle(env)
	if s.Project, err = Load(s.root, env); err != nil {
		t.Fatal(err)
	}
	s.findS3()
	s.place()
	if opts.Config == "" {
		s.copyConfig()
	}
	return s
}

// settle adds the settings to the file of secrets, and remembers those that compose.yaml does not read.
func (s *Stack) settle(env string) {
	s.t.Helper()
	compose, err := os.ReadFile(filepath.Join(s.root, "deploy", "compose.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := os.OpenFile(env, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	for _, setting := range s.opts.Settings {
		name, value, _ := strings.Cut(setting, "=")
		if !regexp.MustCompile(`\$\{` + regexp.QuoteMeta(name) + `[:}]`).Match(compose) {
			s.owned = append(s.owned, setting)
			continue
		}
		if _, err := fmt.Fprintf(file, "%s='%s'\n", name, value); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *Stack) findS3() {
	program, err := exec.LookPath("versitygw")
	if own := filepath.Join(s.root, ".bin", "versitygw"); err != nil && exists(own) {
		program, err = own, nil
	}
	if err != nil {
		s.Missing["s3"] = "versitygw is not installed (make .bin/versitygw builds it): exports go to a directory"
		return
	}
	s.s3 = program
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// place gives every host:port of the file a free address here.
func (s *Stack) place() {
	for name, service := range s.Project.Services {
		ports := slices.Clone([]string(service.Expose))
		for _, port := range service.Ports {
			ports = append(ports, strconv.FormatUint(uint64(port.Target), 10))
		}
		for _, port := range ports {
			s.addresses[name+":"+port] = FreeAddress(s.t)
		}
	}
	s.addresses["nats:8222"] = FreeAddress(s.t) // for its own health check only
}

// FreeAddress is an address of loopback that nobody listens on, outside of the ports from which systems choose for what
// connects out: it stays free while the program that has it is started anew. Nobody else is given it before the test ends,
// tests of other processes included: each port has a file that is locked.
func FreeAddress(t testing.TB) string {
	t.Helper()
	locks := filepath.Join(os.TempDir(), "pkt-ports")
	if err := os.MkdirAll(locks, 0o777); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000)) //nolint:gosec // which port does not matter
		lock, err := os.OpenFile(filepath.Join(locks, port), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			continue // another user's
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			if listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+port); err == nil {
				listener.Close()
				t.Cleanup(func() { lock.Close() })
				return "127.0.0.1:" + port
			}
		}
		lock.Close()
	}
	t.Fatal("no free port")
	return ""
}

// Address says where host:port of the file is here.
func (s *Stack) Address(place string) string {
	s.t.Helper()
	address := s.addresses[place]
	if address == "" {
		s.t.Fatalf("the file has no %s", place)
	}
	return address
}

// Place says that host:port of the file is to be found there.
func (s *Stack) Place(place, address string) { s.addresses[place] = address }

// NATSURL is the NATS server, for one of its users.
func (s *Stack) NATSURL(user string) string {
	return s.with("nats", user, s.Secrets["PICKET_NATS_"+strings.ToUpper(user)+"_PASSWORD"], s.Address("nats:4222")).String()
}

func (s *Stack) with(scheme, user, password, host string) *url.URL {
	return &url.URL{Scheme: scheme, User: url.UserPassword(user, password), Host: host}
}

// DatabaseURL is the database, for one of its roles.
func (s *Stack) DatabaseURL(role, password string) string {
	u := s.with("postgres", role, password, s.Address("timescaledb:5432"))
	u.Path, u.RawQuery = "/picket", "sslmode=disable"
	return u.String()
}

// copyConfig copies deploy/config with this machine's addresses, and adds servers.
func (s *Stack) copyConfig() {
	s.t.Helper()
	source := filepath.Join(s.root, "deploy", "config")
	s.opts.Config = filepath.Join(s.dir, "config")
	if err := os.Mkdir(s.opts.Config, 0o755); err != nil {
		s.t.Fatal(err)
	}
	files := os.DirFS(source)
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		text := s.translate(string(content), nil) + s.opts.Servers
		return os.WriteFile(filepath.Join(s.opts.Config, entry.Name()), []byte(text), 0o644)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}
