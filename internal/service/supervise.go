package service

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

const (
	restartWaitMin = 500 * time.Millisecond
	restartWaitMax = 30 * time.Second
	// steadyAfter is how long a run must have lasted for the next restart to be quick again.
	steadyAfter = time.Minute
)

// Supervise runs a service until ctx ends. When it fails or panics it is
// started again after a pause that doubles up to 30 s, its health says so
// meanwhile, and the other services of the process go on. It returns when the
// last run has ended.
func Supervise(ctx context.Context, kit *Kit, run func(ctx context.Context) error) {
	wait := restartWaitMin
	for ctx.Err() == nil {
		started := time.Now()
		kit.Health.Set("run", nil)
		err := runRecovered(ctx, run)
		if ctx.Err() != nil {
			if err != nil {
				kit.Log.Error("service stopped with an error", "err", err)
			}
			return
		}
		if err == nil {
			err = errors.New("returned early")
		}
		kit.Health.Set("run", fmt.Errorf("restarting: %w", err))
		if time.Since(started) > steadyAfter {
			wait = restartWaitMin
		}
		kit.Log.Error("service failed, restarting", "err", err, "wait", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, restartWaitMax)
	}
}

// runRecovered turns a panic into an error, so that one service can not take the others with it.
func runRecovered(ctx context.Context, run func(ctx context.Context) error) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
	}()
	return run(ctx)
}
