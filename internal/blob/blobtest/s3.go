package blobtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/blob"
)

const (
	programVariable = "PICKET_VERSITYGW"
	healthPath      = "/picket-is-it-up"
	startTimeout    = 30 * time.Second
	startTries      = 5
)

// Server is an S3 server of one test.
type Server struct {
	// Config opens its bucket, which is made by the first Ping or Create.
	Config blob.Config

	process *exec.Cmd
	alive   *os.File // closed by whatever ends this process, too
	output  *output
	exited  chan struct{}
}

// S3 starts a server that ends with the test, or skips the test where the program has not been built (`make test` builds
// it) and $PICKET_VERSITYGW does not name it.
func S3(t testing.TB) *Server {
	t.Helper()
	program := findProgram(t)
	config := blob.DefaultConfig()
	config.AccessKey, config.SecretKey = rand.Text(), rand.Text()
	data := dataDir(t)
	var err error
	for range startTries { // a port that was free may be somebody's by the time the server wants it
		var server *Server
		if server, err = start(t.Context(), program, data, config); err == nil {
			t.Cleanup(func() { server.stop(t) })
			return server
		}
	}
	t.Fatal(err)
	return nil
}

func findProgram(t testing.TB) string {
	t.Helper()
	if program := os.Getenv(programVariable); program != "" {
		return program
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err != nil {
			continue
		}
		program := filepath.Join(dir, ".bin", "versitygw")
		if _, err := os.Stat(program); err == nil {
			return program
		}
		break
	}
	t.Skip("NO S3 SERVER: `make .bin/versitygw` builds one; nothing about the object store is tested without it")
	return ""
}

// dataDir makes the directories of buckets and metadata. The metadata has its own because not every file system has
// extended attributes, where versitygw would keep it.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"buckets", "metadata"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// dieTogether runs a program that does not outlive us: beside it waits a process of its group for the end of a pipe whose
// other end is ours alone.
const dieTogether = `{ cat <&3; kill -9 -$$; } >/dev/null 2>&1 & exec "$0" "$@" 3<&-`

func start(ctx context.Context, program, data string, config blob.Config) (*Server, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	config.Endpoint = "http://" + address
	held, alive, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer held.Close()
	// The test's context ends before its Cleanup, which stops the server and looks how it ended.
	process := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", dieTogether, program,
		"--port", address, "--quiet", "--health", healthPath,
		"posix", "--sidecar", filepath.Join(data, "metadata"), filepath.Join(data, "buckets"))
	process.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+config.AccessKey, "ROOT_SECRET_KEY="+config.SecretKey)
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	process.ExtraFiles = []*os.File{held}
	server := &Server{Config: config, process: process, alive: alive, output: &output{}, exited: make(chan struct{})}
	process.Stdout, process.Stderr = server.output, server.output
	if err := process.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start S3 server: %w", err), alive.Close())
	}
	go func() {
		_ = process.Wait() // how it ended is in process.ProcessState
		close(server.exited)
	}()
	if err := server.ready(ctx); err != nil {
		server.kill()
		return nil, fmt.Errorf("start S3 server: %w\n%s", err, server.output)
	}
	return server, nil
}

func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-s.exited:
			return fmt.Errorf("it ended: %s", s.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("no answer after %v: %w", startTimeout, err)
		}
	}
}

// answers asks the server how it is.
func (s *Server) answers(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Config.Endpoint+healthPath, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func (s *Server) stop(t testing.TB) {
	select {
	case <-s.exited:
		t.Errorf("the S3 server ended by itself: %s\n%s", s.process.ProcessState, s.output)
	default:
	}
	s.kill()
}

// kill ends the server, for all it has is the test's.
func (s *Server) kill() {
	_ = s.process.Process.Kill()
	<-s.exited
	_ = s.alive.Close()
}

// Freeze stops the server so that it accepts and never answers, as one on a machine that swaps does.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for range 1000 { // the signal takes its time to reach all threads
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := s.answers(ctx)
		cancel()
		if err != nil {
			return
		}
		<-poll.C
	}
	t.Fatal("the S3 server answers although it was stopped")
}

// Thaw lets it go on.
func (s *Server) Thaw(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGCONT)
}

func (s *Server) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := s.process.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// output keeps what the server says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() < 1<<20 {
		o.text.Write(p)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
