package writer

import (
	"context"
	"strings"
	"time"

	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Picket's check on its own tables of months. Whoever registers Picket's own parts in the catalog registers it, as a
// reported check, under this name of a server; the writers find it there.
const (
	SelfServer     = "picket-database"
	PartitionCheck = "partition"

	// ReasonPartitionMissing is the reason of its critical result.
	ReasonPartitionMissing = "partition_missing"
)

// partitionsEvery is how often the months ahead are made.
const partitionsEvery = time.Hour

// keepPartitions makes the months ahead: at the start, each hour, and soon again after a failure. All writers do; the
// store lets one at a time.
func (s *Service) keepPartitions(ctx context.Context) {
	for {
		wait := partitionsEvery
		if err := s.store.EnsurePartitions(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Error("partitions not made", "err", err)
			wait = upkeepRetry
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// lookAtPartitions says whether the months are there.
func (s *Service) lookAtPartitions(ctx context.Context, now time.Time) verdict {
	partitions, err := s.store.Partitions(ctx, now)
	if err != nil {
		return verdict{picketv1.Status_STATUS_UNKNOWN, "database_unavailable", "the database could not be asked"}
	}
	absent := missing(partitions)
	s.metrics.missingPartitions.Set(float64(len(absent)))
	for _, name := range absent {
		s.log.Error("partition missing", "partition", name)
	}
	if len(absent) > 0 {
		return verdict{picketv1.Status_STATUS_CRITICAL, ReasonPartitionMissing, "missing " + strings.Join(absent, ", ")}
	}
	return verdict{status: picketv1.Status_STATUS_HEALTHY}
}

func missing(partitions []store.Partition) []string {
	var names []string
	for _, partition := range partitions {
		if !partition.Present {
			names = append(names, partition.Name)
		}
	}
	return names
}
