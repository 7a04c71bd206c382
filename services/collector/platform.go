package collector

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// natsPart is the service that figures of the streams belong to.
const natsPart = "nats"

// watchPlatform looks at the streams at every whole interval of the clock until ctx ends.
//
// Every replica looks, and all publish under the identity of that instant, of which the stream keeps one and the store
// no second. So nobody need be chosen, no figure is missing when a replica dies, and the price is a dozen small requests
// an interval for each.
func (s *Service) watchPlatform(ctx context.Context) {
	failing := false
	for {
		at := time.Now().Truncate(s.cfg.PlatformInterval).Add(s.cfg.PlatformInterval)
		if !sleep(ctx, time.Until(at)) {
			return
		}
		err := s.lookAtPlatform(ctx, at)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.metrics.platformFailures.Inc()
			if !failing {
				// Once: that NATS is away everybody says already.
				s.log.Warn("platform not measured", "err", err)
			}
		}
		failing = err != nil
		s.kit.Health.SetDegraded("platform", err)
	}
}

func (s *Service) lookAtPlatform(ctx context.Context, at time.Time) error {
	// What is not there before the next look is of no use.
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PlatformInterval)
	defer cancel()
	states, err := s.conn.StreamStates(ctx)
	if err != nil {
		return fmt.Errorf("look at the platform: %w", err)
	}
	batch := &picketv1.MetricBatch{
		Server: bus.PlatformServer, Org: catalog.DefaultOrg, Location: s.kit.Location, Instance: s.kit.Instance,
		ScheduledAt: timestamppb.New(at), Samples: streamSamples(states),
	}
	_, err = s.conn.Publish(ctx, bus.Message{
		Subject: bus.MetricSubject(catalog.DefaultOrg, s.kit.Location, bus.PlatformServer),
		ID:      "platform/" + s.kit.Name + "/" + strconv.FormatInt(at.UnixMilli(), 10),
		Time:    at, Payload: batch,
	})
	if err != nil {
		return fmt.Errorf("look at the platform: %w", err)
	}
	s.metrics.platformSamples.Add(float64(len(batch.GetSamples())))
	return nil
}

// streamSamples are the figures of the streams, by the names that docs/metrics.md explains; those of the source system
// where it had them.
func streamSamples(states []bus.StreamState) []*picketv1.Sample {
	samples := []*picketv1.Sample{{Name: "healthy", Value: 1, Service: natsPart}}
	for _, stream := range states {
		tags := map[string]string{"stream": stream.Name}
		for _, figure := range []struct {
			name  string
			value float64
		}{
			{"stream_messages", float64(stream.Messages)},
			{"stream_bytes", float64(stream.Bytes)},
			{"stream_bytes_limit", float64(stream.MaxBytes)},
			{"stream_first_sequence", float64(stream.FirstSeq)},
			{"stream_last_sequence", float64(stream.LastSeq)},
		} {
			samples = append(samples, &picketv1.Sample{Name: figure.name, Value: figure.value, Service: natsPart, Tags: tags})
		}
		for _, consumer := range stream.Consumers {
			tags := map[string]string{"stream": stream.Name, "consumer": consumer.Name}
			for _, figure := range []struct {
				name  string
				value float64
			}{
				{"queue_depth", float64(consumer.Pending)},
				{"ack_pending", float64(consumer.AckPending)},
				{"redelivered", float64(consumer.Redelivered)},
			} {
				samples = append(samples, &picketv1.Sample{Name: figure.name, Value: figure.value, Service: natsPart, Tags: tags})
			}
		}
	}
	return samples
}
