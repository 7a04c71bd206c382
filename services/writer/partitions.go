package writer

import (
	"context"
	"strings"
	"time"

	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Picket's checks on its database and on its tables of months. Whoever registers Picket's own parts in the catalog
// registers them, as reported checks, under this name of a server; the writers find them there.
const (
	SelfServer     = "picket-database"
	DatabaseCheck  = "health"
	PartitionCheck = "partition"

	// ReasonPartitionMissing is the reason of its critical result.
	ReasonPartitionMissing = "partition_missing"
)

// partitionsEvery is how often the months ahead are made.
const partitionsEvery = time.Hour

// databaseAnswers is how long the database may take to answer at all.
const databaseAnswers = 2 * time.Second

// keepPartitions makes the months ahead: at the start, each hour, and soon again after a failure. All writers do; the
// store lets one at a time.
func (s *Service) keepPartitions(ctx context.Context) {
	for {
		wait := partitionsEvery
		now, err := s.store.Now(ctx)
		if err == nil {
			err = s.store.EnsurePartitions(ctx, now)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("partitions not made", "err", err)
			wait = upkeepRetry
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// lookAtDatabase says whether the database answers. Where probers can reach it themselves they do, and this is not asked.
func (s *Service) lookAtDatabase(ctx context.Context, _ time.Time) verdict {
	ctx, cancel := context.WithTimeout(ctx, databaseAnswers)
	defer cancel()
	if err := s.store.Ping(ctx); err != nil {
		return verdict{picketv1.Status_STATUS_UNREACHABLE, "database_unavailable", "the database does not answer the writer"}
	}
	return verdict{status: picketv1.Status_STATUS_HEALTHY}
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
