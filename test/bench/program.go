package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// build builds a program of this repository, once.
func (b *bench) build(ctx context.Context, pkg string) (string, error) {
	if file := b.built[pkg]; file != "" {
		return file, nil
	}
	file := filepath.Join(b.dir, "bin", path.Base(pkg))
	out, err := exec.CommandContext(ctx, "go", "build", "-o", file, "github.com/picketd/picket/"+pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, strings.TrimSpace(string(out)))
	}
	b.built[pkg] = file
	return file, nil
}

// program is one that runs, ours or another's.
type program struct {
	name   string
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of its end, once exited is closed

	mu    sync.Mutex
	lines []string
}

// maxLines bounds what is kept of what a program says: its beginning.
const maxLines = 500

// launch starts a program that is given nothing of this process's environment but what programs need to start.
func (b *bench) launch(ctx context.Context, name, file string, arguments, environment []string) (*program, error) {
	p := &program{name: name, cmd: exec.CommandContext(ctx, file, arguments...), exited: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "NO_COLOR=1", "PICKET_LOG_FORMAT=json"}, environment...)
	if bin := os.Getenv("PICKET_POSTGRES_BIN"); bin != "" {
		p.cmd.Env = append(p.cmd.Env, "PICKET_POSTGRES_BIN="+bin)
	}
	p.cmd.Dir = b.dir
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 30 * time.Second
	out, in := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = in, in
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.read(out)
	go func() {
		p.err = p.cmd.Wait()
		_ = in.Close() // the end of what it said; closing a pipe in memory cannot fail
		close(p.exited)
	}()
	return p, nil
}

func (p *program) read(out io.Reader) {
	for reader := bufio.NewReader(out); ; {
		line, err := reader.ReadString('\n')
		p.mu.Lock()
		if line != "" && len(p.lines) < maxLines {
			p.lines = append(p.lines, strings.TrimSpace(line))
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// said waits for a line that matches.
func (p *program) said(ctx context.Context, pattern *regexp.Regexp, patience time.Duration) error {
	err := until(ctx, p.name+" has said where it is", patience, func() (bool, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if slices.ContainsFunc(p.lines, pattern.MatchString) {
			return true, nil
		}
		return false, p.ended()
	})
	return p.explain(err)
}

// explain adds to an error what the program has said last.
func (p *program) explain(err error) error {
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%w\n%s said:\n%s", err, p.name, strings.Join(p.lines[max(0, len(p.lines)-20):], "\n"))
}

// ended is an error when the program has ended, which none of them should before it is told.
func (p *program) ended() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended: %w", p.name, p.err)
	default:
		return nil
	}
}

func (p *program) pid() int { return p.cmd.Process.Pid }

func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// freeAddress is one to listen on.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// write puts a file into the run's directory and returns its path.
func (b *bench) write(name, content string) (string, error) {
	file := filepath.Join(b.dir, name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil { // targets on loopback are no secret
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return file, nil
}

// catalogFile is the picket.yaml of a fleet.
func (b *bench) catalogFile(name string, urls []string, interval time.Duration, fresh bool) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "defaults:\n  interval: %s\nservers:\n", interval)
	for i, url := range urls {
		fmt.Fprintf(&text, "  - name: %s\n", serverName(i))
		if fresh {
			fmt.Fprintf(&text, "    checks: [{name: health, connection: fresh, url: %q}]\n", url)
		} else {
			fmt.Fprintf(&text, "    url: %s\n", url)
		}
	}
	return b.write(name, text.String())
}
