package exporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	relayBatch = 200
	// relayEvery is how soon the outbox is looked at when no notification came.
	relayEvery = 5 * time.Second
	relayRetry = time.Second
)

// relay publishes what the outbox holds, work items and events, as soon as it is there. All exporters do; the store lets one
// at a time.
func (s *Service) relay(ctx context.Context) {
	wake := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.store.Listen(ctx, store.ChannelExports, func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	})
	group.Go(func() error {
		for ctx.Err() == nil {
			wait := relayEvery
			n, err := s.store.RelayExports(ctx, relayBatch, s.publish)
			switch {
			case err != nil && ctx.Err() == nil:
				if !errors.Is(err, bus.ErrDisconnected) {
					s.log.Warn("events of exports not published, trying again", "err", err)
				}
				wait = relayRetry
			case n == relayBatch:
				continue
			}
			timer := time.NewTimer(wait)
			select {
			case <-wake:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
		return nil
	})
	_ = group.Wait() // neither returns an error
}

// publish sends rows of the outbox in order. The identity of each is its own, so that sending again does no harm.
func (s *Service) publish(ctx context.Context, rows []store.ExportOutbox) error {
	messages := make([]bus.Message, len(rows))
	for i, row := range rows {
		id := row.ExportID.String()
		if row.Phase == store.ExportPhaseWork {
			messages[i] = bus.Message{
				Subject: bus.WorkSubject(bus.WorkExport), ID: fmt.Sprintf("work/%s/%d", id, row.Work), Time: row.At,
				Payload: &picketv1.ExportWork{ExportId: id, Org: row.Org},
			}
			continue
		}
		messages[i] = bus.Message{
			Subject: bus.ExportSubject(row.Org, row.Phase, id), ID: fmt.Sprintf("export/%s/%d", id, row.ID), Time: row.At,
			Payload: &picketv1.ExportEvent{
				Phase: row.Phase, ExportId: id, Org: row.Org, Type: row.Type, Format: row.Format, Rows: row.Rows, Bytes: row.Bytes,
				Sha256: row.SHA256, Key: row.Key, Error: row.Error, Attempt: int32(row.Attempt),
				At: timestamppb.New(row.At),
			},
		}
	}
	return s.bus.PublishAll(ctx, messages)
}
