package service

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	heartbeatEvery = time.Second
	enrollEvery    = 30 * time.Second
)

// Status is the part of a heartbeat that every service says of itself.
func (k *Kit) Status(now time.Time) *picketv1.WorkerStatus {
	status := &picketv1.WorkerStatus{
		Service:   k.Name,
		Instance:  k.Instance,
		Location:  k.Location,
		Running:   true,
		Ready:     true,
		SentAt:    timestamppb.New(now),
		StartedAt: timestamppb.New(k.Started),
		Version:   k.Version,
	}
	if err := k.Health.Ready(); err != nil {
		status.Ready = false
		status.LastError = err.Error()
	}
	return status
}

// Beat sends a heartbeat each second until ctx ends, and one that says goodbye
// then. fill adds what the service has to say, and may be nil. Services whose
// heartbeat proves something send their own: the prober's comes from the loop
// that releases its ticks.
func Beat(ctx context.Context, kit *Kit, conn *bus.Conn, fill func(*picketv1.WorkerStatus)) error {
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	var enrolled time.Time
	for {
		status := kit.Status(time.Now())
		if fill != nil {
			fill(status)
		}
		if ctx.Err() != nil {
			status.Running = false
		}
		if err := conn.Heartbeat(status); err != nil && !errors.Is(err, bus.ErrDisconnected) {
			kit.Log.Warn("heartbeat not sent", "err", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if now := time.Now(); now.Sub(enrolled) >= enrollEvery && conn.Connected() {
			if _, err := conn.EnrollWorker(ctx, status, time.Now); err != nil && ctx.Err() == nil {
				kit.Log.Debug("roster not written", "err", err)
			}
			enrolled = now
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
