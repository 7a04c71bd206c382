package writer

import (
	"context"
	"strings"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Picket's check on its own history table. Whoever registers Picket's own parts in the catalog registers it, as a
// reported check, under this name of a server; the writers find it there.
const (
	SelfServer     = "picket-database"
	PartitionCheck = "partition"

	// ReasonPartitionMissing is the reason of its critical result.
	ReasonPartitionMissing = "partition_missing"
)

const (
	upkeepEvery = time.Hour
	upkeepRetry = 30 * time.Second
)

// keepPartitions makes the months ahead: at the start, each hour, and soon again after a failure. All writers do; the
// store lets one at a time.
func (s *Service) keepPartitions(ctx context.Context) {
	for {
		wait := upkeepEvery
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
	var missing []string
	for _, partition := range partitions {
		if !partition.Present {
			missing = append(missing, partition.Name)
		}
	}
	if len(missing) > 0 {
		return verdict{picketv1.Status_STATUS_CRITICAL, ReasonPartitionMissing, "missing " + strings.Join(missing, ", ")}
	}
	return verdict{status: picketv1.Status_STATUS_HEALTHY}
}
