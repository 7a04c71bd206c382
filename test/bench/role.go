package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/picketd/picket/internal/store"
)

// roleVariable tells a child that it is one.
const roleVariable = "PICKET_BENCH_ROLE"

// spec is what a role is told, as one line of JSON on its standard input. It says by a line that it is ready, answers each
// further line with its figures, and ends when its input ends, so that none outlives its parent.
type spec struct {
	Role     string
	Dir      string
	Settings map[string]string // of PostgreSQL
	NATS     string
	URLs     []string
	Checks   []subject
	Servers  int
	Hanging  float64
	Keep     int
	Interval time.Duration
	Fresh    bool
	Profile  string
}

// subject is a check that results are made for.
type subject struct{ ID, Server string }

// question asks a role for its figures.
type question struct {
	// Collect has it collect its garbage before.
	Collect bool
}

// part is a role at work.
type part struct {
	ready   any
	figures func() any
	stop    func() error
}

// work is what the measured roles say.
type work struct {
	CPU   time.Duration
	Count int64 // of what was done
	RSS   uint64
	Heap  uint64 // in use
	At    time.Time
	Fault string // why it has ended
}

func roles() map[string]func(ctx context.Context, s spec) (part, error) {
	return map[string]func(context.Context, spec) (part, error){
		"nats": serveNATS, "postgres": servePostgres, "fleet": serveFleet,
		"bare": runBare, "publish": runPublish, "prober": runProber, "load": runLoad,
	}
}

// serveRole is the life of a child.
func serveRole(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	decoder, encoder := json.NewDecoder(in), json.NewEncoder(out)
	var s spec
	if err := decoder.Decode(&s); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	start, ok := roles()[s.Role]
	if !ok {
		return fmt.Errorf("unknown role %q", s.Role)
	}
	p, err := start(ctx, s)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Role, err)
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := encoder.Encode(p.ready); err != nil {
		return fmt.Errorf("%s: %w", s.Role, err)
	}
	for {
		var q question
		if err := decoder.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", s.Role, err)
		}
		if q.Collect {
			debug.FreeOSMemory()
		}
		if err := encoder.Encode(p.figures()); err != nil {
			return fmt.Errorf("%s: %w", s.Role, err)
		}
	}
}

// doing makes a part of something that runs until its context ends and counts what it does.
func doing(ctx context.Context, count func() int64, run func(ctx context.Context) error, finally ...func()) part {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return part{
		ready: struct{}{},
		figures: func() any {
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			w := work{CPU: cpu(), Count: count(), RSS: resident(), Heap: memory.HeapInuse, At: time.Now()}
			select {
			case err := <-ended:
				ended <- err
				w.Fault = fmt.Sprintf("it ended: %v", err)
			default:
			}
			return w
		},
		stop: func() error {
			cancel()
			err := <-ended
			for _, end := range finally {
				end()
			}
			return err
		},
	}
}

// child is a role in a process of its own.
type child struct {
	role    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	said    bytes.Buffer // on standard error
	started time.Time
}

// start starts a role; ready takes what it says then.
func (b *bench) start(ctx context.Context, s spec, ready any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	c := &child{role: s.Role, cmd: exec.CommandContext(ctx, self), started: time.Now()}
	c.cmd.Env = append(os.Environ(), roleVariable+"="+s.Role)
	c.cmd.Stderr = &c.said
	c.cmd.WaitDelay = 30 * time.Second
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Role, err)
	}
	c.cmd.Cancel = c.in.Close
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Role, err)
	}
	c.out = json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Role, err)
	}
	if err := errors.Join(json.NewEncoder(c.in).Encode(s), c.out.Decode(ready)); err != nil {
		c.stop()
		return nil, fmt.Errorf("start %s: %w: %s", s.Role, err, strings.TrimSpace(c.said.String()))
	}
	return c, nil
}

// ask reads the figures of a role.
func (c *child) ask(q question, figures any) error {
	if err := json.NewEncoder(c.in).Encode(q); err != nil {
		return fmt.Errorf("ask %s: %w", c.role, err)
	}
	if err := c.out.Decode(figures); err != nil {
		return fmt.Errorf("ask %s: %w", c.role, err)
	}
	return nil
}

// work reads the figures of a role that is measured.
func (c *child) work() (w work, err error) {
	if err = c.ask(question{}, &w); err == nil && w.Fault != "" {
		err = fmt.Errorf("%s: %s", c.role, w.Fault)
	}
	return w, err
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) stop() {
	_ = c.in.Close() // which is what tells it
	_ = c.cmd.Wait() // what it says at its end is of no use any more
}

// cost is what a role has used between two looks.
type cost struct {
	Micros float64 // CPU of one thing done
	Rate   float64 // a second
	RSS    uint64
}

// cost measures a role that is warm for a window.
func (b *bench) cost(ctx context.Context, c *child) (cost, error) {
	before, err := c.work()
	if err != nil {
		return cost{}, err
	}
	if err := wait(ctx, b.Window); err != nil {
		return cost{}, err
	}
	after, err := c.work()
	if err != nil {
		return cost{}, err
	}
	n := after.Count - before.Count
	if n == 0 {
		return cost{}, fmt.Errorf("%s did nothing in the time of the measurement", c.role)
	}
	return cost{
		Micros: float64((after.CPU - before.CPU).Microseconds()) / float64(n),
		Rate:   float64(n) / after.At.Sub(before.At).Seconds(), RSS: after.RSS,
	}, nil
}

// openStore opens the database of a role or program.
func openStore(ctx context.Context, url string) (*store.Store, error) {
	return store.Open(ctx, store.Options{URL: url, MaxConns: 2})
}
