package system_test

import (
	"bufio"
	"errors"
	"io"
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
)

// process is one program under test.
type process struct {
	t       *testing.T
	name    string
	program string
	args    []string
	env     []string

	cmd    *exec.Cmd
	exited chan struct{}
	err    error
	killed bool // by the test, and not started since

	mu    sync.Mutex
	lines []string
}

// environment is what every program is given besides its own: nothing of the
// person who runs the tests but what makes programs start.
func environment(own ...string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "NO_COLOR=1", "PICKET_LOG_FORMAT=json", "LOG_LEVEL=INFO"}
	if bin := os.Getenv("PICKET_POSTGRES_BIN"); bin != "" {
		env = append(env, "PICKET_POSTGRES_BIN="+bin)
	}
	return append(env, own...)
}

func newProcess(t *testing.T, name, program string, args, env []string) *process {
	t.Helper()
	if !filepath.IsAbs(program) {
		program = filepath.Join(programs, program)
	}
	p := &process{t: t, name: name, program: program, args: args, env: env}
	t.Cleanup(func() {
		if err := p.terminate(); err != nil && !p.killed {
			t.Errorf("%s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("last lines of %s:\n%s", name, strings.Join(p.tail(40), "\n"))
		}
	})
	return p
}

// running reports whether the program was started and has not ended.
func (p *process) running() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// start runs the program anew.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.program, p.args...)
	p.cmd.Env = p.env
	// A group of its own: a signal to the test does not stop what the test wants to stop itself.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, in, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	in.Close()
	p.exited, p.killed = make(chan struct{}), false
	read := make(chan struct{})
	go func() { defer close(read); p.read(out) }()
	go func(cmd *exec.Cmd, exited chan struct{}) {
		p.err = cmd.Wait()
		// What it left running may hold the pipe open; what it said itself is there.
		_ = out.SetReadDeadline(time.Now().Add(time.Second))
		<-read
		out.Close()
		close(exited)
	}(p.cmd, p.exited)
}

func (p *process) read(out io.Reader) {
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, scanner.Text())
		p.mu.Unlock()
	}
}

func (p *process) tail(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines[max(0, len(p.lines)-n):]...)
}

// find returns the first group of the newest line that matches.
func (p *process) find(pattern *regexp.Regexp) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range slices.Backward(p.lines) {
		if match := pattern.FindStringSubmatch(line); match != nil {
			return match[1], true
		}
	}
	return "", false
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
}

// kill ends the program as a power cut would end it, and waits until it is gone.
func (p *process) kill() {
	p.t.Helper()
	p.killed = true
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// terminate asks the program to stop and returns how it ended.
func (p *process) terminate() error {
	if p.cmd == nil {
		return nil
	}
	select {
	case <-p.exited:
		return p.err
	default:
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		p.kill()
		return errors.New("did not stop when asked to")
	}
}
