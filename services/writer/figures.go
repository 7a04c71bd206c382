package writer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// figuresLease is the right to say how the database is.
const figuresLease = "figures"

// sampleFigures publishes figures of the database and the fleet at every interval, from one writer at a time. They travel
// through the stream like anyone's, so that what is known while the database is away is stored when it is back.
func (s *Service) sampleFigures(ctx context.Context) {
	interval := s.config.FiguresInterval
	ttl := max(3*interval, 10*time.Second)
	// mine: this writer held the lease when the database was last there.
	mine := false
	for {
		now := time.Now()
		at := now.Truncate(interval).Add(interval)
		if !sleep(ctx, at.Sub(now)) {
			break
		}
		look, cancel := context.WithTimeout(ctx, max(interval, 2*time.Second))
		_, err := s.store.AcquireLease(look, figuresLease, s.kit.Instance, ttl)
		if err == nil || errors.Is(err, store.ErrLeaseLost) {
			mine = err == nil
		}
		if mine && ctx.Err() == nil {
			s.publishFigures(look, at)
		}
		cancel()
	}
	if mine {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishGrace)
		defer cancel()
		if lease, err := s.store.AcquireLease(last, figuresLease, s.kit.Instance, ttl); err == nil {
			_ = s.store.ReleaseLease(last, lease) // it runs out by itself
		}
	}
}

func (s *Service) publishFigures(ctx context.Context, at time.Time) {
	samples := s.look(ctx, at)
	// The look may have used up its time on a database that is away: that is just what has to be said.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, err := s.bus.Publish(ctx, bus.Message{
		Subject: bus.MetricSubject(selfOrg, s.kit.Location, bus.PlatformServer),
		ID:      fmt.Sprintf("platform/writer/%d", at.UnixMilli()),
		Time:    at,
		Payload: &picketv1.MetricBatch{
			Server: bus.PlatformServer, Samples: samples, ScheduledAt: timestamppb.New(at),
			Location: s.kit.Location, Org: selfOrg, Instance: s.kit.Instance,
		},
	})
	if err != nil {
		s.log.Debug("figures not published", "err", err)
	}
}

// look is a sample of everything; of a database that does not answer, that it does not.
func (s *Service) look(ctx context.Context, at time.Time) []*picketv1.Sample {
	figures, err := s.store.Figures(ctx, at)
	if err != nil {
		return []*picketv1.Sample{sample("postgres", "healthy", 0)}
	}
	samples := []*picketv1.Sample{
		sample("postgres", "healthy", 1),
		sample("postgres", "connections", float64(figures.Connections)),
		sample("postgres", "db_size_bytes", float64(figures.SizeBytes)),
		sample("platform", "devices_online", float64(figures.Online)),
		sample("platform", "devices_stale", float64(figures.Stale)),
		sample("platform", "alerts_open", float64(figures.Alerts["open"])),
		sample("platform", "alerts_pending", float64(figures.Alerts["pending"])),
		sample("platform", "alerts_acknowledged", float64(figures.Alerts["acknowledged"])),
		sample("platform", "deliveries_pending", float64(figures.Undelivered)),
	}
	for status, n := range figures.Servers {
		one := sample("platform", "servers", float64(n))
		one.Tags = map[string]string{"status": status}
		samples = append(samples, one)
	}
	for server, healthy := range figures.Healthy {
		value := 0.0
		if healthy {
			value = 1
		}
		samples = append(samples, sample(server, "healthy", value))
	}
	if partitions, err := s.store.Partitions(ctx, at); err == nil {
		samples = append(samples, sample("postgres", "partitions_missing", float64(len(missing(partitions)))))
	}
	return samples
}

func sample(service, name string, value float64) *picketv1.Sample {
	return &picketv1.Sample{Name: name, Value: value, Service: service}
}
