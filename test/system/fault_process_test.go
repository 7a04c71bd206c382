package system_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"
	"time"
)

// with says that a deployment runs these processes.
func with(names ...string) func(deployment) bool {
	return func(d deployment) bool {
		procs := processes(d)
		return !slices.ContainsFunc(names, func(name string) bool { return procs[name] == nil })
	}
}

// and is for what several conditions must allow.
func and(conditions ...func(deployment) bool) func(deployment) bool {
	return func(d deployment) bool {
		return !slices.ContainsFunc(conditions, func(c func(deployment) bool) bool { return !c(d) })
	}
}

func wired(d deployment) bool { return d.nats() != nil }

// hang stops processes where they are until they are mended.
func hang(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		return hold(t, d, names...)
	}
}

// hold is hang at once.
func hold(t *testing.T, d deployment, names ...string) (mend func()) {
	t.Helper()
	mend = func() {
		for _, name := range names {
			processes(d)[name].signal(syscall.SIGCONT)
		}
	}
	for _, name := range names {
		processes(d)[name].signal(syscall.SIGSTOP)
	}
	t.Cleanup(mend) // nothing can be stopped that hangs
	return mend
}

// flap stops processes and lets them go on, every second, until they are mended.
func flap(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ticker := time.NewTicker(time.Second)
			defer ticker.Stop()
			for stopped := false; ; stopped = !stopped {
				signal := syscall.SIGSTOP
				if stopped {
					signal = syscall.SIGCONT
				}
				for _, name := range names {
					processes(d)[name].signal(signal)
				}
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return
				}
			}
		}()
		mend := func() {
			stop()
			<-ended
			for _, name := range names {
				processes(d)[name].signal(syscall.SIGCONT)
			}
		}
		t.Cleanup(mend)
		return mend
	}
}

// crash kills a process; it is started again when it is mended.
func crash(name string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		d.kill(name)
		return func() { revive(t, d, name) }
	}
}

// revive starts one process anew; unlike [deployment.start] it asks nothing of the others, which may hang.
func revive(t *testing.T, d deployment, name string) {
	t.Helper()
	p := processes(d)[name]
	began := len(p.tail(math.MaxInt))
	p.start()
	eventually(t, name+" is ready", func() error {
		for _, line := range p.tail(math.MaxInt)[began:] {
			if match := adminLine.FindStringSubmatch(line); match != nil {
				return ready(t, "http://"+match[1])
			}
		}
		return errors.New("has not said where it is")
	})
}

// retire has a process stop as its operator would have it.
func retire(name string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		if err := processes(d)[name].terminate(); err != nil {
			t.Errorf("%s asked to stop: %v", name, err)
		}
		return func() { revive(t, d, name) }
	}
}

// strand has nothing pass between processes and NATS, without a word to either side.
func strand(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		d.nats().stall(names...)
		return func() { d.nats().flow(names...) }
	}
}

// disconnect breaks the connections between processes and NATS, and lets none come up.
func disconnect(names ...string) func(t *testing.T, d deployment) (mend func()) {
	return func(t *testing.T, d deployment) func() {
		t.Helper()
		d.nats().stall(names...)
		d.nats().cut(names...)
		return func() { d.nats().flow(names...) }
	}
}

// rest lets time pass.
func rest(t *testing.T, d time.Duration) {
	t.Helper()
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
